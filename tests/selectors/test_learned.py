"""The learned selector behind the protocol: plain RGB in, what every selector promises out."""

import pytest
import torch
from torch import Tensor

from autogaze import Gaze
from autogaze.clips import Clips
from autogaze.errors import GeometryError, SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.selectors.learned import Learned
from tests.gazes import same
from tests.models.autogaze.tiny import tiny_model
from tests.selectors.clips import random_clips


@pytest.fixture(scope="module")
def selector() -> Learned:
    return Learned(tiny_model())


def frames_for(selector: Learned, num_clips: int = 2, num_frames: int = 4) -> Tensor:
    return random_clips(selector.pyramid, num_clips, num_frames, seed=3)


def some_loss(selector: Learned, frames: Tensor) -> float:
    """A predicted loss at which some frames stop early: in a wide gap, where rounding decides nothing.

    Random weights predict negative losses too, which nobody may ask for.
    """
    video = selector.preprocess(Clips(frames))
    scores = selector.model.score(video, selector.model.generate(video))
    losses = scores.predicted_losses.detach().flatten().sort().values
    high = losses[losses > 0][-12:]
    gap = (high[1:] - high[:-1]).argmax()
    return float(high[gap : gap + 2].mean())


@pytest.mark.parametrize("stop", [False, True])
def test_frame_by_frame_and_clip_by_clip_give_the_same(selector: Learned, stop: bool) -> None:
    frames = frames_for(selector)
    loss = some_loss(selector, frames) if stop else None
    settings = {"ratio": [0.5, 0.3, 1.0, 0.1], "loss": loss}
    whole = selector.select(frames, **settings)
    stream = selector.stream(**settings)
    pieces = [stream.step(frame) for frame in frames.split(1, dim=1)]
    assert stream.finish() is None
    assert same(Gaze.cat_frames(pieces), whole)
    alone = [selector.select(clip, **settings) for clip in frames.split(1)]
    assert same(Gaze.cat_clips(alone), whole)
    if stop:
        assert (whole.lengths < torch.tensor([10, 6, 20, 2])).any()
    else:
        assert whole.lengths.tolist() == [[10, 6, 20, 2]] * 2


def test_with_neither_the_configs_threshold_stops(selector: Learned) -> None:
    frames = frames_for(selector)
    default = selector.model.config.task_loss_requirement_config["fixed"]["task_loss_requirement"]
    assert selector.default_loss == default
    assert same(selector.select(frames), selector.select(frames, loss=default))


def test_uint8_and_float_frames_give_the_same_gaze(selector: Learned) -> None:
    small = (frames_for(selector) * 255).round().byte()
    assert same(selector.select(small, ratio=0.3), selector.select(small / 255, ratio=0.3))


def test_sampling_follows_its_generator(selector: Learned) -> None:
    frames, warm = frames_for(selector), Learned(selector.model, temperature=3.0)

    def draw(seed: int) -> Gaze:
        return warm.select(frames, ratio=0.3, generator=torch.Generator().manual_seed(seed))

    assert same(draw(1), draw(1))
    assert not same(draw(1), draw(2))
    with pytest.raises(SelectorError, match=r"\btemperature .*\b0\b.* -1"):
        Learned(selector.model, temperature=-1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 3.0])
def test_values_outside_the_unit_range_are_refused(selector: Learned, value: float) -> None:
    frames = frames_for(selector)
    frames[1, 2, 0, 5, 7] = value
    with pytest.raises(SelectorError, match=r"\bframes .*finite.*\[0, 1\]"):
        selector.select(frames, ratio=0.1)
    stream = selector.stream(ratio=0.1)
    stream.step(frames[:, :1])
    with pytest.raises(SelectorError, match=r"finite"):
        stream.step(frames[:, 2:3])


def test_what_cannot_be_done_is_refused(selector: Learned) -> None:
    frames = frames_for(selector)
    for ratio in (0.0, 1.01, float("nan"), [0.5, 0.0]):
        with pytest.raises(SelectorError, match="ratio"):
            selector.select(frames, ratio=ratio)
    for loss in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SelectorError, match="loss"):
            selector.select(frames, loss=loss)
    with pytest.raises(SelectorError, match="64 x 64 pixels, got 60 x 60"):
        selector.select(frames[..., :60, :60])
    with pytest.raises(SelectorError, match="no frames"):
        selector.select(frames[:, :0])

    stream = selector.stream(ratio=0.1)
    with pytest.raises(SelectorError, match="one frame at a time"):
        stream.step(frames)
    stream.step(frames[:, :1])
    with pytest.raises(SelectorError, match="started with 2 clips, got 1"):
        stream.step(frames[:1, 1:2])
    stream.finish()
    with pytest.raises(SelectorError, match="finished"):
        stream.step(frames[:, 1:2])


OTHER = PatchPyramid((12, 24), 3)
"""8 cells a side where the model has 4: tiles of 2 x 2."""


@pytest.fixture(scope="module")
def other(selector: Learned) -> Learned:
    return Learned(selector.model, pyramid=OTHER)


def test_other_grids_equal_the_models_own_call(other: Learned) -> None:
    frames = random_clips(OTHER, 2, 3, seed=5)
    gaze = other.select(frames, ratio=0.4)
    video = normalise(frames)
    known = other.model(video, gazing_ratio=0.4, target_scales=[12, 24], target_patch_size=3)
    assert gaze.pyramid == OTHER
    assert same(gaze, known.gaze)
    assert gaze.num_patches > 0


@pytest.mark.parametrize("ratio", [0.07, 0.3, [0.5, 0.1, 1.0]])
def test_other_grids_keep_the_cap_and_stream(other: Learned, ratio: float | list[float]) -> None:
    frames = random_clips(OTHER, 2, 3, seed=5)
    whole = other.select(frames, ratio=ratio)
    ratios = ratio if isinstance(ratio, list) else [ratio] * 3
    for frame, share in enumerate(ratios):
        assert (whole.lengths[:, frame] <= max(4, share * OTHER.num_patches)).all()
    stream = other.stream(ratio=ratio)
    pieces = [stream.step(frame) for frame in frames.split(1, dim=1)]
    assert same(Gaze.cat_frames(pieces), whole)


def test_other_grids_need_as_many_scales(selector: Learned) -> None:
    with pytest.raises(GeometryError, match="3 target scales"):
        Learned(selector.model, pyramid=PatchPyramid((6, 12, 24), 3))
