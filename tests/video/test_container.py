"""Files that are no videos, and say why."""

from pathlib import Path

import av
import numpy as np
import pytest

from autogaze.errors import VideoError
from autogaze.video.container import open_container
from autogaze.video.reader import Video


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_not_a_video(folder):
    cases = {
        folder: "is a folder",
        folder / "nothing.mp4": "no such file",
        write(folder / "empty.mp4", b""): "is empty",
        write(folder / "noise.mp4", bytes(range(256)) * 20): "not a video",
        write(folder / "text.txt", b"hello\n" * 50): "not a video",
    }
    for path, cause in cases.items():
        with pytest.raises(VideoError, match=cause) as caught:
            Video(path)
        assert str(path) in str(caught.value)


def test_sound_only_and_subtitles_have_no_video_stream(folder):
    path = folder / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"sound\.wav: no video stream.*\baudio\b"):
        Video(path)


def test_unreadable_folder_is_no_container(folder):
    with pytest.raises(VideoError):
        open_container(folder)
