"""`autogaze measure`: what a saved gaze preserves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from autogaze import gaze_video
from autogaze.cli.measure import measure_clips
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedVideo
from autogaze.selectors.greedy import Greedy
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.utils.device import DeviceOptions
from autogaze.video.chunks import ChunkReader
from tests import clips
from tests.cli.commands import fails, run
from tests.clips import damage, make_video
from tests.tasks.material import TINY, tiny_mae

SMALL = PatchPyramid((16, 32), 8)  # tiles of 32 pixels: two in a frame of 64 x 32


def save_mae(folder: Path, most: int = 16) -> Path:
    mae = tiny_mae(std=0.05, config=replace(TINY, max_num_frames=most))
    VideoMAETask(mae, FrameLosses.parse("l1", 1)).save_pretrained(folder)
    return folder


def gaze_at(video: Path, **options) -> Path:
    """A gaze file beside the video, of tiles that a tiny VideoMAE knows."""
    path = video.with_suffix(".safetensors")
    gaze_video(video, selector=Greedy(SMALL), ratio=0.2, **options).save(path)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "square.mp4", 20, 64, 32)


@pytest.fixture
def mae(tmp_path: Path) -> Path:
    return save_mae(tmp_path / "mae")


def measured(*words: object) -> dict:
    result = run("measure", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_on_the_canvas(tmp_path: Path) -> None:
    video = make_video(tmp_path / "square.mp4", 3)
    gaze, picture = tmp_path / "gaze.safetensors", tmp_path / "picture.png"
    assert run("gaze", video, "--ratio", 0.05, "--out", gaze).exit_code == 0
    losses = Gaze.load(gaze).losses
    report = measured(video, gaze)
    assert report["metric"] == report["judge"] == "canvas"
    assert report["mean"] == {"canvas": {"l1": pytest.approx(float(losses.mean()))}}
    assert report["largest"] == {"canvas": {"l1": pytest.approx(float(losses.max()))}}
    assert [frame["mean"]["canvas"]["l1"] for frame in report["frames"]] == pytest.approx(
        losses.mean(0).tolist()
    )
    result = run("measure", video, gaze, "--picture", picture)
    assert result.exit_code == 0, result.output
    for words in ("canvas", "3 frames", f"{float(losses.mean()):.4f}"):
        assert words in result.stdout
    with Image.open(picture) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 3 * 224


def test_every_tile_of_every_chunk_is_measured(video: Path, mae: Path) -> None:
    file = gaze_at(video)
    report, gaze = measured(video, file, "--metric", mae), Gaze.load(file)
    assert report["metric"] == report["judge"] == str(mae)
    assert (report["loss_type"], report["loss_weights"]) == ("l1", "1")
    assert (report["tiles"], report["num_frames"], report["chunk"]) == ([2, 1], 20, 16)
    task = VideoMAETask.from_checkpoint(mae)
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


def test_the_table_names_both_views(video: Path, mae: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    result = run("measure", video, gaze_at(video), "--metric", mae, "--picture", picture)
    assert result.exit_code == 0, result.output
    for words in (str(mae), "l1, weighted 1", "canvas", "reconstruction", "20 frames"):
        assert words in result.stdout
    assert picture.is_file()


def test_former_names_still_work(video: Path, mae: Path) -> None:
    gaze = gaze_at(video)
    result = run("judge", video, gaze, "--judge", mae, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == measured(video, gaze, "--metric", mae)
    verb, option = result.stderr.splitlines()
    assert "measure" in verb
    assert "--metric" in option


def test_frames_are_found_again(tmp_path: Path) -> None:
    video = make_video(tmp_path / "square.mp4", 30, 64, 32)
    some = gaze_at(video, start=0.5, end=2.8, fps=5)
    report, source = measured(video, some), Gaze.load(some).source
    assert [frame["frame"] for frame in report["frames"]] == list(source.frame_indices)
    assert source.frame_indices[:3] == (5, 7, 9)
    damage(video, 12)
    measured(video, gaze_at(video, skip_corrupt=True))


def test_chunks_are_what_was_gazed_at(video: Path) -> None:
    gaze = Gaze.load(gaze_at(video))
    for chunk, again in zip(ChunkReader(video, side=32), GazedVideo(video, gaze), strict=True):
        assert again.frames.equal(chunk.clips.frames)
        assert again.source == chunk.source


def test_other_losses_must_be_asked_for(video: Path, mae: Path, monkeypatch) -> None:
    gaze = gaze_at(video)
    words = (video, gaze, "--metric", mae, "--loss-type", "l1+efficientnet")
    assert "loss_weights" in fails("measure", *words)
    monkeypatch.setattr("autogaze.reconstruction.efficientnet.find_spec", lambda name: None)
    assert "autogaze[efficientnet]" in fails("measure", *words, "--loss-weights", "1+0.3")
    # Not even what the VideoMAE was trained with is taken unasked.
    config = json.loads((mae / "config.json").read_text())
    recipe = {"loss_type": "l1+efficientnet", "loss_weights": "1+0.3"}
    (mae / "config.json").write_text(json.dumps(config | recipe))
    assert measured(video, gaze, "--metric", mae)["loss_type"] == "l1"
    assert "loss_type" in fails("measure", video, gaze, "--metric", mae, "--loss-type", "l2")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--loss-type", "l1+efficientnet"], "--loss-type"),
        (["--metric", "./none"], "none"),
        (["--metric", "learned"], "canvas"),  # came with the package once
        (["--metric", "coarse"], "16+32 / 16"),
        (["--picture", "sheet.jpg"], "sheet.jpg"),
        (["--picture", "no/sheet.png"], "no/sheet.png"),
        (["--metric", "mae", "--device", "toaster"], "toaster"),
    ],
)
def test_refuses(video: Path, mae: Path, words: list[str], value: str, monkeypatch) -> None:
    monkeypatch.chdir(video.parent)
    config = replace(TINY, patch_size=16, max_num_frames=16)
    VideoMAETask(tiny_mae(config=config), FrameLosses.parse("l1", 1)).save_pretrained("coarse")
    assert value in fails("measure", video, gaze_at(video), *words)


def test_refuses_what_does_not_belong_together(video: Path, monkeypatch) -> None:
    gaze, folder = gaze_at(video), video.parent

    def refused(other: Path, file: Path = gaze) -> str:
        picture = folder / "sheet.png"
        message = fails("measure", other, file, "--picture", picture)
        assert not picture.exists()
        return message

    assert "none.mp4" in refused(folder / "none.mp4")
    assert "96 x 32" in refused(make_video(folder / "wide.mp4", 20, 96, 32))
    assert "frame 12" in refused(make_video(folder / "short.mp4", 12, 64, 32))
    assert "frame 1 at 0.050 s" in refused(make_video(folder / "fast.mp4", 20, 64, 32, fps=20))
    forward = clips.moving_square
    monkeypatch.setattr(clips, "moving_square", lambda *size: forward(*size)[::-1])
    assert "frames" in refused(make_video(folder / "backward.mp4", 20, 64, 32))
    broken = folder / "broken.safetensors"
    broken.write_bytes(gaze.read_bytes()[:100])
    assert "broken.safetensors" in refused(video, broken)
    assert "none.safetensors" in refused(video, folder / "none.safetensors")
    saved = Gaze.load(gaze)
    for wrong in (
        replace(saved, source=None),  # of no video
        saved.frames(0, 0),
        replace(saved, source=replace(saved.source, tiles=replace(saved.source.tiles, side=48))),
    ):
        wrong.save(broken)
        assert "broken.safetensors" in refused(video, broken)


def test_a_video_mae_of_shorter_clips_is_refused(video: Path, tmp_path: Path) -> None:
    gaze, mae = gaze_at(video), save_mae(tmp_path / "mae", most=6)
    message = fails("measure", video, gaze, "--metric", mae)
    assert "16 frames" in message
    assert "at most 6" in message
    short = make_video(tmp_path / "short.mp4", 6, 64, 32)  # one chunk, which it knows
    assert measured(short, gaze_at(short), "--metric", mae)["num_frames"] == 6


def test_the_gaze_file_is_not_painted_over(video: Path) -> None:
    gaze = gaze_at(video).rename(video.with_name("gaze.png"))
    before = gaze.read_bytes()
    assert "gaze.png" in fails("measure", video, gaze, "--picture", gaze)
    assert gaze.read_bytes() == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_of_a_video_mae(video: Path, mae: Path, dtype: str) -> None:
    """Its reconstruction is rounded; the canvas and all losses are not."""
    gaze = gaze_at(video)
    exact = measured(video, gaze, "--metric", mae)
    rough = measured(video, gaze, "--metric", mae, "--dtype", dtype)
    assert (exact["dtype"], rough["dtype"]) == ("float32", dtype)
    assert rough["mean"]["canvas"] == exact["mean"]["canvas"]
    one, other = (report["mean"]["reconstruction"]["loss"] for report in (exact, rough))
    assert one != other
    assert other == pytest.approx(one, rel=0.005)
    result = run("measure", video, gaze, "--metric", mae, "--dtype", dtype)
    assert dtype in result.stdout


def test_norms_and_losses_are_float32_in_half_precision(video: Path, mae: Path) -> None:
    task, seen = VideoMAETask.from_checkpoint(mae).eval(), set()
    for part in task.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.register_forward_hook(
                lambda _, given, made: seen.update((given[0].dtype, made.dtype))
            )
    gaze = gaze_video(video, selector=Greedy(SMALL), ratio=0.2).frames(0, 16)
    frames = next(iter(ChunkReader(video, side=32))).clips.frames
    options = DeviceOptions(torch.device("cpu"), torch.bfloat16)
    errors, output = measure_clips(frames, gaze, task, options)
    assert seen == {errors.dtype} == {output.losses.dtype} == {torch.float32}


def test_precision_and_device_on_the_canvas(video: Path) -> None:
    gaze = gaze_at(video)
    assert "--dtype" in fails("measure", video, gaze, "--dtype", "bfloat16")
    assert "toaster" in fails("measure", video, gaze, "--device", "toaster")
