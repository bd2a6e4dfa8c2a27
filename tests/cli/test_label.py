"""`autogaze label`, as it is called."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from autogaze.cli.app import app
from autogaze.datasets.clip import TrainingClip
from autogaze.datasets.decoded import save_decoded
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.video_windows import VideoWindows, Window
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher
from autogaze.labelling.shards import parts_folder
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.training.mixture import read_dataset
from tests.clips import make_video
from tests.datasets.pictures import make_pictures, some_frames
from tests.tasks.material import tiny_mae

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set" / "train"
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        make_video(folder / f"{name}.mp4", 6)
    return folder


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        result = CliRunner().invoke(app, ["label", *map(str, words)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


def labels_of(path="gazing_labels.json", num_patches=265):
    return LabelFile.load(path, num_patches)


SHORT = ("--clip-len", 3, "--max-ratio", 0.05)


def test_labels_of_a_folder(call, videos):
    result = call(videos, *SHORT, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["clips"] == 3
    assert report["out"] == "gazing_labels.json"
    assert report["clips_per_second"] > 0
    labels = labels_of()
    assert sorted(labels.clips) == [f"set/train/{name}.mp4" for name in "abc"]
    for clip in labels.clips.values():
        assert len(clip.ids) == 3
        # Each patch lowers the loss as long as any can.
        assert all(list(losses) == sorted(losses, reverse=True) for losses in clip.losses)
        assert 0.01 < sum(map(len, clip.ids)) / (3 * 265) < 0.06
    assert not parts_folder(Path("gazing_labels.json")).exists()


def test_every_window_of_a_video(call, videos):
    assert call(videos / "a.mp4", *SHORT, "--windows", "all").exit_code == 0
    windows = labels_of()
    assert sorted(windows.clips) == ["set/train/a.mp4", "set/train/a.mp4#3"]
    assert call(videos / "a.mp4", *SHORT, "--out", "first.json.gz").exit_code == 0
    first = labels_of("first.json.gz")
    assert list(first.clips) == ["set/train/a.mp4"]
    assert first["set/train/a.mp4"] == windows["set/train/a.mp4"]
    # The second one is labelled as what it shows.
    folder = VideoWindows([videos.parent], window=Window(3), labels=windows)
    clip = folder[1]
    lengths = torch.tensor([[len(ids) for ids in clip.labels.ids]])
    gaze = Gaze(PatchPyramid(), torch.tensor(sum(clip.labels.ids, ())), lengths)
    wanted = canvas_losses(clip.frames[None], gaze)[0].tolist()
    assert [losses[-1] for losses in clip.labels.losses] == pytest.approx(wanted, rel=1e-4)


def test_clips_of_any_dataset(call, tmp_path):
    make_pictures(tmp_path / "photos" / "train", 2)
    parts = {
        "pans": {"name": "camera", "root": "photos"},
        "drawn": {"name": "procedural", "num_clips": 1},
    }
    options = {"name": "mixture", "clip_len": 2, "parts": parts}
    Path("config.json").write_text(json.dumps({"dataset": options, "trainer": {"seed": 7}}))
    result = call("--dataset", "config.json", "--max-ratio", 0.05, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["clips"] == 3
    # A training with the same options and seed finds them again.
    source = read_dataset({**options, "gt_gazing_pos_paths": {"train": "gazing_labels.json"}})
    clips = source.clips("train", PatchPyramid(), 7)
    assert len(clips) == 3
    assert all(clips[number].labels is not None for number in range(3))
    with pytest.raises(TrainingError, match=r"parts\.pans: .* 2 clips"):
        source.clips("train", PatchPyramid(), 8)
    # Other settings, and what a dataset says itself, are refused.
    for words in (["--clip-len", 2], ["photos"], ["--windows", "all"], ["--decoder", "pyav"]):
        result = call("--dataset", "config.json", *words, "--out", "other.json")
        assert result.exit_code == 2
        assert "--dataset: config.json" in result.stderr


def test_losses_are_those_of_the_gaze(call, tmp_path):
    frames = some_frames(3, 224)
    save_decoded([TrainingClip(frames, "noise")], tmp_path / "clips.safetensors")
    assert call("clips.safetensors", *SHORT).exit_code == 0
    clip = labels_of()["noise"]
    lengths = torch.tensor([[len(ids) for ids in clip.ids]])
    gaze = Gaze(PatchPyramid(), torch.tensor(sum(clip.ids, ())), lengths)
    wanted = canvas_losses(frames[None], gaze)[0].tolist()
    assert [losses[-1] for losses in clip.losses] == pytest.approx(wanted, rel=1e-4)


def test_shards_make_the_same_file(call, videos):
    assert call(videos, *SHORT, "--out", "whole.json").exit_code == 0
    for shard in ("2/2", "1/2"):
        assert call(videos, *SHORT, "--out", "parts.json", "--shard", shard).exit_code == 0
        assert not Path("parts.json").exists()
    result = call("--merge", "--out", "parts.json")
    assert result.exit_code == 0
    assert "3" in result.stdout
    assert Path("parts.json").read_bytes() == Path("whole.json").read_bytes()


def test_seeds_and_files_given_one_by_one(call, videos):
    assert call(videos, *SHORT, "--out", "folder.json").exit_code == 0
    files = [videos / f"{name}.mp4" for name in "cab"]
    assert call(*files, *SHORT, "--out", "files.json").exit_code == 0
    assert Path("folder.json").read_bytes() == Path("files.json").read_bytes()
    assert call(videos, *SHORT, "--out", "other.json", "--seed", 1).exit_code == 0
    assert Path("folder.json").read_bytes() != Path("other.json").read_bytes()


def test_bad_videos_are_reported_and_skipped(call, tmp_path):
    make_video(tmp_path / "good.mp4", 4)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    result = call(".", *SHORT, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["unreadable"] == 1
    assert [Path(name).name for name in labels_of().clips] == ["good.mp4"]
    result = call("bad.mp4", *SHORT, "--out", "none.json")
    assert result.exit_code == 2
    assert not Path("none.json").exists()


@pytest.fixture
def mae(tmp_path):
    task = VideoMAETask(tiny_mae(), FrameLosses.parse("l1", 1))
    task.save_pretrained(tmp_path / "mae")
    return tmp_path / "mae"


def test_under_a_video_mae(call, videos, mae):
    words = (videos / "a.mp4", *SHORT, "--max-ratio", 0.3)
    result = call(*words, "--metric", mae, "--json")
    assert result.exit_code == 0, result.output
    (clip,) = labels_of(num_patches=20).clips.values()
    assert len(clip.ids) == 3
    assert call(*words, "--judge", mae, "--out", "former.json").exit_code == 0
    assert Path("former.json").read_bytes() == Path("gazing_labels.json").read_bytes()
    result = call(videos, "--clip-len", 7, "--metric", mae, "--out", "x.json")
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], ("videos",)),
        (["VIDEOS", "--clip-len", "9999999999"], ("clip_len", "9,999,999,999")),
        (["nowhere"], ("nowhere",)),
        (["VIDEOS", "--out", "labels.txt"], ("labels.txt", ".json")),
        (["VIDEOS", "--out", "no/labels.json"], ("no/labels.json",)),
        (["VIDEOS", "--metric", "./none"], ("none",)),
        (["VIDEOS", "--shard", "3/2"], ("3/2",)),
        (["VIDEOS", "--min-ratio", "0.5"], ("0.5", "0.2")),
        (["VIDEOS", "--loss-type", "l1"], ("--loss-type",)),
        (["VIDEOS", "--dtype", "bfloat16"], ("--dtype",)),
        (["VIDEOS", "--batch", "4"], ("--batch",)),
        (["VIDEOS", "--metric", "./none", "--dtype", "int3"], ("int3",)),
        (["VIDEOS", "VIDEOS/a.mp4"], ("set/train/a.mp4",)),
        (["--dataset", "none.yaml"], ("none.yaml",)),
        (["--merge"], ("gazing_labels.json.parts",)),
    ],
)
def test_bad_input(call, videos, words, values):
    result = call(*(word.replace("VIDEOS", str(videos)) for word in words))
    assert result.exit_code == 2
    assert all(value in result.stderr for value in values), result.stderr


def test_a_finished_file_is_not_overwritten(call, videos):
    assert call(videos / "a.mp4", *SHORT).exit_code == 0
    before = Path("gazing_labels.json").read_bytes()
    assert call(videos, *SHORT).exit_code == 2
    assert Path("gazing_labels.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_and_restarted_it_makes_the_same_file(call, tmp_path, videos):
    def command(out):
        words = [videos, "--clip-len", "6", "--out", out, "--json"]
        return [sys.executable, "-m", "autogaze", "label", *map(str, words)]

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole, killed = tmp_path / "whole.json", tmp_path / "killed.json"
    assert call(*command(whole)[4:]).exit_code == 0
    process = subprocess.Popen(command(killed), env=environment, stdout=subprocess.DEVNULL)
    log_file = parts_folder(killed) / "1-of-1.jsonl"
    while process.poll() is None:
        if log_file.exists() and log_file.read_bytes().count(b"\n") >= 2:  # settings, one clip
            process.kill()
            break
        time.sleep(0.002)
    process.wait()
    if killed.exists():
        pytest.skip("it was too fast to be killed")
    done = call(*command(killed)[4:])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["labelled_before"] >= 1
    assert report["clips"] + report["labelled_before"] == 3
    assert killed.read_bytes() == whole.read_bytes()


def test_clips_at_once_change_nothing(call, tmp_path, videos, monkeypatch):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    written = []
    for at_once in (1, 3):
        monkeypatch.setattr(CanvasSearcher, "at_once", at_once)
        out = tmp_path / f"{at_once}.json"
        result = call(folder, *SHORT, "--windows", "all", "--device", "cpu", "--out", out, "--json")
        assert result.exit_code == 1, result.output
        assert json.loads(result.stdout)["unreadable"] == 1
        assert "broken.mp4" in result.stderr
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_a_device_that_is_not_here(call, videos):
    for metric in ([], ["--metric", "nowhere"]):
        result = call(videos, *SHORT, "--device", "toaster", *metric)
        assert result.exit_code == 2
        assert "toaster" in result.stderr
