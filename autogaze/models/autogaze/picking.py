"""Picking a block of patches from its logits, each patch at most once a frame."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Picking:
    """How an id is chosen from logits.

    Args:
        temperature: 0 takes the likeliest; else logits / temperature are sampled from.
        generator: source of randomness for sampling; None uses torch's global one.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None


def pick_block(
    logits: Float[Tensor, "B k V"], taken: Bool[Tensor, "B V"], picking: Picking
) -> Int[Tensor, "B k"]:
    """Pick one id from each head in turn, never one that is taken; marks them in `taken`.

    Args:
        logits: of the k heads over the V patches (EOS already left out).
        taken: patches gazed at in this frame before; updated in place.
    """
    logits = logits.masked_fill(taken[:, None], float("-inf"))
    if picking.temperature == 0 and logits.device.type == "cpu":
        # Heads mostly want different patches, and then their order does not matter.
        ids = logits.argmax(-1)
        taken.scatter_(1, ids, True)
        if not _any_twice(ids):
            return ids
        taken.scatter_(1, ids, False).logical_or_(logits[:, 0].isneginf())
    columns = []
    for head in range(logits.shape[1]):
        scores = logits[:, head]
        if picking.temperature == 0:
            chosen = scores.argmax(-1, keepdim=True)
        else:
            weights = (scores.float() / picking.temperature).softmax(-1)
            chosen = torch.multinomial(weights, 1, generator=picking.generator)
        columns.append(chosen)
        logits.scatter_(2, chosen[:, None].expand(-1, logits.shape[1], -1), float("-inf"))
    ids = torch.cat(columns, 1)
    taken.scatter_(1, ids, True)
    return ids


def _any_twice(ids: Int[Tensor, "B k"]) -> bool:
    ordered = ids.sort(-1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())
