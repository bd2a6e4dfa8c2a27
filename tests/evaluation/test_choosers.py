"""Any selector on any encoder's pyramid, the learned one included."""

import pytest
import torch

from autogaze import PatchPyramid
from autogaze.clips import Clips
from autogaze.errors import SelectorError
from autogaze.evaluation.choosers import check_choosers, load_chooser, with_controls
from autogaze.evaluation.flops import canvas_flops, learned_flops
from autogaze.selectors.learned import Learned
from tests.evaluation.tiny import PLACE


def frames(side: int, num_frames: int = 2) -> Clips:
    generator = torch.Generator().manual_seed(0)
    shape = (1, num_frames, 3, side, side)
    return Clips(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))


def test_the_controls_are_always_there_and_once():
    assert with_controls(["greedy", "random"]) == ["greedy", "random", "centre"]


def test_the_learned_selector_takes_the_share_it_is_given():
    chooser = load_chooser("learned", PatchPyramid(), PLACE)
    chosen = chooser.choose(frames(224), 0.05, torch.Generator())
    assert chosen.gaze.lengths.tolist() == [[13, 13]]
    assert isinstance(chooser.selector, Learned)
    assert not chooser.stops
    assert chooser.flops(chosen.own) == learned_flops(chooser.selector.model.config, [13, 13])


def test_the_learned_selector_serves_another_grid_by_tiles():
    pyramid = PatchPyramid((56, 112, 196, 384), 14, crop=True)
    chooser = load_chooser("learned", pyramid, PLACE)
    chosen = chooser.choose(frames(384, 1), 0.05, torch.Generator())
    assert chosen.own.num_clips == 4  # 2 x 2 tiles of 14 x 14 cells cover 27 x 27
    assert chosen.gaze.pyramid == pyramid
    assert 0 < chosen.gaze.num_patches <= 4 * 13
    assert chooser.flops(chosen.own) == 4 * learned_flops(chooser.selector.model.config, [13])


def test_training_free_selectors_choose_from_the_encoders_patches():
    pyramid = PatchPyramid((16, 32, 64), 16)
    chooser = load_chooser("greedy", pyramid, PLACE)
    chosen = chooser.choose(frames(64), 0.5, torch.Generator())
    assert chosen.gaze.pyramid == pyramid
    assert chooser.flops(chosen.own) == canvas_flops(pyramid, 2)


def test_unknown_selectors_are_refused_before_anything_slow():
    check_choosers(["learned", "greedy", "owner/model"])
    with pytest.raises(SelectorError, match="oracle"):
        check_choosers(["oracle"])
