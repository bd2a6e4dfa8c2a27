import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from autogaze.errors import MLLMError, VideoError
from autogaze.mllm import sampled_video
from autogaze.mllm.frames import resize_frames
from autogaze.mllm.sampled_video import FrameSource, SampledVideo
from autogaze.video import Video
from tests.clips import damage, make_video
from tests.decoders import decoded, needs_torchcodec

__all__ = ["decoded"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("sampled") / "v.mp4", 20, 64, 48, fps=10)


def frames_of(path):
    return torch.stack(
        [torch.from_numpy(frame.pixels).movedim(-1, 0) for frame in Video(path).frames()]
    )


def test_sampled_frames_of_a_file(path):
    source = FrameSource(path)
    assert (source.size, source.num_frames, source.rate) == ((64, 48), 20, 10.0)
    video = SampledVideo(source, [1, 4, 4, 19], 24, 32, chunk=3)
    chunks = list(video)
    assert [len(chunk.frames) for chunk in chunks] == [3, 1]
    expected = resize_frames(frames_of(path)[[1, 4, 4, 19]], 24, 32)
    assert torch.equal(torch.cat([chunk.frames for chunk in chunks]), expected)
    assert video.seconds == (0.1, 0.4, 0.4, 1.9)
    assert video.clock.times.decode > 0


@pytest.mark.parametrize("held", [True, False])
def test_a_second_reading_is_the_same(path, held, monkeypatch):
    if not held:
        monkeypatch.setattr(sampled_video, "MAX_HELD", 100)
    video = SampledVideo(FrameSource(path), range(6), 48, 64, chunk=4, passes=2)
    first = torch.cat([chunk.frames for chunk in video])
    decoded = video.clock.times.decode
    assert torch.equal(torch.cat([chunk.frames for chunk in video]), first)
    assert (video.clock.times.decode == decoded) == held


@pytest.mark.parametrize("form", ["last", "first", "list", "pictures"])
def test_decoded_frames_in_any_form(form):
    pixels = torch.randint(0, 256, (3, 8, 10, 3), dtype=torch.uint8)
    given = {
        "last": pixels.numpy(),
        "first": pixels.movedim(-1, 1),
        "list": list(pixels.numpy()),
        "pictures": [Image.fromarray(frame.numpy()) for frame in pixels],
    }[form]
    source = FrameSource(given, rate=2)
    video = SampledVideo(source, [0, 2], 8, 10)
    assert torch.equal(next(iter(video)).frames, pixels.movedim(-1, 1)[[0, 2]])
    assert source.size == (10, 8)


def test_an_image_file_is_one_frame(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = FrameSource(tmp_path / "a.png")
    assert (source.num_frames, source.size) == (1, (7, 9))
    assert np.array_equal(
        next(iter(SampledVideo(source, [0], 9, 7))).frames[0].permute(1, 2, 0), pixels
    )


def test_frames_that_cannot_be_decoded(tmp_path):
    broken = damage(make_video(tmp_path / "b.mp4", 20, 64, 48), 7)
    with pytest.raises(VideoError):
        list(SampledVideo(FrameSource(broken), range(20), 48, 64))
    source = FrameSource(broken, skip_corrupt=True)
    frames = torch.cat([chunk.frames for chunk in SampledVideo(source, range(20), 48, 64)])
    assert len(frames) == 20
    assert torch.equal(frames[7], frames[6])


def test_what_is_no_video():
    with pytest.raises(VideoError, match=r"missing\.mp4"):
        FrameSource("missing.mp4")
    with pytest.raises(MLLMError, match="float32"):
        FrameSource(torch.rand(2, 3, 4, 4))
    with pytest.raises(MLLMError, match="2 frames"):
        SampledVideo(FrameSource(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), [0, 2], 4, 4)


def test_pictures_are_turned_as_their_file_says(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        picture.load()
    expected = torch.from_numpy(np.rot90(pixels, -1).copy()).movedim(-1, 0)
    for given in (picture, [picture], tmp_path / "turned.png"):
        source = FrameSource(given)
        assert source.size == (8, 12)
        assert torch.equal(next(iter(source.read([0])))[1], expected)


def test_held_frames_are_freed_during_the_last_reading(path):
    video = SampledVideo(FrameSource(path), range(12), 48, 64, chunk=4, passes=2)
    first = [chunk.frames.clone() for chunk in video]
    assert video.bytes_held == 12 * 3 * 48 * 64
    left, freed, before = [], [], None
    for chunk in video:
        left.append(video.bytes_held)
        freed.append(before is None or before() is None)
        before = weakref.ref(chunk.frames)
        assert torch.equal(chunk.frames, first[len(left) - 1])
        del chunk
    assert left == [8 * 3 * 48 * 64, 4 * 3 * 48 * 64, 0]
    assert all(freed)
    decoded = video.clock.times.decode
    again = torch.cat([chunk.frames for chunk in video])  # decoded again, and not held
    assert torch.equal(again, torch.cat(first))
    assert video.clock.times.decode > decoded
    assert video.bytes_held == 0


def test_videos_that_wait_together_share_what_may_be_held(path, monkeypatch):
    monkeypatch.setattr(sampled_video, "MAX_HELD", 2 * 4 * 3 * 48 * 64)
    for waiting, holds in ((1, True), (2, True), (3, False)):
        video = SampledVideo(FrameSource(path), range(4), 48, 64, passes=2, waiting=waiting)
        list(video)
        assert (video.bytes_held > 0) == holds


def test_motion_counts_from_the_frame_taken_before(tmp_path):
    """Also where frames that cannot be decoded are replaced, and so every frame is decoded."""
    path = make_video(tmp_path / "a.mp4", 20, 64, 48)
    numbers = [1, 4, 5, 11, 11]
    plain, skipping = (
        [moved for _, _, moved in FrameSource(path, skip_corrupt=skip).read(numbers, motion=True)]
        for skip in (False, True)
    )
    for one, other in zip(plain, skipping, strict=True):
        assert np.array_equal(one.lengths, other.lengths)
    assert not plain[-1].lengths.any()  # the same frame again
    assert plain[1].lengths.any()
    broken = FrameSource(damage(path, 7), skip_corrupt=True)
    frames = list(broken.read([6, 7, 9], motion=True))
    assert torch.equal(frames[1][1], frames[0][1])
    assert not frames[1][2].lengths.any()


@needs_torchcodec
def test_torchcodec_reads_the_same_frames(path, decoded):
    numbers = (0, 3, 3, 11)
    read = [list(FrameSource(path, decoder=name).read(numbers)) for name in ("pyav", "torchcodec")]
    assert decoded == [0, 3, 11]
    for (seconds, pixels, _), (others, found, _) in zip(*read, strict=True):
        assert seconds == others
        assert int((pixels.int() - found.int()).abs().max()) <= 1
