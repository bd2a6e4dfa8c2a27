"""Clips of video files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autogaze.datasets.clip import ClipKey, UnreadableClip, collate
from autogaze.datasets.files import find_files, short_name
from autogaze.datasets.seeds import seeded
from autogaze.datasets.video_folder import VideoFolder, Window, read_window, square
from autogaze.errors import TrainingError
from autogaze.video import open_video
from tests.clips import damage, make_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "v.mp4", 20, 96, 64)


@pytest.fixture(scope="module")
def shown(video):
    """All its frames, as clips show them."""
    pixels = [torch.from_numpy(frame.pixels) for frame in open_video(video).frames()]
    return torch.stack([square(frame.permute(2, 0, 1), 32) for frame in pixels])


def test_a_fixed_window_starts_at_the_first_frame(video, shown):
    assert torch.equal(read_window(video, Window(5), 32, seeded(0)), shown[:5])
    assert torch.equal(read_window(video, Window(5, stride=3), 32, seeded(0)), shown[:13:3])


def test_short_videos_repeat_their_last_frame(video, shown):
    found = read_window(video, Window(24), 32, seeded(0))
    assert torch.equal(found[:20], shown)
    assert torch.equal(found[20:], shown[-1:].expand(4, -1, -1, -1))
    far = read_window(video, Window(4, stride=9), 32, seeded(0))
    assert torch.equal(far, shown[[0, 9, 18, 18]])


def test_random_windows_lie_inside_the_video(video, shown):
    starts = set()
    for number in range(40):
        found = read_window(video, Window(4, stride=2, random=True), 32, seeded(number))
        start = int((shown == found[0]).flatten(1).all(1).nonzero()[0])
        assert torch.equal(found, shown[start : start + 7 : 2])
        starts.add(start)
    assert min(starts) == 0
    assert max(starts) == 13  # 13 + 7 = 20 frames
    assert len(starts) > 8


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
    train = VideoFolder(roots, "train", window=Window(2), side=32)
    assert [clip.name for clip in map(train.__getitem__, range(len(train)))] == [
        "train/deep/a.mp4",
        "train/deep/b.mp4",
    ]
    assert len(VideoFolder(roots, "val")) == 1
    with pytest.raises(TrainingError, match=r"no videos .* in .*one/test, .*two/test"):
        VideoFolder(roots, "test")


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
    clips = VideoFolder([tmp_path], window=Window(12), side=32)
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
    early = VideoFolder([tmp_path], window=Window(4), side=32)
    assert collate([early[n] for n in range(4)]).frames.shape[0] == 2


def test_pixels_are_those_of_the_video(video, shown):
    # The square of a 96 x 64 video: columns 16 to 80.
    first = next(iter(open_video(video).frames())).pixels
    wanted = np.asarray(first)[:, 16:80].reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(shown[0].permute(1, 2, 0).numpy() - wanted).mean() < 6
