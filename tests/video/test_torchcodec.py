"""torchcodec gives the frames, numbers and times that PyAV does, or says why not."""

import av
import numpy as np
import pytest
import torch

import autogaze
from autogaze.datasets.decoding import choose_decoder
from autogaze.errors import CorruptVideoError, MissingExtraError, VideoError
from autogaze.mllm.sampled_video import FrameSource
from autogaze.pipeline import GazedVideo
from autogaze.video.chunks import ChunkReader
from autogaze.video.container import OpenStream
from autogaze.video.reader import Video
from autogaze.video.torchcodec import FrameTable, TorchcodecError
from tests.decoders import decoded, needs_torchcodec, without_torchcodec
from tests.video.test_matrix import CODECS, CONTAINERS, STEADY, VARIABLE, cases
from tests.video.test_matrix import encode as encode_codec

__all__ = ["decoded", "without_torchcodec"]


def assert_same(path, **options) -> None:
    """Both decoders see the same; pixels may differ by one grey level."""
    ours, theirs = Video(path), Video(path, decoder="torchcodec")
    frames, others = list(ours.frames(**options)), list(theirs.frames(**options))
    assert (ours.decoded_by, theirs.decoded_by) == ("pyav", "torchcodec")
    assert [one.index for one in frames] == [one.index for one in others]
    assert [one.timestamp for one in frames] == [one.timestamp for one in others]
    assert (ours.end, ours.num_corrupt, ours.info) == (
        theirs.end,
        theirs.num_corrupt,
        theirs.info,
    )
    for one, other in zip(frames, others, strict=True):
        assert other.pixels.dtype == np.uint8
        assert other.pixels.flags.c_contiguous
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


def assert_left_to_pyav(path, **options) -> None:
    """An error where torchcodec is asked for."""
    with pytest.raises(TorchcodecError) as caught:
        list(Video(path, decoder="torchcodec").frames(**options))
    assert str(path) in str(caught.value)


@needs_torchcodec
@pytest.mark.parametrize(("codec", "container", "kind"), list(cases()))
def test_matrix(codec, container, kind, tmp_path):
    suffix, muxing = CONTAINERS[container]
    told = VARIABLE if kind == "variable" else STEADY
    shift = {"late": 3000, "cut": -200}.get(kind, 0)
    path = encode_codec(tmp_path / f"file.{suffix}", CODECS[codec], told, muxing, shift)
    if container in ("avi", "ts") or codec.startswith("mpeg4"):
        assert_left_to_pyav(path)
        return
    assert_same(path)
    assert_same(path, fps=7)
    if (codec, kind) != ("vp9", "variable"):  # which has no durations: PyAV finds one after a seek
        assert_same(path, start=0.1)
    assert_same(path, first=4, last=6)
    assert_same(path, start=0.2, end=0.35)
    assert_same(path, numbers={1, 7})


