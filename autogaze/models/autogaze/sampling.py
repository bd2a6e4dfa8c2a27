"""Sampling a block of patches from the decoder's logits, each patch at most once per frame."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.errors import SelectorError


@dataclass(frozen=True)
class Sampling:
    """How patches are sampled.

    Args:
        temperature: 0 takes the likeliest patches; else softmax(logits / temperature) is
            sampled from.
        generator: source of randomness; None is torch's global one.
        row_seeds: a seed for every row instead. What a row samples in a frame follows from its
            own seed and the frame's number, so it is the same alone and in any batch, on one
            device and on several, as training needs it.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None
    row_seeds: tuple[int, ...] | None = None

    def for_frame(
        self,
        frame: int,
        rows: slice,
        num_rows: int,
        log_weights: Float[Tensor, "B V"] | None = None,
    ) -> "FrameSampling":
        """Sampling for one frame of some of the rows.

        Generators of rows start anew in every frame: a row that has finished one draws on
        while others of its batch go on, and must be no further than when it is alone.

        Args:
            log_weights: see `FrameSampling`.

        Raises:
            SelectorError: there is not one seed for each of `num_rows` rows.
        """
        if self.row_seeds is None or self.temperature == 0:
            return FrameSampling(self.temperature, self.generator, None, log_weights)
        if len(self.row_seeds) != num_rows:
            raise SelectorError(f"{len(self.row_seeds)} row_seeds for {num_rows} rows")
        generators = tuple(
            torch.Generator().manual_seed((seed + _FRAME_STEP * frame) & _MASK)
            for seed in self.row_seeds[rows]
        )
        return FrameSampling(self.temperature, None, generators, log_weights)


_FRAME_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


@dataclass(frozen=True)
class FrameSampling:
    """Sampling for one frame of B rows.

    Attributes:
        temperature, generator: as of `Sampling`.
        row_generators: one generator per row instead.
        log_weights: logarithms of what probabilities are multiplied with (inhibition of
            return), whatever the temperature.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None
    row_generators: tuple[torch.Generator, ...] | None = None
    log_weights: Float[Tensor, "B V"] | None = None


def sample_block(
    logits: Float[Tensor, "B k V"], taken: Bool[Tensor, "B V"], sampling: FrameSampling
) -> Int[Tensor, "B k"]:
    """Sample one patch from each head in turn, never one that is taken.

    Args:
        logits: of the block's k heads over the V patches (EOS already left out).
        taken: patches gazed at in this frame before; the block's are added in place.
    """
    if sampling.log_weights is not None:
        # Logits are divided by the temperature below, and these are not to be.
        weights = sampling.log_weights * (sampling.temperature or 1)
        logits = logits + weights[:, None].to(logits)
    logits = logits.masked_fill(taken[:, None], float("-inf"))
    if sampling.temperature == 0 and logits.device.type == "cpu":
        # Heads mostly want different patches, and then their order does not matter.
        ids = logits.argmax(-1)
        taken.scatter_(1, ids, True)
        if not _any_twice(ids):
            return ids
        taken.scatter_(1, ids, False).logical_or_(logits[:, 0].isneginf())
    noise = _exponential_noise(logits, sampling)
    columns = []
    for head in range(logits.shape[1]):
        scores = logits[:, head]  # (B, V)
        if sampling.temperature == 0:
            chosen = scores.argmax(-1, keepdim=True)
        else:
            probabilities = (scores.float() / sampling.temperature).softmax(-1)
            if noise is None:
                chosen = torch.multinomial(probabilities, 1, generator=sampling.generator)
            else:
                chosen = (probabilities / noise[:, head]).argmax(-1, keepdim=True)
        columns.append(chosen)
        logits.scatter_(2, chosen[:, None].expand(-1, logits.shape[1], -1), float("-inf"))
    ids = torch.cat(columns, 1)
    taken.scatter_(1, ids, True)
    return ids


def _exponential_noise(
    logits: Float[Tensor, "B k V"], sampling: FrameSampling
) -> Float[Tensor, "B k V"] | None:
    """Exponential noise, each row's from its own generator.

    Dividing probabilities by it and taking the largest is sampling: of exponential clocks with
    rates p_i, clock i rings first with probability p_i / sum p. Drawn on the CPU, so that every
    device samples the same.
    """
    if sampling.row_generators is None:
        return None
    uniform = [
        torch.rand(logits.shape[1:], generator=generator) for generator in sampling.row_generators
    ]
    return -torch.stack(uniform).log().to(logits.device)


def _any_twice(ids: Int[Tensor, "B k"]) -> bool:
    ordered = ids.sort(-1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())
