"""`autogaze judge`: the true loss of a saved gaze."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from autogaze import gaze_video
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedVideo
from autogaze.selectors.greedy import Greedy
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.video.chunks import ChunkReader
from tests import clips
from tests.cli.test_gaze import fails, run
from tests.clips import damage, make_video
from tests.tasks.material import FROM_CANVAS, tiny_mae

SMALL = PatchPyramid((16, 32), 8)  # tiles of 32 pixels: two in a frame of 64 x 32


def save_judge(folder: Path, most: int = 16) -> Path:
    mae = tiny_mae(std=0.05, config=replace(FROM_CANVAS, max_num_frames=most))
    VideoMAEReconstruction(mae, FrameLosses.parse("l1", 1)).save_pretrained(folder)
    return folder


def gaze_at(video: Path, **options) -> Path:
    """A gaze file beside the video, of tiles that a tiny judge knows."""
    path = video.with_suffix(".safetensors")
    gaze_video(video, selector=Greedy(SMALL), ratio=0.2, **options).save(path)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "square.mp4", 20, 64, 32)


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    return save_judge(tmp_path / "judge")


def told(*words: object) -> dict:
    result = run("judge", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_packages_own_judge(tmp_path: Path) -> None:
    video = make_video(tmp_path / "square.mp4", 3)
    gaze, picture = tmp_path / "gaze.safetensors", tmp_path / "picture.png"
    assert run("gaze", video, "--ratio", 0.05, "--out", gaze).exit_code == 0
    result = run("judge", video, gaze, "--picture", picture)
    assert result.exit_code == 0, result.output
    canvas = float(Gaze.load(gaze).losses.mean())
    for words in ("learned", "3 frames", "l1, weighted 1", f"{canvas:.4f}", "holes filled"):
        assert words in result.stdout
    with Image.open(picture) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > 6 * 200  # six rows


def test_every_tile_of_every_chunk_is_judged(video: Path, judge: Path) -> None:
    file = gaze_at(video)
    report, gaze = told(video, file, "--judge", judge), Gaze.load(file)
    assert (report["tiles"], report["num_frames"], report["chunk"]) == ([2, 1], 20, 16)
    task = VideoMAEReconstruction.from_checkpoint(judge)
    chunks = list(ChunkReader(video, side=32))
    wanted = torch.empty(2, 20)
    for chunk, (start, stop) in zip(chunks, [(0, 16), (16, 20)], strict=True):
        real, part = chunk.clips.frames.float() / 255, gaze.frames(start, stop)
        wanted[:, start:stop] = task(real, part, range(stop - start)).losses.detach()
    assert [frame["frame"] for frame in report["frames"]] == list(range(20))
    for number, frame in enumerate(report["frames"]):
        found = frame["mean"]
        assert found["reconstruction"]["loss"] == pytest.approx(float(wanted[:, number].mean()))
        assert found["canvas"]["l1"] == pytest.approx(float(gaze.losses[:, number].mean()))
        assert frame["num_kept"] == int(gaze.lengths[:, number].sum())
    assert [
        (clip["tile"], clip["first_frame"], clip["num_frames"]) for clip in report["clips"]
    ] == [(tile, start, count) for start, count in ((0, 16), (16, 4)) for tile in range(2)]
    for clip in report["clips"]:
        start, count = clip["first_frame"], clip["num_frames"]
        part = wanted[clip["tile"], start : start + count]
        assert clip["mean"]["reconstruction"]["loss"] == pytest.approx(float(part.mean()))
    mean, largest = report["mean"]["reconstruction"], report["largest"]["reconstruction"]
    assert mean["loss"] == pytest.approx(float(wanted.mean()))
    assert largest["loss"] == pytest.approx(float(wanted.max()))
    # Pixels normalised by their standard deviations err by about four times as much.
    assert 3 < mean["loss"] / mean["l1"] < 6
    assert report["mean"]["filled_canvas"]["l1"] <= report["mean"]["canvas"]["l1"]


def test_frames_are_found_again(tmp_path: Path, judge: Path) -> None:
    video = make_video(tmp_path / "square.mp4", 30, 64, 32)
    some = gaze_at(video, start=0.5, end=2.8, fps=5)
    report, source = told(video, some, "--judge", judge), Gaze.load(some).source
    assert [frame["frame"] for frame in report["frames"]] == list(source.frame_indices)
    assert source.frame_indices[:3] == (5, 7, 9)
    damage(video, 12)
    told(video, gaze_at(video, skip_corrupt=True), "--judge", judge)


def test_chunks_are_what_was_gazed_at(video: Path) -> None:
    gaze = Gaze.load(gaze_at(video))
    for chunk, again in zip(ChunkReader(video, side=32), GazedVideo(video, gaze), strict=True):
        assert again.frames.equal(chunk.clips.frames)
        assert again.source == chunk.source


def test_other_losses_must_be_asked_for(video: Path, judge: Path, monkeypatch) -> None:
    gaze = gaze_at(video)
    words = (video, gaze, "--judge", judge, "--loss-type", "l1+efficientnet")
    assert "needs loss_weights" in fails("judge", *words)
    monkeypatch.setattr("autogaze.reconstruction.efficientnet.find_spec", lambda name: None)
    assert "autogaze[efficientnet]" in fails("judge", *words, "--loss-weights", "1+0.3")
    # Not even what the judge was trained with is taken unasked.
    config = json.loads((judge / "config.json").read_text())
    recipe = {"loss_type": "l1+efficientnet", "loss_weights": "1+0.3"}
    (judge / "config.json").write_text(json.dumps(config | recipe))
    assert told(video, gaze, "--judge", judge)["loss_type"] == "l1"
    assert "unknown loss_type" in fails("judge", video, gaze, "--judge", judge, "--loss-type", "l2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--judge", "canvas"], "always judges too"),
        (["--judge", "./none"], "no such checkpoint"),
        (["--judge", "learned"], "chose from 16+32 / 8, but --judge learned judges"),
        (["--picture", "sheet.jpg"], "must end in .png"),
        (["--picture", "no/sheet.png"], "no does not exist"),
        (["--device", "toaster"], "toaster"),
    ],
)
def test_refuses(video: Path, judge: Path, words: list[str], said: str, monkeypatch) -> None:
    monkeypatch.chdir(video.parent)
    assert said in fails("judge", video, gaze_at(video), *words)


def test_refuses_what_does_not_belong_together(video: Path, judge: Path, monkeypatch) -> None:
    gaze, folder = gaze_at(video), video.parent

    def refused(other: Path, file: Path = gaze) -> str:
        picture = folder / "sheet.png"
        said = fails("judge", other, file, "--judge", judge, "--picture", picture)
        assert not picture.exists()
        return said

    assert "no such file" in refused(folder / "none.mp4")
    assert "96 x 32 pixels, but" in refused(make_video(folder / "wide.mp4", 20, 96, 32))
    assert "frame 12 cannot be read here" in refused(make_video(folder / "short.mp4", 12, 64, 32))
    assert "frame 1 at 0.050 s" in refused(make_video(folder / "fast.mp4", 20, 64, 32, fps=20))
    forward = clips.moving_square
    monkeypatch.setattr(clips, "moving_square", lambda *size: forward(*size)[::-1])
    assert "shows other frames" in refused(make_video(folder / "backward.mp4", 20, 64, 32))
    broken = folder / "broken.safetensors"
    broken.write_bytes(gaze.read_bytes()[:100])
    assert "not a readable gaze file" in refused(video, broken)
    assert "no such gaze file" in refused(video, folder / "none.safetensors")
    replace(Gaze.load(gaze), source=None).save(broken)
    assert "does not know which frames" in refused(video, broken)


def test_a_judge_of_shorter_clips_is_refused(video: Path, tmp_path: Path) -> None:
    gaze, judge = gaze_at(video), save_judge(tmp_path / "judge", most=6)
    assert "in chunks of 16 frames" in fails("judge", video, gaze, "--judge", judge)
    short = make_video(tmp_path / "short.mp4", 6, 64, 32)  # one chunk, which it knows
    assert told(short, gaze_at(short), "--judge", judge)["num_frames"] == 6


def test_the_gaze_file_is_not_painted_over(video: Path, judge: Path) -> None:
    gaze = gaze_at(video).rename(video.with_name("gaze.png"))
    before = gaze.read_bytes()
    said = fails("judge", video, gaze, "--judge", judge, "--picture", gaze)
    assert "choose another file" in said
    assert gaze.read_bytes() == before
