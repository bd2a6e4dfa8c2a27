"""A training step on a GPU: the CPU's losses and gradients. Skipped where there is none."""

import copy
from dataclasses import replace

import pytest
import torch

from autogaze.datasets.clip import ClipBatch, LabelRequest
from autogaze.models.autogaze import AutoGaze, decoder, gaze_model
from autogaze.models.autogaze.layer_ops import LayerOps
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.training.algorithms import GRPO, NTP, Algorithm
from autogaze.training.config import AlgorithmOptions, TrainerOptions
from autogaze.training.loader import StepContext
from autogaze.training.rollouts import BatchCounts, RolloutBatch
from autogaze.training.step import Objective, make_optimizer
from tests.datasets.pictures import some_frames
from tests.models.autogaze.tiny import tiny_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
CONTEXT = StepContext(seed=0, step=0)


def objective(model: AutoGaze, algorithm: Algorithm, device: torch.device) -> Objective:
    model = copy.deepcopy(model)
    return Objective(model, CanvasReconstruction(model.pyramid), algorithm, device)


def clips(model: AutoGaze) -> ClipBatch:
    frames = torch.stack([some_frames(2, 64, seed=seed) for seed in range(3)])
    counts = ((3, 9), (12, 2), (1, 1))
    requests = tuple(LabelRequest(model.pyramid, count) for count in counts)
    return ClipBatch(frames, tuple("abc"), indices=(0, 1, 2), pending=requests)


def gradients(of: Objective, rollouts: RolloutBatch, half: bool) -> dict[str, torch.Tensor]:
    of.model.zero_grad()
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        losses = of.values(rollouts, BatchCounts.of([rollouts])).losses
    torch.stack([loss.float().mean() for loss in losses.values()]).sum().backward()
    named = of.model.named_parameters()
    return {name: p.grad.cpu().clone() for name, p in named if p.grad is not None}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Difference of all gradients, as a share of their length."""
    assert one.keys() == other.keys()
    lengths = torch.tensor([float(other[name].norm()) for name in one])
    differences = torch.tensor([float((one[name] - other[name]).norm()) for name in one])
    return float(differences.norm() / lengths.norm())


@pytest.mark.parametrize(("half", "most"), [(False, 1e-3), (True, 0.1)])
def test_gradients_of_labels_are_the_cpus(
    half: bool, most: float, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    expected = gradients(one := objective(model, NTP(AlgorithmOptions()), CPU),
                         one.rollouts(clips(model), CONTEXT), False)  # fmt: skip
    ours = objective(model, NTP(AlgorithmOptions()), GPU)
    rollouts = ours.rollouts(clips(model).pin_memory(), CONTEXT)
    found = gradients(ours, rollouts, half)
    assert not [one for one in caplog.records if "layer_ops" in one.name]
    assert apart(found, expected) < most
    monkeypatch.setattr(decoder, "layer_ops", lambda *_: LayerOps())
    monkeypatch.setattr(gaze_model, "is_usable", lambda *_: False)
    assert apart(gradients(ours, rollouts, half), found) < most


def test_sampled_groups_have_gradients() -> None:
    model = tiny_model()
    ours = objective(model, GRPO(AlgorithmOptions(name="grpo", group_size=2)), GPU)
    batch = replace(clips(model), pending=None)
    rollouts = ours.rollouts(batch, CONTEXT)
    found = gradients(ours, rollouts, True)
    assert all(bool(one.isfinite().all()) for one in found.values())
    assert any(bool(one.any()) for one in found.values())


def test_an_optimizer_there_is_fused_and_takes_its_step() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, device=GPU))
    other = torch.nn.Parameter(torch.ones(3))
    for one in (parameter, other):
        one.grad = torch.tensor([1.0, -2.0, 0.5], device=one.device)
        optimizer = make_optimizer([{"params": [one]}], TrainerOptions(lr=0.1))
        assert bool(optimizer.param_groups[0]["fused"]) == one.is_cuda
        optimizer.step()
    torch.testing.assert_close(parameter.detach().cpu(), other.detach())
