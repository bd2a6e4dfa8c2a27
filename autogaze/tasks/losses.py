"""Frame losses: weighted sums of terms that compare reconstructed frames with real ones.

A term takes RGB in [0, 1], N reconstructed frames and N real ones (or one that all are compared
with), and gives one number per frame. `loss_type` names the terms, joined by "+", and
`loss_weights` their weights. A new one is a class and an entry in `LOSSES`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.checks import describe_value
from autogaze.errors import CheckpointError, TrainingError
from autogaze.reconstruction.efficientnet import EfficientNetLite, load_efficientnet
from autogaze.utils.checkpoints import State, describe_mismatch, under_prefix
from autogaze.utils.device import exact
from autogaze.utils.hub import load_pretrained
from autogaze.utils.normalization import IMAGENET, SIGLIP, PixelStatistics

PUBLIC_NETWORKS = {
    "dinov2_reg": "facebook/dinov2-with-registers-base",
    "siglip2": "google/siglip2-base-patch16-224",
}
"""Hub ids of the frozen networks of AutoGaze's recipe."""
_HINT = "download it once where there is a network, or leave it out of loss_type"


class FrameLosses(nn.Module):
    """A weighted sum of terms.

    Args:
        terms: name -> module from (made, real) to one number per frame.
        weights: one per term.
    """

    def __init__(self, terms: dict[str, nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = tuple(weights)
        self.sources: dict[str, str] = {}

    def forward(
        self, made: Float[Tensor, "B F 3 S S"], real: Float[Tensor, "B F 3 S S"]
    ) -> tuple[Float[Tensor, "B F"], dict[str, Float[Tensor, "B F"]]]:
        """The weighted sum of every frame, and each term by its name."""
        flat = made.flatten(0, 1), real.flatten(0, 1)
        terms = {
            name: term(*flat).unflatten(0, made.shape[:2]) for name, term in self.terms.items()
        }
        weighted = [w * term for w, term in zip(self.weights, terms.values(), strict=True)]
        return torch.stack(weighted).sum(0), terms

    @classmethod
    def parse(
        cls,
        loss_type: str,
        loss_weights: str | float,
        networks: State | None = None,
        loss_networks: Mapping[str, str] | None = None,
    ) -> "FrameLosses":
        """The losses of, for example, "l1+dinov2_reg+siglip2" and "1+0.3+0.3".

        Args:
            loss_type: the terms' names.
            loss_weights: one weight per term.
            networks: parameters of frozen networks under their terms' names, e.g.
                "siglip2.embeddings..."; those of other terms come from the hub, or from
                the package that holds them.
            loss_networks: folders or hub ids of other networks, by their terms' names, in place
                of the usual ones and of those in `networks`.

        Raises:
            TrainingError: an unknown or repeated term, or not one weight per term.
            CheckpointError: a network that is neither in `networks` nor can be fetched.
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
        sources = {term: str(source) for term, source in (loss_networks or {}).items()}
        if wrong := sorted(sources.keys() - set(PUBLIC_NETWORKS)):
            raise TrainingError(
                f"loss_networks names {wrong[0]!r}; of a network of one's own are "
                f"{', '.join(PUBLIC_NETWORKS)}"
            )
        terms = {}
        for name in names:
            state = under_prefix(networks or {}, f"{name}.")
            terms[name] = LOSSES[name](sources.get(name) or state or None)
        losses = cls(terms, weights)
        losses.sources = {name: source for name, source in sources.items() if name in names}
        return losses

    def replace_networks(self, networks: State) -> None:
        """Replace the frozen networks of the terms that have parameters in `networks`."""
        for name in self.terms:
            if part := under_prefix(networks, f"{name}."):
                self.terms[name] = LOSSES[name](part)

    def normalise_by(self, statistics: PixelStatistics) -> None:
        """Normalise the pixels of `l1` by these statistics from now on."""
        for term in self.terms.values():
            if isinstance(term, PixelLoss):
                term.statistics = statistics

    @property
    def recipe(self) -> dict[str, Any]:
        """The arguments of `parse`; `loss_networks` only where one is not the usual."""
        own = {"loss_networks": self.sources} if self.sources else {}
        return {
            "loss_type": "+".join(self.terms),
            "loss_weights": "+".join(f"{weight:g}" for weight in self.weights),
            **own,
        }


class PixelLoss(nn.Module):
    """`l1`: mean |difference| of normalised pixels."""

    def __init__(self, statistics: PixelStatistics = IMAGENET) -> None:
        super().__init__()
        self.statistics = statistics

    def forward(
        self, made: Float[Tensor, "N 3 S S"], real: Float[Tensor, "M 3 S S"]
    ) -> Float[Tensor, " N"]:
        normalise = self.statistics.normalise
        return (normalise(made) - normalise(real)).abs().flatten(1).mean(1)


class FeatureLoss(nn.Module):
    """Mean squared difference of the last hidden states of a frozen vision transformer.

    Args:
        network: a transformers vision model.
        statistics: of the pixels that it was trained on.
        num_prefix: class and register tokens, which are dropped.
        depth: number of hidden states, concatenated along the channels.
        side: pixels that frames are resized to, for networks that take one size only.
    """

    def __init__(
        self,
        network: nn.Module,
        statistics: PixelStatistics,
        num_prefix: int = 0,
        depth: int = 4,
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.statistics = statistics
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
        pixels = self.statistics.normalise(rgb)
        if self.side is not None and pixels.shape[-1] != self.side:
            square = (self.side, self.side)
            pixels = F.interpolate(pixels, square, mode="bicubic", align_corners=False)
        states = self.network(pixels, output_hidden_states=True).hidden_states
        found = torch.cat(states[-self.depth :], dim=-1)[:, self.num_prefix :]
        return found.to(exact(found.dtype))


DEPTHS = (3, 5, 7)
"""Depths of EfficientNet-Lite that are compared, of strides 8, 16 and 32.

On real frames the three losses are of similar size: .16, .18 and .23 after halving the
resolution, 1.7 each between two different videos.
"""


class EfficientNetLoss(nn.Module):
    """Mean squared distance between normalised features, from 0 to 4 (2 - 2 cosine).

        loss = mean over depths d, mean over positions p of |u_d(made)_p - u_d(real)_p|^2,
        u_d(x)_p = f_d(x)_p / |f_d(x)_p|

    where f_d are the frozen network's features at depth d, vectors of the channels: LPIPS
    (https://arxiv.org/abs/1801.03924) without learned weights, averaged over depths. The same
    picture costs 0, an unrelated one about 2.

    Args:
        network: see `load_efficientnet`.
    """

    def __init__(self, network: EfficientNetLite) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(
        self, made: Float[Tensor, "N 3 S S"], real: Float[Tensor, "M 3 S S"]
    ) -> Float[Tensor, " N"]:
        with torch.no_grad():
            wanted = self._directions(real)
        distances = [
            (found - target).square().sum(1).mean((1, 2))
            for found, target in zip(self._directions(made), wanted, strict=True)
        ]
        return torch.stack(distances).mean(0)

    def _directions(self, rgb: Float[Tensor, "N 3 S S"]) -> list[Float[Tensor, "N C h w"]]:
        """Features of length 1 at every position of every depth; not in half precision."""
        maps = self.network(rgb, DEPTHS)
        return [F.normalize(features.to(exact(features.dtype)), dim=1) for features in maps]


def efficientnet(state: State | None = None) -> EfficientNetLoss:
    """`efficientnet`: EfficientNet-Lite0, of a state dict or from its package."""
    return EfficientNetLoss(load_efficientnet("lite0", state))


def dinov2_reg(network_of: State | str | None = None) -> FeatureLoss:
    """`dinov2_reg`: DINOv2 with registers, of a state dict (which tells its shape) or the hub.

    Raises:
        CheckpointError: parameters of something else, or a hub that cannot be reached.
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    if not isinstance(network_of, Mapping):
        source = network_of or PUBLIC_NETWORKS["dinov2_reg"]
        network = load_pretrained(Dinov2WithRegistersModel, source, _HINT)
    else:
        state = network_of
        with _named("dinov2_reg"):
            width = state["embeddings.cls_token"].shape[-1]
            patch = state["embeddings.patch_embeddings.projection.weight"].shape[-1]
            cells = state["embeddings.position_embeddings"].shape[1] - 1
            config = Dinov2WithRegistersConfig(
                hidden_size=width,
                num_hidden_layers=_num_layers(state, "encoder.layer."),
                num_attention_heads=_num_heads(width),
                mlp_ratio=state["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
                image_size=round(cells**0.5) * patch,
                patch_size=patch,
                num_register_tokens=state["embeddings.register_tokens"].shape[1],
            )
        network = _from_state(Dinov2WithRegistersModel, config, state)
    return FeatureLoss(network, IMAGENET, num_prefix=1 + network.config.num_register_tokens)


def siglip2(network_of: State | str | None = None) -> FeatureLoss:
    """`siglip2`: SigLIP2's vision part, of a state dict (which tells its shape) or the hub.

    Raises:
        CheckpointError: parameters of something else, or a hub that cannot be reached.
    """
    from transformers import SiglipVisionConfig, SiglipVisionModel

    if not isinstance(network_of, Mapping):
        source = network_of or PUBLIC_NETWORKS["siglip2"]
        network = load_pretrained(SiglipVisionModel, source, _HINT)
    else:
        state = {name.removeprefix("vision_model."): x for name, x in network_of.items()}
        with _named("siglip2"):
            intermediate, width = state["encoder.layers.0.mlp.fc1.weight"].shape
            patch = state["embeddings.patch_embedding.weight"].shape[-1]
            cells = len(state["embeddings.position_embedding.weight"])
            config = SiglipVisionConfig(
                hidden_size=width,
                num_hidden_layers=_num_layers(state, "encoder.layers."),
                num_attention_heads=_num_heads(width),
                intermediate_size=intermediate,
                image_size=round(cells**0.5) * patch,
                patch_size=patch,
                vision_use_head="head.probe" in state,
            )
        # transformers 4 keeps the model one level down.
        if any(name.startswith("vision_model.") for name in SiglipVisionModel(config).state_dict()):
            state = {f"vision_model.{name}": value for name, value in state.items()}
        network = _from_state(SiglipVisionModel, config, state)
    return FeatureLoss(network, SIGLIP, side=int(network.config.image_size))


LOSSES: dict[str, Callable[[Any], nn.Module]] = {
    "l1": lambda _: PixelLoss(),
    "dinov2_reg": dinov2_reg,
    "siglip2": siglip2,
    "efficientnet": efficientnet,
}
"""Terms by name, made from the frozen network's state dict, its folder or hub id, or its public
weights (None)."""


def check_terms(loss_type: str) -> list[str]:
    """The names of the terms; TrainingError where one is unknown."""
    if not isinstance(loss_type, str):
        raise TrainingError(f"loss_type must be text, got {describe_value(loss_type)}")
    names = loss_type.split("+")
    unknown = [name for name in names if name not in LOSSES]
    if unknown:
        raise TrainingError(f"unknown loss_type {unknown[0]!r}; known are {', '.join(LOSSES)}")
    return names


@contextmanager
def _named(term: str) -> Iterator[None]:
    """Turn a missing parameter into a CheckpointError that names the term."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"the {term} network has no {error}") from None


def _num_layers(state: State, prefix: str) -> int:
    numbers = [int(name.split(".")[2]) for name in state if name.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def _num_heads(width: int) -> int:
    """Number of heads: 64 channels each in all published sizes; parameters do not tell."""
    return max(1, width // 64)


def _from_state(kind: Any, config: Any, state: State) -> Any:
    """A transformers model with these parameters; it translates names between its versions."""
    network, found = kind.from_pretrained(
        None, config=config, state_dict=dict(state), output_loading_info=True
    )
    problems = describe_mismatch(
        missing=found["missing_keys"],
        unexpected=found["unexpected_keys"],
        misshapen=map(str, found["mismatched_keys"]),
    )
    if problems:
        raise CheckpointError(f"{kind.__name__}: the weights do not fit: {problems}")
    return network