@needs_torchcodec
@pytest.mark.parametrize(
    ("pixel_format", "even", "odd"),
    [
        ("yuv420p", True, False),
        ("yuv420p10le", False, False),
        ("yuv422p", True, False),
        ("yuv422p10le", True, False),
        ("yuv440p", False, False),
        ("yuv411p", False, False),
        ("yuv410p", False, False),
        ("yuv444p", True, True),
        ("yuv444p12le", True, True),
        ("gray", True, True),
        ("gray10le", True, True),
        ("gbrp10le", True, True),
        ("bgr0", True, True),
    ],
)
def test_pixel_formats(pixel_format, even, odd, encode, tmp_path):
    """Of coloured noise: colours that are subsampled are interpolated."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    for frames, alike in ((noise, even), (noise[:, 1:, 1:], odd)):
        path = encode(tmp_path / "file.mkv", frames, codec="ffv1", pixel_format=pixel_format)
        (assert_same if alike else assert_left_to_pyav)(path)


@needs_torchcodec
def test_full_range(encode, tmp_path):
    assert_same(encode(tmp_path / "file.mkv", pixel_format="yuvj420p", g="6"))


@needs_torchcodec
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p"])
def test_full_range_by_a_tag_alone(pixel_format, encode, tmp_path):
    path = tmp_path / "file.mkv"
    encode(path, codec="ffv1", pixel_format=pixel_format, color_range="pc")
    assert_left_to_pyav(path)


@needs_torchcodec
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_interlaced_frames(codec, encode, tmp_path):
    tff = {"x264-params": "tff=1"} if codec == "libx264" else {}
    assert_left_to_pyav(encode(tmp_path / "file.mkv", codec=codec, flags="+ildct+ilme", **tff))


@needs_torchcodec
def test_deep_subsampled_colours_of_h264(encode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    assert_left_to_pyav(encode(tmp_path / "422.mp4", noise, pixel_format="yuv422p10le"))
    assert_same(encode(tmp_path / "444.mp4", noise, pixel_format="yuv444p10le"))


@needs_torchcodec
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation(rotation, encode, tmp_path):
    assert_same(encode(tmp_path / "file.mp4", rotation=rotation))


@needs_torchcodec
def test_odd_sizes_and_variable_rates(encode, picture, irregular, tmp_path):
    assert_same(irregular)
    assert_same(irregular, fps=3)
    frames = [picture(number, 66, 50) for number in range(9)]
    assert_same(encode(tmp_path / "file.mp4", frames))


@needs_torchcodec
def test_what_torchcodec_cannot_give_is_left_to_pyav(plain, encode, tmp_path):
    assert_left_to_pyav(plain, motion=True)
    ramp = np.linspace(0, 255, 48 * 64 * 4).reshape(48, 64, 4).astype(np.uint8)
    alpha = encode(tmp_path / "alpha.mkv", [ramp] * 3, codec="ffv1", pixel_format="bgra")
    assert_left_to_pyav(alpha)
    wide = encode(tmp_path / "wide.mp4", aspect="2:1")
    assert Video(wide).info.aspect != 1
    assert_left_to_pyav(wide)
    hdr = encode(tmp_path / "hdr.mkv", color_trc="smpte2084")
    assert Video(hdr).info.hdr == "PQ"
    assert_left_to_pyav(hdr)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(plain.read_bytes()[:-200])
    assert_left_to_pyav(cut)
    still = tmp_path / "still.png"
    av.VideoFrame.from_ndarray(ramp[..., :3], format="rgb24").to_image().save(still)
    with pytest.raises(TorchcodecError):
        Video(still, decoder="torchcodec")
    with pytest.raises(VideoError):
        ChunkReader(plain, motion_grid=14, decoder="torchcodec")


@needs_torchcodec
def test_auto_takes_pyav_on_a_cpu(plain):
    for device in (None, torch.device("cpu")):
        video = Video(plain, device=device)
        assert len(list(video.frames())) == 20
        assert video.decoded_by == "pyav"


@pytest.fixture
def to_a_gpu(monkeypatch):
    """`auto` thinks that frames go to a GPU; torchcodec decodes on the CPU."""
    opened = FrameTable._opened
    monkeypatch.setattr(
        FrameTable, "_opened", lambda self, stream, mapping, _: opened(self, stream, mapping, None)
    )
    return torch.device("cuda")


@needs_torchcodec
def test_auto_for_a_gpu(plain, encode, to_a_gpu, tmp_path, monkeypatch):
    expected = list(Video(plain).frames())
    video = Video(plain, device=to_a_gpu)
    for one, other in zip(expected, video.frames(), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert video.decoded_by == "torchcodec"
    assert len(list(video.frames(motion=True))) == 20
    assert video.decoded_by == "pyav"

    pixels = FrameTable.pixels

    def failing(self, frame):
        if frame.number == 7:
            raise TorchcodecError("as if it could not be decoded")
        return pixels(self, frame)

    monkeypatch.setattr(FrameTable, "pixels", failing)
    seen = []
    for frame in video.frames():
        seen.append((frame.index, frame.timestamp, video.decoded_by))
    assert [one[:2] for one in seen] == [(frame.index, frame.timestamp) for frame in expected]
    assert [one[2] for one in seen] == ["torchcodec"] * 7 + ["pyav"] * 13
    with pytest.raises(TorchcodecError):
        list(Video(plain, decoder="torchcodec").frames())


@needs_torchcodec
@pytest.mark.parametrize("codec", ["h264 b", "mpeg4"])
def test_auto_for_a_gpu_wherever_videos_are_read(codec, to_a_gpu, decoded, tmp_path):
    """A saved gaze's video, an MLLM's, a dataset's: torchcodec where it can, else PyAV."""
    path = encode_codec(tmp_path / "file.mp4", CODECS[codec], STEADY, {}, 0)
    gaze = autogaze.gaze_video(path, selector="centre", ratio=0.1, tiles="one")
    read = []
    for device in (None, to_a_gpu):
        source = FrameSource(path, device=device)
        (chunk,) = GazedVideo(path, gaze, device=device)
        video = choose_decoder(device=device)(path)
        read.append([chunk.frames, *video.frames(3, 9)])
        read[-1] += [pixels for _, pixels, _ in source.read([0, 5, 13])]
        assert bool(decoded) == (device is not None and codec != "mpeg4")
    assert all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*read, strict=True)
    )


@needs_torchcodec
def test_damage_is_reported_as_by_pyav(plain, to_a_gpu, tmp_path):
    """What the packets show, and what torchcodec does not decode, is left to PyAV."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(plain.read_bytes()[:-200])
    for options in ({}, {"device": to_a_gpu}):
        with pytest.raises(CorruptVideoError):
            list(Video(cut, **options).frames())
        video = Video(cut, **options)
        assert len(list(video.frames(skip_corrupt=True))) + video.num_corrupt == 20


@needs_torchcodec
def test_gazes_are_the_same(plain):
    options = {"selector": "greedy", "ratio": 0.1, "tiles": "one"}
    one = autogaze.gaze_video(plain, **options)
    other = autogaze.gaze_video(plain, decoder="torchcodec", **options)
    assert torch.equal(one.ids, other.ids)
    assert one.source == other.source


@needs_torchcodec
def test_pictures_that_are_not_asked_for_are_not_decoded(plain):
    video = Video(plain)
    with OpenStream.open(plain) as opened:
        table = FrameTable(opened, video.info, video._layout)
    frames = [frame for frame, _ in table.decode()]
    assert [frame.number for frame in frames] == list(range(20))
    np.testing.assert_array_equal(table.pixels(frames[13]), list(video.frames())[13].pixels)


@pytest.mark.usefixtures("without_torchcodec")
def test_a_decoder_that_is_not_there(plain):
    with pytest.raises(MissingExtraError):
        Video(plain, decoder="torchcodec")
    video = Video(plain, device=torch.device("cuda"))
    assert len(list(video.frames())) == 20
    assert video.decoded_by == "pyav"
