"""Terms that compare reconstructed frames with real ones.

Each takes RGB in [0, 1] and gives one number a frame; `loss_type` names them, joined by
"+", and `loss_weights` weighs them. A new one is a class and an entry in `LOSSES`.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import TrainingError

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
        self, made: Float[Tensor, "N 3 S S"], real: Float[Tensor, "N 3 S S"]
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
        self, made: Float[Tensor, "N 3 S S"], real: Float[Tensor, "N 3 S S"]
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


def dinov2_reg(name: str = "facebook/dinov2-with-registers-base") -> FeatureLoss:
    """`dinov2_reg`: DINOv2 with registers."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(name)
    prefix = 1 + network.config.num_register_tokens
    return FeatureLoss(network, Normalise(IMAGENET_MEAN, IMAGENET_STD), prefix)


def siglip2(name: str = "google/siglip2-base-patch16-224") -> FeatureLoss:
    """`siglip2`: SigLIP2's vision part."""
    from transformers import SiglipVisionModel

    network = SiglipVisionModel.from_pretrained(name)
    return FeatureLoss(network, Normalise(HALF, HALF), side=int(network.config.image_size))  # type: ignore[arg-type]


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "l1": PixelLoss,
    "dinov2_reg": dinov2_reg,
    "siglip2": siglip2,
}
"""What `loss_type` can name."""


class FrameLosses(nn.Module):
    """A weighted sum of terms.

    Args:
        terms: name -> module from (made, real) to one number a frame.
        weights: one for each.
    """

    def __init__(self, terms: dict[str, nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = tuple(weights)

    @classmethod
    def parse(cls, loss_type: str, loss_weights: str | float) -> "FrameLosses":
        """From "l1+dinov2_reg+siglip2" and "1+0.3+0.3".

        Raises:
            TrainingError: an unknown term, or not one weight for each.
        """
        names = loss_type.split("+")
        unknown = [name for name in names if name not in LOSSES]
        if unknown:
            raise TrainingError(f"unknown loss_type {unknown[0]!r}; known are {', '.join(LOSSES)}")
        try:
            weights = [float(weight) for weight in str(loss_weights).split("+")]
        except ValueError:
            raise TrainingError(
                f"loss_weights must look like '1+0.3', got {loss_weights!r}"
            ) from None
        if len(weights) != len(names):
            raise TrainingError(
                f"{len(names)} loss types ({loss_type}) and {len(weights)} weights ({loss_weights})"
            )
        return cls({name: LOSSES[name]() for name in names}, weights)

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
