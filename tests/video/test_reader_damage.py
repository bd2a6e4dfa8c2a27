"""Broken files: every loss is noticed, named, and can be skipped."""

from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.reader import Video
from autogaze.video.structure import missing_bytes


@pytest.fixture(scope="module")
def noisy() -> list[np.ndarray]:
    """60 frames that do not compress well, so that the damage hits pictures."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 255, (48 // 4 + 20, 64 // 4 + 20, 3), dtype=np.uint8)
    base = base.repeat(4, axis=0).repeat(4, axis=1)
    return [np.ascontiguousarray(base[k : k + 48, k : k + 64]) for k in range(60)]


def overwrite(source, target, share, count=600):
    """A copy with `count` bytes of noise in it, that share of the way in."""
    data = bytearray(source.read_bytes())
    at = int(len(data) * share)
    data[at : at + count] = np.random.default_rng(1).bytes(count)
    target.write_bytes(data)
    return target


def shorten(source, target, share):
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


@pytest.mark.parametrize(
    ("name", "codec"),
    [("h.mp4", "libx264"), ("m.mp4", "mpeg4"), ("h.mkv", "libx264"), ("h.ts", "libx264"),
     ("m.avi", "mpeg4"), ("m.mpg", "mpeg2video")],
)  # fmt: skip
def test_corrupt_bytes_in_the_middle(folder, encode, noisy, name, codec):
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    whole = encode(folder / name, noisy, codec=codec, fps=25, g="12", container_options=options)
    intact = list(Video(whole).frames())
    assert len(intact) == 60
    video = Video(overwrite(whole, folder / f"bad_{name}", 0.5))
    given = []
    with pytest.raises(CorruptVideoError, match=r"frame \d+ ") as caught:
        given.extend(video.frames())
    assert f"frame {len(given)} " in str(caught.value)
    assert f"bad_{name}" in str(caught.value)

    frames = list(video.frames(skip_corrupt=True))
    assert video.num_corrupt > 0
    assert 20 < len(frames) < 60
    numbers = [frame.index for frame in frames]
    assert numbers == sorted(set(numbers))
    assert len(given) == len([frame for frame in frames if frame.index < len(given)])
    if name.endswith("mp4"):  # its index tells exactly what is missing
        assert len(frames) + video.num_corrupt == 60


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi", "cut.webm"])
def test_truncated_file(folder, encode, noisy, name):
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    codec = "libvpx" if name.endswith("webm") else "libx264"
    whole = encode(folder / name, noisy, codec=codec, g="12", container_options=options)
    assert missing_bytes(whole) == 0
    assert len(list(Video(whole).frames())) == 60
    path = shorten(whole, folder / f"short_{name}", 0.6)
    assert missing_bytes(path) == whole.stat().st_size - path.stat().st_size
    video = Video(path)
    with pytest.raises(CorruptVideoError, match=r"frame \d+.* bytes are missing"):
        list(video.frames())
    frames = list(video.frames(skip_corrupt=True))
    assert 10 < len(frames) < 60
    assert video.num_corrupt > 0
    if name.endswith("mp4"):
        assert len(frames) + video.num_corrupt == 60
    # What lies before the cut can be had without skipping anything.
    assert len(list(video.frames(last=9))) == 10


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("cut.gif", "gif", "rgb8"),
        ("cut.apng", "apng", "rgb24"),
        ("cut.flv", "libx264", "yuv420p"),
        ("cut.ivf", "libvpx", "yuv420p"),
        ("cut.ogv", "libvpx", "yuv420p"),
        ("cut.mjpeg", "mjpeg", "yuvj420p"),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_truncated_files_that_do_not_tell_their_length(
    folder, encode, noisy, name, codec, pixel_format, share
):
    whole = encode(folder / name, noisy, codec=codec, pixel_format=pixel_format, g="12")
    intact = list(Video(whole).frames())
    assert missing_bytes(whole) == 0
    video = Video(shorten(whole, folder / f"short{share}_{name}", share))
    given = []
    with pytest.raises(CorruptVideoError, match=r"frame \d+"):
        given.extend(video.frames())
    skipped = list(video.frames(skip_corrupt=True))
    assert 0 < len(given) <= len(skipped) <= 60
    assert video.num_corrupt > 0
    for frame in skipped[:-1] if name.endswith(("flv", "ogv", "ivf")) else skipped:
        np.testing.assert_array_equal(frame.pixels, intact[frame.index].pixels)


@pytest.mark.parametrize("share", [0.6, 0.97, 0.999])
def test_a_truncated_animated_avif(folder, noisy, share):
    if ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow writes no AVIF")
    pictures = [Image.fromarray(frame) for frame in noisy[:6]]
    whole = folder / "whole.avif"
    pictures[0].save(whole, save_all=True, append_images=pictures[1:], duration=40)
    path = shorten(whole, folder / f"short{share}.avif", share)
    with pytest.raises(CorruptVideoError, match=rf"short{share}\.avif: .*\d+ bytes"):
        list(Video(path).frames())


def test_a_damaged_animated_avif_is_read_whole_or_refused(folder):
    if ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow writes no AVIF")
    pictures = [Image.new("RGB", (64, 48), (40 * number, 0, 0)) for number in range(6)]
    whole, path = folder / "for_damage.avif", folder / "damaged.avif"
    pictures[0].save(whole, save_all=True, append_images=pictures[1:], duration=40)
    data = whole.read_bytes()
    counts = []
    for at in range(len(data) * 6 // 10, len(data), 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
        with suppress(CorruptVideoError):
            counts.append(len(list(Video(path).frames())))
    assert set(counts) == {6}


def test_truncated_mp4_without_its_index(folder, encode, noisy):
    whole = encode(folder / "late_index.mp4", noisy)
    with pytest.raises(VideoError, match="moov"):
        Video(shorten(whole, folder / "no_index.mp4", 0.5))


def test_damage_in_the_last_frames_is_noticed(folder, encode, noisy):
    # Threaded decoders hold the last frames back, where PyAV swallows their errors.
    whole = encode(folder / "tail.mp4", noisy, container_options={"movflags": "faststart"})
    size = whole.stat().st_size
    video = Video(overwrite(whole, folder / "bad_tail.mp4", 1 - 400 / size, 400))
    with pytest.raises(CorruptVideoError):
        list(video.frames())
    frames = list(video.frames(skip_corrupt=True))
    assert len(frames) + video.num_corrupt == 60


def test_edit_list_is_no_truncation(folder, encode):
    import av

    whole = encode(folder / "before.mp4", g="30", fps=25, bf="0")
    with av.open(str(whole)) as source, av.open(str(folder / "edited.mp4"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = 5 * packet.duration
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    video = Video(folder / "edited.mp4")
    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(15))
    late = list(video.frames(start=frames[10].timestamp))
    assert [frame.index for frame in late] == list(range(10, 15))


def test_colours_that_cannot_be_converted(folder, picture):
    import av

    path = folder / "colours.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 8  # YCgCo, which FFmpeg's scaler does not know
        frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24").reformat(format="yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(path)
    with pytest.raises(CorruptVideoError, match=r"colours\.mkv: frame 0 .*matrix 8"):
        list(video.frames())
    with pytest.raises(VideoError, match="no frame"):
        list(video.frames(skip_corrupt=True))
    assert video.num_corrupt == 1


@pytest.mark.parametrize("name", ["title.mkv", "title.mp4"])
def test_titles_in_any_encoding(folder, encode, name):
    import av

    path = folder / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a title"
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"a title" in data
    path.write_bytes(data.replace(b"a title", b"\xe9\xe8Latin"))  # not UTF-8
    assert len(list(Video(path).frames())) == 1


@pytest.mark.parametrize("name", ["blank.mkv", "blank.webm"])
def test_a_stream_that_breaks_off_in_a_file_of_full_length(folder, encode, noisy, name):
    codec = "libvpx" if name.endswith("webm") else "libx264"
    whole = encode(folder / name, noisy, codec=codec, g="12", fps=25)
    data = whole.read_bytes()
    path = folder / f"half_{name}"
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert missing_bytes(path) == 0
    video, given = Video(path), []
    with pytest.raises(CorruptVideoError) as caught:
        given.extend(frame.index for frame in video.frames())
    assert f"frame {len(given)} " in str(caught.value)
    frames = list(video.frames(skip_corrupt=True))
    assert len(frames) + video.num_corrupt == 60


@pytest.mark.parametrize("rest", [b"\n", b"hello", b"\xff" * 9])
def test_bytes_after_a_gif_are_no_damage(folder, encode, rest):
    path = encode(folder / "whole.gif", codec="gif", pixel_format="rgb8")
    path.write_bytes(path.read_bytes() + rest)
    assert len(list(Video(path).frames())) == 20


def test_the_last_of_many_jpegs_may_be_cut(folder, noisy):
    path = folder / "jpegs.mjpeg"
    with path.open("wb") as file:
        for frame in noisy[:6]:
            Image.fromarray(frame).save(file, format="jpeg")
    assert len(list(Video(path).frames())) == 6
    with pytest.raises(CorruptVideoError, match="frame 5"):
        list(Video(shorten(path, folder / "short.mjpeg", 0.95)).frames())
