"""The writer: whole files or none."""

import av
import numpy as np
import pytest

from autogaze.errors import OutputError
from autogaze.video.reader import Video
from autogaze.video.writer import VideoWriter


def test_round_trip(folder, picture):
    path = folder / "written.mp4"
    with VideoWriter(path, 12.5, 64, 48) as writer:
        for number in range(10):
            writer.write(picture(number))
    video = Video(path)
    assert (video.info.codec, video.info.pixel_format) == ("h264", "yuv420p")
    assert video.info.fps == pytest.approx(12.5)
    assert video.info.num_frames == 10
    frames = list(video.frames())
    assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(10) / 12.5, abs=1e-4)
    for frame in frames:
        assert np.abs(frame.pixels.astype(int) - picture(frame.index)).mean() < 6


def test_odd_sizes_are_padded(folder, picture):
    path = folder / "odd_written.mp4"
    frame = picture(0)[:47, :63]
    with VideoWriter(path, 10.0, 63, 47) as writer:
        writer.write(frame)
    pixels = next(Video(path).frames()).pixels
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[:47, :63].astype(int) - frame).mean() < 6


def test_variable_rate_keeps_time(folder, picture):
    path = folder / "variable_written.mp4"
    times = [0.0, 0.04, 0.5, 0.52, 3.0]
    with VideoWriter(path, 25.0, 64, 48) as writer:
        for number, timestamp in enumerate(times):
            writer.write(picture(number), timestamp)
        with pytest.raises(OutputError, match=r"3\.0 s cannot follow one at 3 s"):
            writer.write(picture(5), 3.0)
        with pytest.raises(OutputError, match="at least 0"):
            writer.write(picture(5), float("nan"))
    stamps = [frame.timestamp for frame in Video(path).frames()]
    assert stamps == pytest.approx(times, abs=1e-4)


@pytest.mark.parametrize(
    "times", [[0.0, 0.1, 0.5, 0.6, 3.0, 3.1], [5.0, 5.01, 5.5, 5.51, 8.0, 8.001]]
)
def test_a_variable_rate_keeps_the_length(tmp_path, picture, times):
    """Players stop where the header says that the file ends; decoding times lie before display times."""
    path = tmp_path / "variable.mp4"
    with VideoWriter(path, 25.0, 64, 48) as writer:
        for number, timestamp in enumerate(times):
            writer.write(picture(number), timestamp, duration=0.2)
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        length = times[-1] - times[0] + 0.2
        assert float(stream.duration * stream.time_base) == pytest.approx(length, abs=1e-3)
        assert container.duration / 1e6 == pytest.approx(length, abs=1e-3)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_stays(tmp_path, picture, error):
    path = tmp_path / "out.mp4"
    with pytest.raises(error), VideoWriter(path, 10.0, 64, 48) as writer:  # noqa: PT012
        for number in range(5):
            writer.write(picture(number))
        raise error
    assert list(tmp_path.iterdir()) == []

    path.write_bytes(b"older")
    with pytest.raises(error), VideoWriter(path, 10.0, 64, 48) as writer:  # noqa: PT012
        writer.write(picture(0))
        raise error
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"older"


def test_bad_output(tmp_path, picture):
    with pytest.raises(OutputError, match="fps"):
        VideoWriter(tmp_path / "a.mp4", 0.0, 64, 48)
    with pytest.raises(OutputError, match="0 x 48"):
        VideoWriter(tmp_path / "a.mp4", 10.0, 0, 48)
    missing = tmp_path / "nowhere" / "a.mp4"
    with pytest.raises(OutputError, match="does not exist"), VideoWriter(missing, 10.0, 64, 48):
        pass
    path = tmp_path / "b.mp4"
    with pytest.raises(OutputError, match="no frame was written"), VideoWriter(path, 10.0, 64, 48):
        pass
    with (
        pytest.raises(OutputError, match=r"\buint8\b.*\(48, 64, 3\)"),
        VideoWriter(path, 10.0, 64, 48) as writer,
    ):
        writer.write(picture(0)[:40])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(tmp_path):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "big.mp4"
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with (  # noqa: PT012
            pytest.raises(OutputError, match=r"big\.mp4: cannot be written"),
            VideoWriter(path, 10.0, 256, 256) as writer,
        ):
            for _ in range(20):
                writer.write(noise.integers(0, 255, (256, 256, 3), dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
