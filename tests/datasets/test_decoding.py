"""PyAV and OpenCV show the same frames; who decodes is chosen openly."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from autogaze.datasets.decoding import OpenCVVideo, PyAVVideo, choose_decoder
from autogaze.errors import CorruptVideoError, MissingExtraError, TrainingError, VideoError
from tests.clips import make_video

NUM_FRAMES = 12
has_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="needs OpenCV")
decoders = pytest.mark.parametrize(
    "decoder", [PyAVVideo, pytest.param(OpenCVVideo, marks=has_opencv)]
)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "v.mp4", NUM_FRAMES)


@decoders
def test_frames_by_number(decoder, video):
    opened = decoder(video)
    assert opened.num_frames == NUM_FRAMES
    every = list(opened.frames())
    assert len(every) == NUM_FRAMES
    assert every[0].shape == (64, 96, 3)
    assert np.array_equal(list(opened.frames(3, 6)), every[3:7])
    assert len(list(opened.frames(10, 40))) == 2  # no more than there are
    with pytest.raises(VideoError, match=r"v\.mp4"):
        list(opened.frames(NUM_FRAMES))


@decoders
def test_what_is_no_video_is_refused(decoder, video, tmp_path):
    with pytest.raises(VideoError, match=r"none\.mp4"):
        list(decoder(tmp_path / "none.mp4").frames())
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        list(decoder(tmp_path / "text.mp4").frames())


@has_opencv
def test_both_decode_alike(video):
    ours, theirs = (np.stack(list(kind(video).frames())) for kind in (PyAVVideo, OpenCVVideo))
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < 0.5
    assert difference.max() <= 4


@has_opencv
def test_opencv_notices_frames_that_are_missing(video):
    opened = OpenCVVideo(video)
    opened._num_frames = NUM_FRAMES + 5
    with pytest.raises(CorruptVideoError, match="frame 12 of 17"):
        list(opened.frames())
    assert len(list(opened.frames(0, 3))) == 4  # what lies behind does no harm


def test_names_choose(video):
    assert isinstance(choose_decoder()(video), PyAVVideo)
    assert isinstance(choose_decoder("pyav")(video), PyAVVideo)
    with pytest.raises(TrainingError, match=r"torchcodec\b.*'ffmpeg'"):
        choose_decoder("ffmpeg")


@has_opencv
def test_opencv_steps_in_and_the_log_says_so(monkeypatch, caplog):
    assert choose_decoder("opencv") is OpenCVVideo
    assert not caplog.text
    monkeypatch.setitem(sys.modules, "av", None)
    with caplog.at_level("WARNING", logger="autogaze.datasets"):
        assert choose_decoder("auto") is OpenCVVideo
    assert "OpenCV decodes the videos" in caplog.text


def test_with_neither_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    for name in ("auto", "opencv"):
        with pytest.raises(MissingExtraError, match=r"autogaze\[opencv\]"):
            choose_decoder(name)
    with pytest.raises(TrainingError, match="PyAV cannot be imported"):
        choose_decoder("pyav")
