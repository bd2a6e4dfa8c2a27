"""What a search on a GPU is asked for, and what it finds, as its kernels read and write it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.reconstruction.greedy_search import Choices, SearchedFrame

UNTAKEN = -(2**61)
"""Gains below this are those of patches that were taken."""


@dataclass(frozen=True)
class Asked:
    """What `triton_kernels.search` is asked for in every frame.

    Args:
        counts: patches to take.
        given: which of them, -1 for the best one; a single number where there is no other.
        most: the largest of the counts.
    """

    counts: Int[Tensor, "B T"]
    given: Int[Tensor, "..."]
    most: int

    @classmethod
    def of(cls, ids: Sequence[Sequence[Sequence[int | None]]], device: torch.device) -> "Asked":
        counts = torch.tensor([[len(frame) for frame in clip] for clip in ids], dtype=torch.int32)
        most = max(1, int(counts.max()))
        given = torch.full((1,), -1, dtype=torch.int32)
        if any(frame.count(None) < len(frame) for clip in ids for frame in clip):
            rows = [
                [-1 if patch is None else patch for patch in frame] + [-1] * (most - len(frame))
                for clip in ids
                for frame in clip
            ]
            given = torch.tensor(rows, dtype=torch.int32).view(*counts.shape, most)
        return cls(counts.to(device), given.to(device), most)


@dataclass(frozen=True)
class Found:
    """What `triton_kernels.search` writes of every frame; see there."""

    chosen: Int[Tensor, "B T most"]
    left_after: Int[Tensor, "B T most"]
    num_chosen: Int[Tensor, "B T"]
    gains: Int[Tensor, "B T most V"] | None

    @classmethod
    def empty(cls, B: int, T: int, most: int, gains: int, device: torch.device) -> "Found":
        """Room for it; `gains` of every patch, 0 for none."""
        new: dict[str, Any] = {"dtype": torch.int64, "device": device}
        kept = torch.zeros(B, T, most, gains, **new) if gains else None
        left_after = torch.empty(B, T, most, **new)
        return cls(torch.empty_like(left_after), left_after, torch.empty(B, T, **new), kept)

    def choices(self, units: float) -> Choices:
        """All of it but what is left within a frame, where it is; waits for the device."""
        last = self.left_after.gather(2, self.num_chosen[..., None] - 1)[..., 0]
        losses = _quotients(last, units).float()
        return Choices(self.chosen[self._taken()], self.num_chosen.cpu(), losses)

    def read(self, units: float) -> list[list[SearchedFrame]]:
        """The same on the host, gains aside; here alone it waits for the device."""
        taken, counts = self._taken(), self.num_chosen.tolist()
        ids = tuple(self.chosen[taken].tolist())
        losses = tuple(_quotients(self.left_after[taken], units).tolist())
        ends = accumulate(n for clip in counts for n in clip)
        gains = iter(self._gains(counts))
        return [
            [
                SearchedFrame(ids[end - n : end], losses[end - n : end], next(gains))
                for n, end in zip(clip, ends, strict=False)
            ]
            for clip in counts
        ]

    def _taken(self) -> Bool[Tensor, "B T most"]:
        numbers = torch.arange(self.chosen.shape[2], device=self.chosen.device)
        return numbers < self.num_chosen[..., None]

    def _gains(self, counts: Sequence[Sequence[int]]) -> Iterable[Float[Tensor, "_ V"] | None]:
        """Those of every clip and frame, before each patch that was taken; they stay on the device."""
        if self.gains is None:
            return repeat(None)
        taken = self.gains[self._taken()]
        known = taken.double().masked_fill_(taken < UNTAKEN, -math.inf)
        return known.split([n for clip in counts for n in clip])


def _quotients(numbers: Int[Tensor, "*n"], divisor: float) -> Float[Tensor, "*n"]:
    """Numbers by a divisor, in float64, rounded as a CPU's.

    By a tensor: where the divisor is a plain number, PyTorch multiplies by its reciprocal on a GPU.
    """
    return numbers.double() / torch.full((1,), divisor, dtype=torch.float64, device=numbers.device)
