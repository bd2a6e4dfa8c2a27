"""Terms and their weights, and the frozen networks they compare features of."""

import pytest
import torch

from autogaze.errors import CheckpointError, TrainingError
from autogaze.tasks import losses as loss_networks
from autogaze.tasks.losses import (
    FrameLosses,
    PixelLoss,
    dinov2_reg,
    siglip2,
)
from autogaze.utils.normalization import IMAGENET
from tests.tasks.material import published_names, some_clips, tiny_dinov2, tiny_siglip


def networks(published=True):
    """Parameters as the published file has them, without `mae.`."""
    dinov2, siglip = tiny_dinov2().state_dict(), tiny_siglip().state_dict()
    siglip = {name.removeprefix("vision_model."): value for name, value in siglip.items()}
    if published:
        dinov2 = published_names(dinov2)
        siglip = {f"vision_model.{name}": value for name, value in siglip.items()}
    return {
        **{f"dinov2_reg.{name}": value for name, value in dinov2.items()},
        **{f"siglip2.{name}": value for name, value in siglip.items()},
    }


def test_l1_is_in_the_normalised_space():
    real = torch.full((2, 3, 8, 8), 0.5)
    made = real + 0.1
    wanted = sum(0.1 / std for std in IMAGENET.std) / 3
    assert PixelLoss()(made, real).tolist() == pytest.approx([wanted] * 2, rel=1e-5)


def test_the_sum_is_weighted():
    made, real = some_clips(seed=0), some_clips(seed=1)
    losses = FrameLosses.parse("l1+dinov2_reg+siglip2", "1+0.3+0.25", networks())
    total, terms = losses(made, real)
    assert total.shape == (2, 4)
    assert [name for name, _ in terms] == ["l1", "dinov2_reg", "siglip2"]
    values = [term for _, term in terms]
    torch.testing.assert_close(total, values[0] + 0.3 * values[1] + 0.25 * values[2])
    assert losses.recipe == {"loss_type": "l1+dinov2_reg+siglip2", "loss_weights": "1+0.3+0.25"}
    again = FrameLosses.parse(**losses.recipe, networks=networks())
    assert torch.equal(again(made, real)[0], total)


def test_several_can_be_compared_with_one():
    made, real = some_clips(1, 5, seed=0)[0], some_clips(1, 1, seed=1)[0]
    for name in ("l1", "siglip2"):
        term = FrameLosses.parse(name, 1, networks()).terms[name]
        torch.testing.assert_close(term(made, real), term(made, real.expand(5, -1, -1, -1)))


@torch.no_grad()
def test_features_are_the_last_four_hidden_states():
    made, real = some_clips(seed=0).flatten(0, 1), some_clips(seed=1).flatten(0, 1)
    mean = torch.tensor(IMAGENET.mean)[:, None, None]
    std = torch.tensor(IMAGENET.std)[:, None, None]
    network = tiny_dinov2(5)

    def features(rgb):
        states = network((rgb - mean) / std, output_hidden_states=True).hidden_states
        assert len(states) == 6
        return torch.cat([state[:, 4:] for state in states[-4:]], dim=-1)  # CLS, 3 registers

    wanted = (features(made) - features(real)).square().mean((1, 2))
    found = dinov2_reg(published_names(network.state_dict()))(made, real)
    torch.testing.assert_close(found, wanted)

    siglip = tiny_siglip()

    def seen(rgb):
        states = siglip((rgb - 0.5) / 0.5, output_hidden_states=True).hidden_states
        return torch.cat(states[-4:], dim=-1)

    wanted = (seen(made) - seen(real)).square().mean((1, 2))
    torch.testing.assert_close(siglip2(siglip.state_dict())(made, real), wanted)


def test_siglip_is_shown_its_own_size():
    made, real = some_clips(1, 2, side=48).flatten(0, 1), some_clips(1, 2, 48, 1).flatten(0, 1)
    loss = siglip2(tiny_siglip().state_dict())
    assert loss.features(made).shape == (2, 16, 4 * 64)
    assert loss(made, real).shape == (2,)


@pytest.mark.parametrize("published", [True, False])
def test_networks_come_from_the_checkpoint_in_either_naming(published, monkeypatch):
    monkeypatch.setattr(loss_networks, "_fetch", lambda *_: pytest.fail("reached for the hub"))
    made, real = some_clips(seed=0), some_clips(seed=1)
    one = FrameLosses.parse("dinov2_reg+siglip2", "1+1", networks(published))
    other = FrameLosses.parse("dinov2_reg+siglip2", "1+1", networks(not published))
    assert torch.equal(one(made, real)[0], other(made, real)[0])


def test_frozen_networks_stay_frozen():
    losses = FrameLosses.parse("l1+siglip2", "1+0.3", networks()).train()
    assert not any(parameter.requires_grad for parameter in losses.parameters())
    assert not losses.terms["siglip2"].network.training
    made = some_clips(1, 1).requires_grad_()
    losses(made, some_clips(1, 1, seed=1))[0].sum().backward()
    assert made.grad.any()


def test_networks_can_be_replaced():
    made, real = some_clips(seed=0), some_clips(seed=1)
    parameters = networks()
    losses = FrameLosses.parse("l1+siglip2", "1+0.3", parameters)
    before, _ = losses(made, real)
    other = {name: value * 1.1 for name, value in parameters.items()}
    losses.replace_networks(other)
    assert not torch.allclose(losses(made, real)[0], before)
    losses.replace_networks(parameters)
    assert torch.equal(losses(made, real)[0], before)


@pytest.mark.parametrize(
    ("loss_type", "weights", "message"),
    [
        ("l1+lpips", "1+1", "unknown loss_type 'lpips'; known are l1, dinov2_reg, siglip2"),
        ("l1+l1", "1+1", "names a term twice"),
        ("l1", "1+1", "1 loss types .* and 2 weights"),
        ("l1", "one", r"must look like '1\+0.3', got 'one'"),
        ("", "1", "unknown loss_type ''"),
        ("l1", "-1", "must be above 0, got '-1'"),
        ("l1", "nan", "must be above 0, got 'nan'"),
        ("l1", 0, "must be above 0, got 0"),
    ],
)
def test_bad_recipes(loss_type, weights, message):
    with pytest.raises(TrainingError, match=message):
        FrameLosses.parse(loss_type, weights)


def test_weights_may_be_numbers():
    assert FrameLosses.parse("l1", 2).weights == (2.0,)


def test_networks_of_something_else_are_refused():
    parameters = networks()
    del parameters["siglip2.vision_model.encoder.layers.1.mlp.fc1.bias"]
    with pytest.raises(
        CheckpointError, match=r"SiglipVisionModel: .* missing .*layers.1.mlp.fc1.bias"
    ):
        FrameLosses.parse("siglip2", 1, parameters)
    with pytest.raises(CheckpointError, match=r"dinov2_reg network has no 'embeddings.cls_token'"):
        FrameLosses.parse("dinov2_reg", 1, {"dinov2_reg.x": torch.zeros(1)})


def test_no_hub_is_said_clearly(monkeypatch):
    from transformers import SiglipVisionModel

    def refuse(name):
        raise OSError("We couldn't connect\nlong story")

    monkeypatch.setattr(SiglipVisionModel, "from_pretrained", refuse)
    with pytest.raises(
        CheckpointError, match=r"siglip2-base.*fetched.*couldn't connect\).*loss_type"
    ):
        FrameLosses.parse("siglip2", 1)
