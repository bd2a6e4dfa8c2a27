"""The clips of `bench quality`: which they are, and where they are cut."""

import pytest
import torch

from autogaze.errors import VideoError
from autogaze.evaluation.quality.clips import ClipFiles, plan_clips, read_batch
from tests.clips import make_video
from tests.datasets.pictures import make_pictures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("a", "b"):
        (folder / "videos" / "val").mkdir(parents=True, exist_ok=True)
        make_video(folder / "videos" / "val" / f"{name}.mp4", 33)
    make_pictures(folder / "photos" / "val", 3)
    return ClipFiles.of_root(folder, "val")


def test_every_source_gives_one_clip_before_any_gives_two(files):
    clips = plan_clips(files, per_kind=5, side=64)
    kinds = [clip.kind for clip in clips]
    # Two windows of 16 lie in 33 frames.
    assert (kinds.count("static"), kinds.count("moving"), kinds.count("composed")) == (4, 5, 5)
    for kind, sources in (("static", 2), ("moving", 3), ("composed", 3)):
        first = [clip.source for clip in clips if clip.kind == kind][:sources]
        assert len(set(first)) == sources
    assert len({clip.name for clip in clips}) == len(clips)
    moving, composed = ([c.source for c in clips if c.kind == k] for k in ("moving", "composed"))
    assert moving == composed


def test_clips_follow_from_the_seed(files):
    once, again, other = (plan_clips(files, per_kind=3, side=64, seed=s) for s in (0, 0, 1))
    assert [clip.name for clip in once] == [clip.name for clip in again]
    assert torch.equal(read_batch(once).frames, read_batch(again).frames)
    assert not torch.equal(read_batch(once).frames, read_batch(other).frames)


def test_static_clips_are_cut_where_their_names_say(files):
    clips = [c for c in plan_clips(files, per_kind=4, side=64) if c.kind == "static"]
    first = next(clip for clip in clips if "#" not in clip.name)
    later = next(clip for clip in clips if clip.source == first.source and clip is not first)
    assert later.name == f"{first.source}#16"
    assert not torch.equal(first.read(), later.read())
    assert first.read().shape == (16, 3, 64, 64)


def test_places_without_anything_are_refused(tmp_path, files):
    with pytest.raises(VideoError, match="no such file"):
        ClipFiles.of_paths([tmp_path / "nowhere"])
    with pytest.raises(VideoError, match="no videos"):
        ClipFiles.of_paths([tmp_path])
    with pytest.raises(VideoError, match=r"has no folders .*/val"):
        ClipFiles.of_root(tmp_path, "val")
    with pytest.raises(VideoError, match="expected pictures"):
        ClipFiles.of_paths(photographs=[files.videos[0]])
