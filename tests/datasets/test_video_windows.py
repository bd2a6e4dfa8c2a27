"""Clips of video files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autogaze.datasets.clip import ClipKey, UnreadableClip, collate
from autogaze.datasets.decoding import PyAVVideo
from autogaze.datasets.labels import short_name
from autogaze.datasets.video_windows import (
    CachedVideo,
    VideoClip,
    VideoClips,
    VideoWindows,
    Window,
    find_files,
    read_clip,
    square,
)
from autogaze.errors import TrainingError, VideoError
from autogaze.video.reader import Video
from tests.clips import damage, make_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "v.mp4", 20, 96, 64)


@pytest.fixture(scope="module")
def shown(video):
    """All its frames, as clips show them."""
    pixels = [torch.from_numpy(frame.pixels) for frame in Video(video).frames()]
    return torch.stack([square(frame.permute(2, 0, 1), 32) for frame in pixels])


def read_window(video, window, seed=0):
    """The only clip of a video."""
    clips = VideoClips([VideoClip(video)], window=window, side=32, decoder=PyAVVideo, seed=seed)
    return clips[0].frames


def test_a_fixed_window_starts_at_the_first_frame(video, shown):
    assert torch.equal(read_window(video, Window(5)), shown[:5])
    assert torch.equal(read_window(video, Window(5, stride=3)), shown[:13:3])


def test_short_videos_repeat_their_last_frame(video, shown):
    found = read_window(video, Window(24))
    assert torch.equal(found[:20], shown)
    assert torch.equal(found[20:], shown[-1:].expand(4, -1, -1, -1))
    far = read_window(video, Window(4, stride=9))
    assert torch.equal(far, shown[[0, 9, 18, 18]])


def test_random_windows_lie_inside_the_video(video, shown):
    starts = set()
    for number in range(40):
        found = read_window(video, Window(4, stride=2, random=True), number)
        start = int((shown == found[0]).flatten(1).all(1).nonzero()[0])
        assert torch.equal(found, shown[start : start + 7 : 2])
        starts.add(start)
    assert min(starts) == 0
    assert max(starts) == 13  # 13 + 7 = 20 frames
    assert len(starts) > 8


def test_windows_side_by_side():
    assert list(Window(5).starts(20)) == [0, 5, 10, 15]
    assert list(Window(5).starts(19)) == [0, 5, 10]
    assert list(Window(5).starts(3)) == [0]  # a short video shows its last frame on
    assert list(Window(4, stride=3).starts(22)) == [0, 12]  # frames 12, 15, 18, 21
    assert list(Window(4, stride=3).starts(21)) == [0]


def test_every_window_of_a_video_is_a_clip(tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    make_video(tmp_path / "set" / "train" / "a.mp4", 7)
    make_video(tmp_path / "set" / "train" / "b.mp4", 2)
    (tmp_path / "set" / "train" / "c.mp4").write_bytes(b"nothing")
    folder = VideoWindows([tmp_path / "set"], window=Window(3, every=True), side=32)
    clips = [folder[number] for number in range(len(folder))]
    names = ["a.mp4", "a.mp4#3", "b.mp4", "c.mp4"]
    assert [clip.name for clip in clips] == [f"set/train/{name}" for name in names]
    assert isinstance(clips[3], UnreadableClip)
    whole = VideoWindows([tmp_path / "set"], window=Window(7), side=32)[0].frames
    assert torch.equal(torch.cat([clips[0].frames, clips[1].frames]), whole[:6])


@pytest.mark.parametrize("options", [{"clip_len": 0}, {"stride": 0}])
def test_impossible_windows(options):
    (name,) = options
    with pytest.raises(TrainingError, match=rf"^{name} .*\b1\b.*\b0$"):
        Window(**options)
    with pytest.raises(TrainingError, match="not both"):
        Window(random=True, every=True)


@pytest.mark.parametrize("window", [Window(4, random=True), Window(3, stride=2), Window(15)])
def test_videos_in_memory_are_those_on_disk(tmp_path, window):
    folder = tmp_path / "train"
    folder.mkdir()
    for name, length in (("a", 12), ("b", 5)):
        make_video(folder / f"{name}.mp4", length)
    damage(make_video(folder / "holed.mp4", 12), 6)
    (folder / "none.mp4").write_bytes(b"no video at all")
    plain = VideoWindows([tmp_path], window=window, side=32)
    cached = VideoWindows([tmp_path], window=window, side=32, cache=True)
    keys = [ClipKey(epoch, number) for epoch in range(3) for number in range(len(plain))]
    wanted = [plain[key] for key in keys]
    for path in folder.iterdir():
        path.unlink()
    assert isinstance(plain[0], UnreadableClip)
    for key, clip in zip(keys, wanted, strict=True):
        if isinstance(clip, UnreadableClip):
            assert isinstance(cached[key], UnreadableClip)
            assert Path(clip.name).name in cached[key].cause
        else:
            assert torch.equal(cached[key].frames, clip.frames)


def test_a_random_window_may_lie_behind_the_last_frame(tmp_path):
    video = CachedVideo(tmp_path / "a.mp4", torch.zeros(3, 8, 8, 3, dtype=torch.uint8), 9)
    assert read_clip(video, 2, Window(4), 8).shape == (4, 3, 8, 8)
    with pytest.raises(VideoError, match=r"a\.mp4: .*\b3\b.*\b5\b"):
        read_clip(video, 5, Window(4), 8)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (50, 50), (20, 31), (32, 32)])
def test_the_middle_square(width, height):
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    picture[:, height // 2, width // 2] = 255
    cut = square(picture, 32)
    assert cut.shape == (3, 32, 32)
    brightest = int(cut[0].argmax())
    assert abs(brightest // 32 - 16) <= 1
    assert abs(brightest % 32 - 16) <= 1


def test_several_roots_and_splits(tmp_path):
    for root, split, name in (("one", "train", "a"), ("two", "train", "b"), ("two", "val", "c")):
        (tmp_path / root / split / "deep").mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / root / split / "deep" / f"{name}.mp4", 2)
    (tmp_path / "one" / "train" / "notes.txt").write_text("no video")
    (tmp_path / "one" / "train" / ".a.part.mp4").write_text("half a video")
    roots = [tmp_path / "one", tmp_path / "two", tmp_path / "one"]  # the last one once more
    train = VideoWindows(roots, "train", window=Window(2), side=32)
    assert [clip.name for clip in map(train.__getitem__, range(len(train)))] == [
        "train/deep/a.mp4",
        "train/deep/b.mp4",
    ]
    assert len(VideoWindows(roots, "val")) == 1
    with pytest.raises(TrainingError, match=r"\bone/test\b.*\btwo/test\b"):
        VideoWindows(roots, "test")


def test_names_do_not_depend_on_where_a_program_starts(tmp_path, monkeypatch):
    (tmp_path / "set" / "train").mkdir(parents=True)
    file = tmp_path / "set" / "train" / "a.mp4"
    file.write_bytes(b"")
    monkeypatch.chdir(tmp_path / "set" / "train")
    assert short_name(Path("a.mp4")) == "set/train/a.mp4" == short_name(file)
    assert short_name(Path("../train/a.mp4")) == "set/train/a.mp4"
    assert find_files(["."], [".mp4"]) == [Path("a.mp4")]


def test_damaged_videos_are_reported(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    make_video(folder / "good.mp4", 12)
    damage(make_video(folder / "holed.mp4", 12), 6)
    (folder / "none.mp4").write_bytes(b"no video at all")
    cut = make_video(folder / "short.mp4", 12)
    cut.write_bytes(cut.read_bytes()[:600])
    clips = VideoWindows([tmp_path], window=Window(12), side=32)
    found = [clips[ClipKey(0, number)] for number in range(len(clips))]
    batch = collate(found)
    assert [Path(name).name for name in batch.names] == ["good.mp4"]
    assert [Path(clip.name).name for clip in batch.unreadable] == [
        "holed.mp4",
        "none.mp4",
        "short.mp4",
    ]
    for clip in found:
        if isinstance(clip, UnreadableClip):
            assert Path(clip.name).name in clip.cause
    # What lies behind the clip does no harm.
    early = VideoWindows([tmp_path], window=Window(4), side=32)
    assert collate([early[n] for n in range(4)]).frames.shape[0] == 2


def test_pixels_are_those_of_the_video(video, shown):
    # The square of a 96 x 64 video: columns 16 to 80.
    first = next(iter(Video(video).frames())).pixels
    wanted = np.asarray(first)[:, 16:80].reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(shown[0].permute(1, 2, 0).numpy() - wanted).mean() < 6
