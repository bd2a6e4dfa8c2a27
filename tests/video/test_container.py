"""Files that are no videos, and say why."""

from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from autogaze.datasets.video_utils import read_video_pyav
from autogaze.errors import VideoError
from autogaze.video.container import OpenStream, open_container
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


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libx264", "libsvtav1"])
def test_no_decoder_is_freed_with_work_in_its_threads(codec, encode, tmp_path, monkeypatch):
    """PyAV would wait for the threads with Python's lock, for which they may wait."""
    options = {"svtav1-params": "lp=1", "preset": "12"} if codec == "libsvtav1" else {}
    path = encode(tmp_path / "file.mkv", codec=codec, g="6", **options)
    opened = []
    of = OpenStream.of

    def recorded(*args, **kwargs):
        opened.append(of(*args, **kwargs))
        opened[-1].decoder.thread_count = 4  # also where there are fewer cores
        return opened[-1]

    monkeypatch.setattr(OpenStream, "of", recorded)
    with OpenStream.open(path) as one:
        next(one.decode())
        assert one.decoder.decode(None)  # there is work left over
    video = Video(path)
    for start in (0, 1.2):
        frames = video.frames(start=start)
        next(frames)
        frames.close()
    with suppress(KeyError), OpenStream.open(path) as one:
        next(one.decode())
        raise KeyError
    with path.open("rb") as file, av.open(file) as container:
        read_video_pyav(container, [2])
    assert len(opened) >= 7
    for one in opened:
        assert one.decoder.decode(None) == []
