"""Picking a block of patches from its logits, each patch at most once a frame."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.errors import SelectorError


@dataclass(frozen=True)
class Picking:
    """How an id is chosen from logits.

    Args:
        temperature: 0 takes the likeliest; else logits / temperature are sampled from.
        generator: source of randomness for sampling; None uses torch's global one.
        row_seeds: a seed for every row instead, one a clip. What a row is sampled
            follows from its own seed and the frame's number, so it is the same alone
            and in any batch, on one device and on several, as training needs it.
        row_generators: what `of_frame` made of the seeds; not to be given by hand.
        log_weights: (B, V), logarithms of what probabilities are multiplied with (see
            `returning`); set by `ClipStream`, not to be given by hand.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None
    row_seeds: tuple[int, ...] | None = None
    row_generators: tuple[torch.Generator, ...] | None = None
    log_weights: Float[Tensor, "B V"] | None = None

    def of_frame(self, frame: int, rows: slice, num_rows: int) -> "Picking":
        """What is used for one frame of some of the rows.

        Generators start anew at every frame: a row that has finished one draws on while
        others of its batch go on, and must not be further than when it is alone.

        Raises:
            SelectorError: there is not one seed for each of `num_rows` rows.
        """
        if self.row_seeds is None or self.temperature == 0:
            return self
        if len(self.row_seeds) != num_rows:
            raise SelectorError(f"{len(self.row_seeds)} row_seeds for {num_rows} clips")
        generators = tuple(
            torch.Generator().manual_seed((seed + _FRAME_STEP * frame) & _MASK)
            for seed in self.row_seeds[rows]
        )
        return replace(self, row_generators=generators)


_FRAME_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


def pick_block(
    logits: Float[Tensor, "B k V"], taken: Bool[Tensor, "B V"], picking: Picking
) -> Int[Tensor, "B k"]:
    """Pick one id from each head in turn, never one that is taken; marks them in `taken`.

    Args:
        logits: of the k heads over the V patches (EOS already left out).
        taken: patches gazed at in this frame before; updated in place.
    """
    if picking.log_weights is not None:
        # Logits are divided by the temperature below, and these are not to be.
        weights = picking.log_weights * (picking.temperature or 1)
        logits = logits + weights[:, None].to(logits)
    logits = logits.masked_fill(taken[:, None], float("-inf"))
    if picking.temperature == 0 and logits.device.type == "cpu":
        # Heads mostly want different patches, and then their order does not matter.
        ids = logits.argmax(-1)
        taken.scatter_(1, ids, True)
        if not _any_twice(ids):
            return ids
        taken.scatter_(1, ids, False).logical_or_(logits[:, 0].isneginf())
    waits = _waits(logits, picking)
    columns = []
    for head in range(logits.shape[1]):
        scores = logits[:, head]
        if picking.temperature == 0:
            chosen = scores.argmax(-1, keepdim=True)
        else:
            weights = (scores.float() / picking.temperature).softmax(-1)
            if waits is None:
                chosen = torch.multinomial(weights, 1, generator=picking.generator)
            else:
                chosen = (weights / waits[:, head]).argmax(-1, keepdim=True)
        columns.append(chosen)
        logits.scatter_(2, chosen[:, None].expand(-1, logits.shape[1], -1), float("-inf"))
    ids = torch.cat(columns, 1)
    taken.scatter_(1, ids, True)
    return ids


def _waits(logits: Float[Tensor, "B k V"], picking: Picking) -> Float[Tensor, "B k V"] | None:
    """Exponential noise, each row's from its own generator.

    Dividing weights by it and taking the largest is sampling by weight: with rates w_i the
    first of several exponential clocks to ring is i with probability w_i / sum w. Drawn on
    the CPU, so that every device samples the same.
    """
    if picking.row_generators is None or picking.temperature == 0:
        return None
    uniform = [
        torch.rand(logits.shape[1:], generator=generator) for generator in picking.row_generators
    ]
    return -torch.stack(uniform).log().to(logits.device)


def _any_twice(ids: Int[Tensor, "B k"]) -> bool:
    ordered = ids.sort(-1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())
