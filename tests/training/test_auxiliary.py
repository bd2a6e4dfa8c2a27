"""What vision tokens are asked for besides labels, and weights that know places."""

import math

import pytest
import torch

from autogaze.gaze import Gaze
from autogaze.training.auxiliary import (
    CENTRE,
    FLOOR,
    canvas_targets,
    cell_targets,
    directions,
    regression_loss,
    share_positions,
)
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from tests.models.autogaze.tiny import tiny_model, tiny_video
from tests.training.composed import compose_options
from tests.training.tiny import tiny_config

GRID, SIDE = 4, 64
VIEW, CHANGE, EARLIER = 0, 1, 2
"""Hints of a pyramid of two scales."""


def targets_of(frames):
    return cell_targets(frames, tiny_model().pyramid, GRID)


def test_a_still_grey_clip_has_no_errors():
    found = targets_of(torch.full((1, 3, 3, SIDE, SIDE), 0.5))
    assert found.shape == (1, 3, GRID * GRID, 3)
    torch.testing.assert_close(found, torch.full_like(found, math.log(FLOOR) - CENTRE))


def test_change_is_a_target_where_and_when_it_happens():
    frames = torch.full((1, 4, 3, SIDE, SIDE), 0.5)
    frames[:, 2:, :, 16:32, 48:64] = 0.9  # cell (1, 3), from frame 2 on
    found = targets_of(frames)
    quiet, cell = math.log(FLOOR) - CENTRE, 1 * GRID + 3
    loud = math.log(0.4 + FLOOR) - CENTRE
    is_loud = torch.zeros(4, GRID * GRID, dtype=torch.bool)
    is_loud[2, cell] = True
    torch.testing.assert_close(found[0, ..., CHANGE], torch.where(is_loud, loud, quiet))
    is_loud[3, cell] = True  # two frames back it was still otherwise
    torch.testing.assert_close(found[0, ..., EARLIER], torch.where(is_loud, loud, quiet))


def test_detail_is_a_target_where_a_coarse_scale_loses_it():
    frames = torch.full((1, 1, 3, SIDE, SIDE), 0.5)
    frames[..., :16, :16] += 0.3 * (torch.arange(16) % 2 * 2 - 1)  # stripes of single pixels
    found = targets_of(frames)[0, 0, :, VIEW]
    assert found[0] == pytest.approx(math.log(0.3 + FLOOR) - CENTRE, abs=0.05)
    assert found[5:].max() < found[0] - 2


def test_tokens_that_carry_the_targets_have_no_loss():
    targets = torch.randn(2, 3, 16, 3)
    carried = torch.randn(2, 3, 16)
    read = directions(48, 3, torch.device("cpu"))
    torch.testing.assert_close(read.mT @ read, torch.eye(4))
    tokens = torch.cat([targets, carried[..., None]], -1) @ read.mT
    torch.testing.assert_close(regression_loss(tokens, targets, carried), torch.zeros(2))
    off = tokens + read[:, 0]
    torch.testing.assert_close(regression_loss(off, targets, carried), torch.full((2,), 1 / 3))
    off = tokens + read[:, 3]
    torch.testing.assert_close(regression_loss(off, targets, carried), torch.ones(2))
    torch.testing.assert_close(regression_loss(off, targets), torch.zeros(2))


def test_the_canvas_of_earlier_gazes_is_a_target():
    pyramid = tiny_model().pyramid
    frames = torch.full((1, 3, 3, SIDE, SIDE), 0.8)
    mask = torch.zeros(1, 3, pyramid.num_patches, dtype=torch.bool)
    fine = pyramid.offsets[-1]
    mask[0, 0, fine + 5] = True
    mask[0, 1, fine + 6] = True
    found = canvas_targets(frames, Gaze.from_mask(pyramid, mask), GRID)[0]
    quiet, loud = math.log(FLOOR) - CENTRE, math.log(0.3 + FLOOR) - CENTRE
    drawn = torch.zeros(3, GRID * GRID, dtype=torch.bool)
    drawn[1:, 5], drawn[2:, 6] = True, True
    torch.testing.assert_close(found, torch.where(drawn, quiet, loud))


