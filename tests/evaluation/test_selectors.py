"""Any selector on any encoder's pyramid, the learned one included."""

import pytest
import torch

from autogaze import PatchPyramid
from autogaze.clips import Clips
from autogaze.errors import SelectorError
from autogaze.evaluation.flops import canvas_flops, learned_flops, selection_flops
from autogaze.evaluation.selectors import check_selectors, load_selector, with_controls
from autogaze.selectors.learned import Learned
from tests.evaluation.tiny import DEVICE_OPTIONS


def frames(side: int, num_frames: int = 2) -> Clips:
    generator = torch.Generator().manual_seed(0)
    shape = (1, num_frames, 3, side, side)
    return Clips(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))


def test_the_controls_are_always_there_and_once():
    assert with_controls(["greedy", "random"]) == ["greedy", "random", "centre"]


def test_the_learned_selector_takes_the_share_it_is_given():
    selector = load_selector("learned", PatchPyramid(), DEVICE_OPTIONS)
    chosen = selector.select(frames(224), 0.05, torch.Generator())
    assert chosen.gaze.lengths.tolist() == [[13, 13]]
    assert isinstance(selector.selector, Learned)
    assert chosen.decoded is chosen.gaze
    lengths = chosen.decoded.lengths.tolist()
    config = selector.selector.model.config
    assert selection_flops(selector.selector, lengths) == learned_flops(config, [13, 13])
    assert not selector.stops_early


def test_the_learned_selector_serves_another_grid_by_tiles():
    pyramid = PatchPyramid((56, 112, 196, 384), 14, crop=True)
    selector = load_selector("learned", pyramid, DEVICE_OPTIONS)
    chosen = selector.select(frames(384, 1), 0.05, torch.Generator())
    # 2 x 2 tiles of 14 x 14 cells cover 27 x 27; each takes its part of the frame's cap.
    assert chosen.decoded.lengths.tolist() == [[int(0.05 * pyramid.num_patches) // 4]] * 4
    assert chosen.gaze.pyramid == pyramid
    assert 0 < chosen.gaze.num_patches <= chosen.decoded.num_patches
    lengths = chosen.decoded.lengths.tolist()
    config = selector.selector.model.config
    assert selection_flops(selector.selector, lengths) == 4 * learned_flops(config, [12])


def test_training_free_selectors_choose_from_the_encoders_patches():
    pyramid = PatchPyramid((16, 32, 64), 16)
    selector = load_selector("greedy", pyramid, DEVICE_OPTIONS)
    chosen = selector.select(frames(64), 0.5, torch.Generator())
    assert chosen.gaze.pyramid == pyramid
    lengths = chosen.decoded.lengths.tolist()
    assert selection_flops(selector.selector, lengths) == canvas_flops(pyramid, 2)


def test_unknown_selectors_are_refused_before_anything_slow():
    check_selectors(["learned", "greedy", "owner/model"])
    with pytest.raises(SelectorError, match="oracle"):
        check_selectors(["oracle"])
