"""Sampling a block of patches from the decoder's logits, each patch at most once per frame."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.errors import SelectorError


@dataclass(frozen=True)
class Sampling:
    """Options for sampling patches.

    Args:
        temperature: of the softmax; 0 takes the likeliest patches.
        generator: source of randomness; None is torch's global one.
        row_seeds: one seed per row instead. A row's samples in a frame then depend on its seed
            and the frame's number only, not on its batch or device.
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

        Rows' generators are seeded anew in every frame. A row that has finished goes on drawing
        while others of its batch are unfinished, so that without this its generator would be in
        another state in the next frame than when the row runs alone.

        Args:
            log_weights: see `FrameSampling`.

        Raises:
            SelectorError: there is not one seed for each of `num_rows` rows.
        """
        if self.row_seeds is None or self.temperature == 0:
            return FrameSampling(self.temperature, self.generator, None, log_weights)
        if len(self.row_seeds) != num_rows:
            raise SelectorError(
                f"{len(self.row_seeds)} row_seeds for {num_rows} rows; give one per row"
            )
        generators = tuple(
            torch.Generator().manual_seed((seed + _FRAME_STEP * frame) & _MASK)
            for seed in self.row_seeds[rows]
        )
        return FrameSampling(self.temperature, None, generators, log_weights)


_FRAME_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


@dataclass(frozen=True)
class FrameSampling:
    """Options for sampling in one frame of B rows.

    Attributes:
        temperature, generator: as of `Sampling`.
        row_generators: one generator per row instead.
        log_weights: log of the factors on probabilities (inhibition of return), which do not
            depend on the temperature.
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
        taken: patches gazed at in this frame so far; the block's are added in place.
    """
    if sampling.log_weights is not None:
        # Logits are divided by the temperature below; weights must not be.
        weights = sampling.log_weights * (sampling.temperature or 1)
        logits = logits + weights[:, None].to(logits)
    logits = logits.masked_fill(taken[:, None], float("-inf"))
    if sampling.temperature == 0 and logits.device.type == "cpu":
        # Heads mostly take different patches, and then need not be sampled one by one.
        ids = logits.argmax(-1)
        taken.scatter_(1, ids, True)
        ordered = ids.sort(-1).values
        if not bool((ordered[:, 1:] == ordered[:, :-1]).any()):  # no patch twice
            return ids
        # The block is sampled again below, head by head, so `taken` goes back to what it was
        # before the block: True where `logits` are masked.
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

    argmax(p / noise) is a sample of p: of exponential variables with rates p_i, the i-th is the
    least with probability p_i / sum p. Drawn on the CPU, so that all devices sample the same.
    """
    if sampling.row_generators is None:
        return None
    uniform = [
        torch.rand(logits.shape[1:], generator=generator) for generator in sampling.row_generators
    ]
    return -torch.stack(uniform).log().to(logits.device)