def test_the_auxiliary_loss_trains_the_stem(tmp_path):
    def losses(weight, steps):
        options = tiny_config("ntp", tmp_path / f"{weight}", max_steps=steps)
        options["algorithm"]["auxiliary_weight"] = weight
        trainer = build_trainer(options)
        trainer.fit()
        frames = torch.rand(2, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
        tokens, _ = trainer.objective.model.gazing_model.vision_tokens(frames * 2 - 1)
        return float(regression_loss(tokens, targets_of(frames)).mean().detach())

    assert losses(1.0, 12) < 0.7 * losses(0.0, 12)


def test_positions_and_their_patches_share_a_code():
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    share_positions(model, seed=1)
    parts, V = model.gazing_model, model.pyramid.num_patches
    tokens = parts.connector.pos_embed.view(GRID * GRID, -1)
    fine = slice(model.pyramid.offsets[-1], V)
    patches = parts.gaze_decoder.model.embed_tokens.weight[fine]
    assert torch.cosine_similarity(tokens[:, None], patches[None], dim=-1).argmax(1).tolist() == (
        list(range(GRID * GRID))
    )
    heads = parts.gaze_decoder.lm_head.weight.view(-1, V + 1, tokens.shape[1])[:, fine]
    assert (tokens @ heads.mT).argmax(-1).tolist() == [list(range(GRID * GRID))] * len(heads)
    # What it does not touch stays as it was drawn.
    for name in ("vision_model.temporal_conv.weight", "gaze_decoder.model.norm.weight"):
        assert torch.equal(
            model.state_dict()[f"gazing_model.{name}"], before[f"gazing_model.{name}"]
        )
    again = tiny_model()
    share_positions(again, seed=1)
    video = tiny_video(1, 2)
    assert torch.equal(
        again.generate(video, caps=[3, 3]).to_gaze().ids,
        model.generate(video, caps=[3, 3]).to_gaze().ids,
    )


def test_targets_that_name_one_patch_are_labels(tmp_path):
    def options(softness, name):
        config = tiny_config("ntp", tmp_path / name, max_steps=3)
        config["dataset"]["greedy_labels"]["softness"] = softness
        return config

    plain, sharp, soft = (
        build_trainer(options(softness, name))
        for softness, name in ((0.0, "plain"), (1e-6, "sharp"), (0.5, "soft"))
    )
    for trainer in (plain, sharp, soft):
        trainer.fit()
    first, second, third = (
        trainer.objective.model.gazing_model.gaze_decoder.lm_head.weight
        for trainer in (plain, sharp, soft)
    )
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    assert (first - third).abs().max() > 1e-3


@pytest.mark.parametrize("recipe", ["ntp", "grpo"])
def test_the_auxiliary_loss_is_logged_apart(recipe, tmp_path):
    entries = []
    for weight in (0.0, 0.5):
        options = tiny_config(recipe, tmp_path / f"{weight}", max_steps=1)
        options["algorithm"]["auxiliary_weight"] = weight
        build_trainer(options).fit()
        entries.append(read_metrics(tmp_path / f"{weight}" / "tiny" / "metrics.jsonl")[0])
    without, with_auxiliary = entries
    assert with_auxiliary["loss"] == pytest.approx(without["loss"], rel=1e-4)
    assert "auxiliary_loss" not in without
    assert with_auxiliary["auxiliary_loss"] > 0.1


COMMON = [
    ("algorithm.auxiliary_weight", 1),
    ("trainer.shared_positions", True),
]


@pytest.mark.parametrize(
    ("recipe", "option", "value"),
    [(recipe, *pair) for recipe in ("ntp", "grpo") for pair in COMMON]
    + [("ntp", "dataset.greedy_labels.softness", 0.1)],
)
def test_options_can_be_set_whatever_the_algorithm(recipe, option, value):
    config = f"procedural_canvas_reconstruction_ar_gaze_{recipe}"
    found = compose_options(config, f"{option}={value}")
    for part in option.split("."):
        found = found[part]
    assert found == value
