"""Predicted losses: what they are, and their way through joins, files and `info` (section 11)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from autogaze import Gaze, PatchPyramid
from autogaze.cli.app import app
from autogaze.errors import AutoGazeError, GeometryError
from autogaze.gaze_io import GazeWriter
from autogaze.models.autogaze import AutoGaze
from autogaze.selectors.greedy import Greedy
from autogaze.selectors.learned import Learned
from tests.gazes import same
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video
from tests.selectors.clips import random_clips

PYRAMID = PatchPyramid((32, 64), 16)


def gaze_of(model: AutoGaze, static: bool, **limits: object) -> Gaze:
    model.static_shapes = static
    return model.generate(tiny_video(3, 3), **limits).to_gaze()  # type: ignore[arg-type]


@pytest.mark.parametrize("static", [False, True])
def test_frames_that_the_threshold_stopped_are_predicted_to_be_below_it(static: bool) -> None:
    model = tiny_model()
    threshold = threshold_of(model, tiny_video(3, 3))
    gaze = gaze_of(model, static, threshold=threshold)
    stopped = gaze.lengths < 20
    assert stopped.any()
    assert gaze.predicted_losses is not None
    assert (gaze.predicted_losses[stopped] <= threshold).all()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("cap", [1, 3, 6, 11])
def test_under_a_cap_it_is_what_scoring_predicts_after_the_last_patch(
    static: bool, cap: int
) -> None:
    model = tiny_model(decode_positions="sequential")  # decoding and scoring see the same states
    gaze = gaze_of(model, static, caps=[cap] * 3)
    scores = model.score(tiny_video(3, 3), gaze)
    expected = scores.predicted_losses[:, cap - 1 :: cap]  # K = 4 does not divide these caps
    assert gaze.predicted_losses is not None
    torch.testing.assert_close(gaze.predicted_losses, expected.detach(), rtol=1e-4, atol=1e-4)


def test_a_full_block_has_the_prediction_before_its_last_patch() -> None:
    model = tiny_model(decode_positions="sequential")
    gaze = gaze_of(model, False, caps=[8] * 3)
    scores = model.score(tiny_video(3, 3), gaze)
    assert gaze.predicted_losses is not None
    expected = scores.predicted_losses[:, 6::8].detach()
    torch.testing.assert_close(gaze.predicted_losses, expected, rtol=1e-4, atol=1e-4)


def test_a_row_alone_and_caps_of_its_own() -> None:
    model, video = tiny_model(), tiny_video(3, 2)
    caps = torch.tensor([[1, 20], [7, 3], [13, 2]])
    for static in (False, True):
        model.static_shapes = static
        together = model.generate(video, caps=caps).to_gaze()
        for row in range(3):
            alone = model.generate(video[row : row + 1], caps=caps[row : row + 1]).to_gaze()
            assert same(together[row], alone)


def test_only_selectors_that_predict_have_them() -> None:
    clips = random_clips(PYRAMID, 2, 3, seed=0)
    assert Greedy(PYRAMID).select(clips, ratio=0.2).predicted_losses is None
    learned = Learned(tiny_model())
    gaze = learned.select(clips, ratio=0.2)
    assert gaze.predicted_losses is not None
    assert gaze.predicted_losses.shape == (2, 3)
    assert gaze.losses is None
    other = Learned(tiny_model(), pyramid=PatchPyramid((56, 112), 14, crop=True))
    tiled = other.select(random_clips(other.pyramid, 2, 3, seed=0), ratio=0.2)
    assert tiled.predicted_losses is not None
    assert tiled.predicted_losses.shape == (2, 3)


def some_gaze() -> Gaze:
    gaze = Learned(tiny_model()).select(random_clips(PYRAMID, 2, 5, seed=0), ratio=0.2)
    return replace(gaze, losses=torch.rand(2, 5), metric="canvas")


def test_joins_and_parts_keep_them() -> None:
    gaze = some_gaze()
    assert same(Gaze.cat_frames([gaze.frames(0, 2), gaze.frames(2, 5)]), gaze)
    assert same(Gaze.cat_clips(list(gaze)), gaze)
    assert same(gaze.to("cpu"), gaze)
    without = replace(gaze, predicted_losses=None)
    assert Gaze.cat_frames([gaze, without]).predicted_losses is None
    assert "predicted loss" in repr(gaze)
    assert "predicted loss" not in repr(without)


def test_files_keep_them_and_files_without_them_are_read(tmp_path: Path) -> None:
    gaze, path = some_gaze(), tmp_path / "gaze.safetensors"
    gaze.save(path)
    assert same(Gaze.load(path), gaze)
    with GazeWriter(tmp_path / "pieces.safetensors") as writer:
        for piece in (gaze.frames(0, 3), gaze.frames(3, 5)):
            writer.add(piece)
    assert same(Gaze.load(tmp_path / "pieces.safetensors"), gaze)
    without = replace(gaze, predicted_losses=None)
    without.save(path)
    assert "predicted_losses" not in load_file(path)  # the very files of earlier versions
    assert same(Gaze.load(path), without)


@pytest.mark.parametrize(
    "values", [torch.zeros(1, 5), torch.full((2, 5), torch.inf), torch.full((2, 5), torch.nan)]
)
def test_impossible_ones_are_refused(values: torch.Tensor, tmp_path: Path) -> None:
    if values.shape == (2, 5):  # the suite's own check of shapes refuses others first
        with pytest.raises(GeometryError):
            replace(some_gaze(), predicted_losses=values)
    path = tmp_path / "gaze.safetensors"
    some_gaze().save(path)
    with safe_open(path, "pt") as file:
        entries = file.metadata()
    save_file({**load_file(path), "predicted_losses": values}, path, entries)
    with pytest.raises(AutoGazeError, match=path.name):
        Gaze.load(path)


def test_info_shows_both(tmp_path: Path) -> None:
    gaze, path = some_gaze(), tmp_path / "gaze.safetensors"
    gaze.save(path)
    assert gaze.losses is not None
    assert gaze.predicted_losses is not None
    facts = json.loads(CliRunner().invoke(app, ["info", str(path), "--json"]).stdout)
    assert facts["loss_mean"] == pytest.approx(float(gaze.losses.mean()), rel=1e-5)
    predicted = gaze.predicted_losses
    assert facts["predicted_loss_mean"] == pytest.approx(float(predicted.mean()), rel=1e-5)
    assert facts["predicted_loss_max"] == pytest.approx(float(predicted.max()), rel=1e-5)
    words = CliRunner().invoke(app, ["info", str(path)]).stdout
    assert "loss mean" in words
    assert "predicted loss mean" in words
