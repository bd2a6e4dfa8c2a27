"""Videos beside an overlay: the source, and the chosen patches of every scale."""

import av
import numpy as np
import pytest

from autogaze.rendering import ScalesVideo, SourceVideo
from autogaze.rendering.painter import PANEL
from tests.rendering.chunks import chunk


def drawn(kind, ids, tmp_path):
    rendering = kind(tmp_path / "out.mp4", 10, shortest=0)
    part = chunk(ids)
    rendering.size = (128, 64)
    rendering.prepare(part)
    return list(rendering.draw(part))


def test_the_source_is_shown_as_it_is(tmp_path):
    (picture,) = drawn(SourceVideo, [[[0]], [[]]], tmp_path)
    assert picture.shape == (64, 128, 3)
    assert (picture == 255).all()


def test_every_scale_has_its_picture(tmp_path):
    """White where a patch of the scale was chosen, else empty: here the coarse top left one."""
    (picture,) = drawn(ScalesVideo, [[[0]], [[]]], tmp_path)
    coarse, fine = picture[:32, :64], picture[:32, 72:]
    assert (coarse[:16, :16] == 255).all()
    assert (coarse[16:, 16:] == PANEL).all()
    assert (fine == np.array(PANEL)).all()


@pytest.mark.parametrize("kind", [SourceVideo, ScalesVideo])
def test_videos_are_written(kind, tmp_path):
    path = tmp_path / "out.mp4"
    with kind(path, 10) as rendering:
        rendering.add(chunk([[[0, 5], [4]], [[], [1]]]))
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2
