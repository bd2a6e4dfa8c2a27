"""Terms that compare reconstructed frames with real ones.

Each takes RGB in [0, 1], N frames and the N real ones (or the one that all are compared
with), and gives one number a frame; `loss_type` names them, joined by
"+", and `loss_weights` weighs them. A new one is a class and an entry in `LOSSES`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import TrainingError
from autogaze.reconstruction.video_mae.names import without_prefix
from autogaze.tasks.efficientnet_loss import efficientnet
from autogaze.tasks.loss_networks import State, load_dinov2_reg, load_siglip2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class Normalise(nn.Module):
    """RGB in [0, 1] to a network's own statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, rgb: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N 3 H W"]:
        return (rgb - self.mean) / self.std

    def undo(self, normalised: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N 3 H W"]:
        """Back to RGB, not cut off."""
        return normalised * self.std + self.mean


class PixelLoss(nn.Module):
    """`l1`: mean |difference| of pixels normalised by ImageNet's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)

    def forward(
        self, made: Float[Tensor, "N 3 S S"], real: Float[Tensor, "M 3 S S"]
    ) -> Float[Tensor, " N"]:
        return (self.normalise(made) - self.normalise(real)).abs().flatten(1).mean(1)


class FeatureLoss(nn.Module):
    """Mean squared difference of the last hidden states of a frozen vision transformer.

    Args:
        network: a transformers vision model.
        normalise: to its statistics.
        num_prefix: class and register tokens, which are dropped.
        depth: how many hidden states, side by side along the channels.
        side: pixels that frames are resized to, for networks that take one size only.
    """

    def __init__(
        self,
        network: nn.Module,
        normalise: Normalise,
        num_prefix: int = 0,
        depth: int = 4,
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.normalise = normalise
        self.num_prefix = num_prefix
        self.depth = depth
        self.side = side

    def train(self, mode: bool = True) -> "FeatureLoss":
        """The network is frozen and never trains."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(
        self, made: Float[Tensor, "N 3 S S"], real: Float[Tensor, "M 3 S S"]
    ) -> Float[Tensor, " N"]:
        with torch.no_grad():
            wanted = self.features(real)
        return (self.features(made) - wanted).square().flatten(1).mean(1)

    def features(self, rgb: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N tokens C"]:
        """The last hidden states of every patch."""
        pixels = self.normalise(rgb)
        if self.side is not None and pixels.shape[-1] != self.side:
            square = (self.side, self.side)
            pixels = F.interpolate(pixels, square, mode="bicubic", align_corners=False)
        states = self.network(pixels, output_hidden_states=True).hidden_states
        return torch.cat(states[-self.depth :], dim=-1)[:, self.num_prefix :]


def dinov2_reg(state: State | None = None) -> FeatureLoss:
    """`dinov2_reg`: DINOv2 with registers, of a state dict or from the hub."""
    network = load_dinov2_reg(state)
    prefix = 1 + network.config.num_register_tokens
    return FeatureLoss(network, Normalise(IMAGENET_MEAN, IMAGENET_STD), prefix)


def siglip2(state: State | None = None) -> FeatureLoss:
    """`siglip2`: SigLIP2's vision part, of a state dict or from the hub."""
    network = load_siglip2(state)
    return FeatureLoss(network, Normalise(HALF, HALF), side=int(network.config.image_size))


LOSSES: dict[str, Callable[[State | None], nn.Module]] = {
    "l1": lambda _: PixelLoss(),
    "dinov2_reg": dinov2_reg,
    "siglip2": siglip2,
    "efficientnet": efficientnet,
}
"""What `loss_type` can name: from the state dict of its frozen network, or None for public weights."""


class FrameLosses(nn.Module):
    """A weighted sum of terms.

    Args:
        terms: name -> module from (made, real) to one number a frame.
        weights: one for each.
    """

    terms: nn.ModuleDict

    def __init__(self, terms: dict[str, nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = tuple(weights)

    @classmethod
    def parse(
        cls, loss_type: str, loss_weights: str | float, networks: State | None = None
    ) -> "FrameLosses":
        """From "l1+dinov2_reg+siglip2" and "1+0.3+0.3".

        Args:
            loss_type: the terms' names.
            loss_weights: a weight for each.
            networks: parameters of frozen networks under their terms' names, e.g.
                "siglip2.embeddings..."; those of other terms come from the hub, or from
                the package that holds them.

        Raises:
            TrainingError: an unknown or repeated term, or not one weight for each.
            CheckpointError: a network that is neither here nor can be fetched.
            MissingExtraError: the package of a network is not installed.
        """
        names = check_terms(loss_type)
        if len(set(names)) < len(names):
            raise TrainingError(f"loss_type {loss_type!r} names a term twice")
        try:
            weights = [float(weight) for weight in str(loss_weights).split("+")]
        except ValueError:
            raise TrainingError(
                f"loss_weights must look like '1+0.3', got {loss_weights!r}"
            ) from None
        if not all(0 < weight < math.inf for weight in weights):
            raise TrainingError(f"loss_weights must be above 0, got {loss_weights!r}")
        if len(weights) != len(names):
            raise TrainingError(
                f"{len(names)} loss types ({loss_type}) and {len(weights)} weights ({loss_weights})"
            )
        parts = {name: without_prefix(networks or {}, f"{name}.") or None for name in names}
        return cls({name: LOSSES[name](part) for name, part in parts.items()}, weights)

    def replace_networks(self, networks: State) -> None:
        """Take the frozen networks of those terms that have parameters here."""
        for name in self.terms:
            if part := without_prefix(networks, f"{name}."):
                self.terms[name] = LOSSES[name](part)

    @property
    def recipe(self) -> dict[str, str]:
        """What `parse` reads."""
        return {
            "loss_type": "+".join(self.terms),
            "loss_weights": "+".join(f"{weight:g}" for weight in self.weights),
        }

    def forward(
        self, made: Float[Tensor, "B F 3 S S"], real: Float[Tensor, "B F 3 S S"]
    ) -> tuple[Float[Tensor, "B F"], tuple[tuple[str, Float[Tensor, "B F"]], ...]]:
        """The weighted sum of every frame, and each term by itself."""
        flat = made.flatten(0, 1), real.flatten(0, 1)
        terms = tuple(
            (name, term(*flat).unflatten(0, made.shape[:2])) for name, term in self.terms.items()
        )
        weighted = [w * term for w, (_, term) in zip(self.weights, terms, strict=True)]
        return torch.stack(weighted).sum(0), terms


def check_terms(loss_type: str) -> list[str]:
    """The names of the terms; TrainingError where one is unknown."""
    names = loss_type.split("+")
    unknown = [name for name in names if name not in LOSSES]
    if unknown:
        raise TrainingError(f"unknown loss_type {unknown[0]!r}; known are {', '.join(LOSSES)}")
    return names
