"""Triton's operators of a layer are PyTorch's: run by `test_triton.py` in a process whose Triton interprets."""

import pytest
import torch

from autogaze.models.autogaze import decoder, gaze_model, layer_ops
from autogaze.models.autogaze.layer_ops import TritonLayerOps
from tests.models.autogaze.tiny import tiny_model, tiny_video

CPU = torch.device("cpu")


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_results_and_gradients_are_pytorchs(
    dtype: torch.dtype, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_ops, "PROGRAMS", 3)
    assert layer_ops._difference(CPU, dtype, 24, 8, 20) < most


def test_gradients_of_a_scored_gaze_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, video = tiny_model(), tiny_video(2, 2)
    rows = model.generate(video, caps=[6, 5])

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        scores = model.score(video, rows)
        (scores.log_probs.sum() + scores.predicted_losses.sum()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients()
    monkeypatch.setattr(decoder, "layer_ops", lambda *args: TritonLayerOps())
    for one, other in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
def test_patches_are_pytorchs(dtype: torch.dtype, most: float) -> None:
    assert gaze_model._difference_of_patches(CPU, dtype, 4) < most
