"""Where tokens lie in sequences without padding between them, and which states are read from them.

A row's sequence is, frame by frame, the vision tokens and then the gazes. Its padding is moved to its
end, where the causal mask hides it, so that positions are 0, 1, 2, ... and attention needs no other
mask. All of it follows from `GazeRows.kept`, on the host: a GPU is not waited for.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from autogaze.models.autogaze.rows import GazeRows
from autogaze.utils.device import sent

ALIGNED = 64
"""Sequences are of a multiple of this: cuDNN's attention is planned anew for every length, in 0.1 s."""

READ_ALIGNED = 16
"""Numbers of states are a multiple of this: kernels take blocks of queries."""


@dataclass(frozen=True)
class PackedRows:
    """R sequences of N positions with G gazes, and P states of each that something is read from.

    What is flat counts through all rows: positions are row * N + position, slots row * S + slot,
    states row * P + number.

    Attributes:
        length: N.
        tokens: flat positions of all vision tokens, then of all gazes, row by row.
        slots: flat slot of every gaze.
        states: positions of the states, in order; 0 for those that a row has too few of.
        before: flat state just before each gaze's block.
        head: which of the K heads scores the gaze there.
        after, after_head: flat state and head that predict the loss after each gaze.
    """

    length: int
    tokens: Int[Tensor, " all"]
    slots: Int[Tensor, " G"]
    states: Int[Tensor, "R P"]
    before: Int[Tensor, " G"]
    head: Int[Tensor, " G"]
    after: Int[Tensor, " G"]
    after_head: Int[Tensor, " G"]

    @classmethod
    def of(cls, rows: GazeRows, num_tokens: int, K: int) -> "PackedRows":
        """The layout of these rows, of `num_tokens` vision tokens per frame and blocks of K gazes."""
        kept, (R, S), T = rows.host_kept, rows.ids.shape, len(rows.slots)
        widths = torch.tensor(rows.slots, dtype=torch.long)
        frame_of_slot = torch.arange(T).repeat_interleave(widths)
        counts = kept.new_zeros(R, T, dtype=torch.long)
        counts.index_add_(1, frame_of_slot, kept.long())
        ends = (counts + num_tokens).cumsum(1)
        starts = ends - counts - num_tokens  # (R, T)
        # At least one position, so that no kernel is asked for nothing.
        longest = max(1, int(ends[:, -1].max())) if R and T else 1
        N = -(-longest // ALIGNED) * ALIGNED

        row, slot = kept.nonzero().unbind(1)
        frame = frame_of_slot[slot]
        rank = slot - (widths.cumsum(0) - widths)[frame]
        # A threshold may leave slots out in the middle of a block.
        earlier = kept.long().cumsum(1) - kept.long()  # (R, S), in all frames
        first = starts[row, frame] + num_tokens - (counts.cumsum(1) - counts)[row, frame]
        own = first + earlier[row, slot]
        before = first + earlier[row, slot - rank % K] - 1
        is_full = rank % K == K - 1
        after = torch.where(is_full, own, before)
        read = torch.zeros(R, N, dtype=torch.bool)
        read[row, before] = True
        read[row, after] = True
        number = read.long().cumsum(1) - 1
        most = max(1, int(number[:, -1].max()) + 1) if R else 1
        P = -(-most // READ_ALIGNED) * READ_ALIGNED
        states = torch.zeros(R, P, dtype=torch.long)
        read_row, position = read.nonzero().unbind(1)
        states[read_row, number[read_row, position]] = position
        parts = [
            (starts + N * torch.arange(R)[:, None]).flatten(),
            own + N * row,
            row * S + slot,
            states.flatten(),
            row * P + number[row, before],
            rank % K,
            row * P + number[row, after],
            (rank + 1) % K,
        ]
        # In one message.
        device = rows.ids.device
        moved = sent(torch.cat(parts), device).split([len(part) for part in parts])
        first_tokens, gazes, slots, flat_states, *others = moved
        vision = first_tokens[:, None] + torch.arange(num_tokens, device=device)
        tokens = torch.cat([vision.flatten(), gazes])
        return cls(N, tokens, slots, flat_states.view(R, P), *others)

    def sequence(
        self, vision: Float[Tensor, "R T tokens C"], gazes: Float[Tensor, "G C"]
    ) -> Float[Tensor, "R N C"]:
        """Tokens in their places, padding as zeros."""
        R, C = len(vision), vision.shape[-1]
        tokens = torch.cat([vision.reshape(-1, C), gazes])
        empty = tokens.new_zeros(R * self.length, C)
        return empty.index_copy_(0, self.tokens, tokens).view(R, self.length, C)

    def vision(self, hidden: Float[Tensor, "R N C"], T: int) -> Float[Tensor, "R T tokens C"]:
        """States of the vision tokens."""
        R, _, C = hidden.shape
        count = len(self.tokens) - len(self.slots)
        return hidden.flatten(0, 1).index_select(0, self.tokens[:count]).view(R, T, -1, C)

    def of_gazes(self, values: Shaped[Tensor, "R S *V"]) -> Shaped[Tensor, "G *V"]:
        """What there is for every slot, for the gazes alone."""
        return values.flatten(0, 1).index_select(0, self.slots)

    def to_slots(self, values: Float[Tensor, "G *C"], rows: GazeRows) -> Float[Tensor, "R S *C"]:
        """What there is for the gazes, in their slots, and zeros elsewhere."""
        shape = rows.ids.shape
        empty = values.new_zeros(shape.numel(), *values.shape[1:])
        return empty.index_copy_(0, self.slots, values).unflatten(0, shape)
