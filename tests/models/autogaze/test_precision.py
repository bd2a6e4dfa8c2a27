"""Gazing in bfloat16: the patches that float32 prefers clearly, on every device."""

import copy
import inspect

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import autogaze
from autogaze.models.autogaze import AutoGaze, gaze_model
from tests.models.autogaze.tiny import tiny_model, tiny_video

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])]


def decided_model(seed: int) -> AutoGaze:
    """A tiny model that mostly prefers one patch clearly, as trained ones do."""
    model = tiny_model(seed)
    with torch.no_grad():
        model.gazing_model.gaze_decoder.lm_head.weight.mul_(4)
    return model


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_gives_the_gazes_of_float32(device: str) -> None:
    """At least 99 % of gazes, up to a clip's first one that rounding may decide.

    From there on the clip has another past, so its later gazes say nothing.
    """
    equal = total = 0
    for seed in range(4):
        model, video = decided_model(seed), tiny_video(32, 3, seed)
        generation = model.generate(video, caps=[6] * 3)
        half = copy.deepcopy(model).to(device, torch.bfloat16)
        positions = half.generate(video.to(device, torch.bfloat16), caps=[6] * 3).to_padded()
        agree = positions["gazing_pos"].cpu() == generation.to_padded()["gazing_pos"]
        clear = model.score(video, generation).log_probs.exp() > 0.6
        counted = clear.int().cumprod(dim=1).bool()
        equal += int((agree & counted).sum())
        total += int(counted.sum())
    assert total > 150, "too few gazes for this test to say anything"
    assert equal >= 0.99 * total


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_logits_and_predicted_losses_are_not_halves(dtype: torch.dtype, static: bool) -> None:
    """They differ from float32's by what rounded weights make, not by what rounded sums would."""
    model, video = tiny_model(), tiny_video(2, 2)
    half = copy.deepcopy(model).to(dtype)
    # The same values in both: only the arithmetic differs.
    model.load_state_dict({name: weight.float() for name, weight in half.state_dict().items()})
    half.static_shapes = static
    exact = model.generate(video.to(dtype).float(), caps=[1, 1]).losses
    found = half.generate(video.to(dtype), caps=[1, 1]).losses
    assert found is not None
    assert exact is not None
    assert found.dtype == torch.float32
    step = torch.finfo(dtype).eps
    assert (found - exact).abs().max() < 10 * step * exact.abs().max()
    on_grid = found.to(dtype).float() == found  # what a head in half precision would give
    assert not on_grid.all()


def test_float16_gives_the_patches_of_float32() -> None:
    """The weights that come with the package; a CPU is slow in this precision."""
    from tests.clips import moving_square  # PyAV, which not every machine with a GPU has

    selector = autogaze.load("learned")
    clips = torch.from_numpy(moving_square(3, 224, 224)).permute(0, 3, 1, 2)[None]
    expected = selector.select(clips, ratio=0.1).mask
    selector.model.to(torch.float16)  # type: ignore[attr-defined]
    found = selector.select(clips, ratio=0.1).mask
    assert int((found & expected).sum()) >= 0.99 * int(expected.sum())


def test_scoring_under_autocast_keeps_the_residual_stream_in_float32() -> None:
    """All norms and what they are given, without a warning (these are errors here)."""
    model, video = tiny_model(decode_positions="sequential"), tiny_video(2, 3)
    generation = model.generate(video, caps=[6] * 3)
    exact = model.score(video, generation)
    decoder, seen = model.gazing_model.gaze_decoder.model, []
    norms = [module for module in decoder.modules() if isinstance(module, torch.nn.RMSNorm)]
    assert len(norms) == 5
    for norm in norms:
        norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.score(video, generation)
    assert {tensor.dtype for pair in seen for tensor in pair} == {torch.float32}
    assert mixed.log_probs.dtype == torch.float32
    assert (mixed.log_probs - exact.log_probs).square().mean() < 6e-4
    mixed.log_probs.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_stem_convolves_in_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an operator of cuDNN's that is told so; here PyTorch's own stands for it."""
    asked: list[bool] = []

    def convolution(
        frames: Tensor,
        weight: Tensor,
        padding: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        *,
        benchmark: bool,
        deterministic: bool,
        allow_tf32: bool,
    ) -> Tensor:
        asked.append(allow_tf32)
        return F.conv3d(frames, weight, None, stride, padding, dilation, groups)

    schema = torch.ops.aten.cudnn_convolution.default._schema
    named = list(inspect.signature(convolution).parameters)
    assert [argument.name for argument in schema.arguments][2:] == named[2:]
    model, video = tiny_model(), tiny_video(2, 3)
    expected = model.generate(video, caps=[6] * 3).to_gaze()
    monkeypatch.setattr(gaze_model, "_may_round", lambda frames: True)
    monkeypatch.setattr(torch, "cudnn_convolution", convolution)
    found = model.generate(video, caps=[6] * 3).to_gaze()
    assert found.ids.equal(expected.ids)
    assert asked
    assert not any(asked)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_frames_are_normalised_at_once_as_in_steps(dtype: torch.dtype, device: str) -> None:
    frames = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    found = gaze_model.normalised_at_once(frames[:, 1:], dtype)
    assert found.dtype == dtype
    expected = gaze_model.normalise(frames[:, 1:])
    torch.testing.assert_close(found.float(), expected, rtol=torch.finfo(dtype).eps, atol=2e-6)


def test_channels_may_lie_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """As half-precision convolutions of a GPU have them, also in a stream."""
    stem, video = tiny_model().gazing_model.vision_model, tiny_video(2, 3)
    with torch.no_grad():
        expected, _ = stem(video)
        monkeypatch.setattr(gaze_model, "_channels_last", lambda frames: True)
        found, history = stem(video[:, :2])
        assert history[0].stride(1) == 1
        later, _ = stem(video[:, 2:], history)
    largest = float(expected.abs().max())
    torch.testing.assert_close(torch.cat([found, later], 1), expected, rtol=0, atol=3e-6 * largest)
