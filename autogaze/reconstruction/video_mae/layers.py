"""The parts of a VideoMAE: transformer blocks, packed clips, position tables.

Parameters have the names of published MAE checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.gaze import Gaze
from autogaze.vision_encoders.attention import packed_attention
from autogaze.vision_encoders.layout import TokenLayout

KeysValues = tuple[Float[Tensor, "H past D"], Float[Tensor, "H past D"]]
"""Cached keys and values of one layer."""


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, num_heads: int, intermediate: int, eps: float) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads)
        self.intermediate = Dense(width, intermediate)
        self.output = Dense(intermediate, width)
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Float[Tensor, "N C"], layout: TokenLayout) -> Float[Tensor, "N C"]:
        """Packed tokens; the layout says which see each other."""
        return self._mlp(x + self.attention(self.layernorm_before(x), layout))

    def after(
        self, past: KeysValues | None, x: Float[Tensor, "M n C"], queries: slice = slice(None)
    ) -> tuple[Float[Tensor, "M q C"], tuple[Tensor, Tensor]]:
        """M alternatives of n tokens that see each other and the past.

        Returns:
            The tokens of `queries`, and all keys and values (M, H, past + n, D).
        """
        seen, keys_values = self.attention.after(past, self.layernorm_before(x), queries)
        return self._mlp(x[:, queries] + seen), keys_values

    def _mlp(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        return x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))


class Attention(nn.Module):
    """Multi-head self-attention and its output projection."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = SelfAttention(width)
        self.output = Dense(width, width)

    def forward(self, x: Float[Tensor, "N C"], layout: TokenLayout) -> Float[Tensor, "N C"]:
        part = self.attention
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)  # (H, N, D)
            for project in (part.query, part.key, part.value)
        )
        return self.output(packed_attention(q, k, v, layout).flatten(1))

    def after(
        self, past: KeysValues | None, x: Float[Tensor, "M n C"], queries: slice
    ) -> tuple[Float[Tensor, "M q C"], tuple[Tensor, Tensor]]:
        """See `Block.after`."""
        part = self.attention
        q, k, v = (
            project(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (M, H, n, D)
            for project, tokens in ((part.query, x[:, queries]), (part.key, x), (part.value, x))
        )
        if past is not None:
            k, v = (
                torch.cat([old.to(new.dtype).expand(len(x), -1, -1, -1), new], dim=2)
                for old, new in zip(past, (k, v), strict=True)
            )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.output(seen), (k, v)


class SelfAttention(nn.Module):
    """Queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)


class Dense(nn.Module):
    """A linear layer that checkpoints keep one level down."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "*N inputs"]) -> Float[Tensor, "*N outputs"]:
        return self.dense(x)


@dataclass(frozen=True, eq=False)
class PackedClips:
    """The token layout of B clips packed one after another, each behind its class token.

    Args:
        lengths: tokens of every frame, on the CPU.
        device: where the tokens are.
    """

    lengths: Int[Tensor, "B T"]
    device: torch.device

    @cached_property
    def layout(self) -> TokenLayout:
        """Block-causal over frames; the class token is a frame of its own before the first."""
        clips = tuple((1, *clip) for clip in self.lengths.tolist())
        return TokenLayout(clips, "block_causal", self.device)

    @cached_property
    def is_class_token(self) -> Bool[Tensor, " tokens"]:
        """Where the class tokens are."""
        counts = self.lengths.sum(1) + 1
        flags = torch.zeros(int(counts.sum()), dtype=torch.bool)
        flags[counts.cumsum(0) - counts] = True
        return flags.to(self.device)

    def join(
        self, class_tokens: Float[Tensor, "B C"], tokens: Float[Tensor, "N C"]
    ) -> Float[Tensor, "tokens C"]:
        """Class tokens and the clips' tokens, each clip behind its own."""
        parts = tokens.split(self.lengths.sum(1).tolist())
        pairs = zip(class_tokens.split(1), parts, strict=True)
        return torch.cat([part for pair in pairs for part in pair])


@dataclass(frozen=True)
class DecoderCells:
    """The cells that enter a decoder: all of the frames to be reconstructed, else the gazed ones.

    Attributes:
        lengths: cells of every frame, on the CPU.
        ids: id of every cell.
        frame: the frame of every cell in its clip.
        is_target: whether that frame is to be reconstructed.
        gazed: index of every gazed patch among the cells.
    """

    lengths: Int[Tensor, "B T"]
    ids: Int[Tensor, " N"]
    frame: Int[Tensor, " N"]
    is_target: Bool[Tensor, " N"]
    gazed: Int[Tensor, " gazed"]

    @classmethod
    def of(cls, gaze: Gaze, frames: Sequence[int], device: torch.device) -> "DecoderCells":
        """The cells of a gaze of which `frames` are to be reconstructed."""
        T, V = gaze.num_frames, gaze.pyramid.num_patches
        whole = torch.zeros(T, dtype=torch.bool)
        whole[list(frames)] = True
        lengths = torch.where(whole, V, gaze.lengths)
        slot = torch.arange(lengths.numel()).repeat_interleave(lengths.flatten())
        frame = slot % T
        starts = lengths.flatten().cumsum(0) - lengths.flatten()
        # The index of a patch in a frame with all cells is its id, else its position in the gaze.
        ids, gazed_slot = gaze.ids.cpu(), gaze.frame_of_patch.cpu()
        turn = torch.arange(len(ids)) - torch.tensor(gaze.offsets[:-1])[gazed_slot]
        gazed = starts[gazed_slot] + torch.where(whole[gazed_slot % T], ids, turn)
        every = torch.arange(len(slot)) - starts[slot]
        every[gazed] = ids
        parts = (part.to(device) for part in (every, frame, whole[frame], gazed))
        return cls(lengths, *parts)


def grid_positions(num_cells: int, width: int) -> Float[Tensor, "cells1 C"]:
    """Sines and cosines of a square grid's cells behind a zero row for the class token.

    The first half of the channels encodes the column, the second the row; each half is
    sines then cosines at wavelengths from 2 pi to 10000 * 2 pi.
    """
    grid = round(num_cells**0.5)
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    steps = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([steps.sin(), steps.cos()], dim=1)  # (grid, C / 2)
    columns = axis[None].expand(grid, grid, -1)
    rows = axis[:, None].expand(grid, grid, -1)
    table = torch.cat([columns, rows], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float()


def resized_2d(table: Float[Tensor, "cells C"], grid: int) -> Float[Tensor, "new C"]:
    """A square grid's table for another square grid, bicubic."""
    side = round(len(table) ** 0.5)
    if side == grid:
        return table
    square = table.T.unflatten(1, (side, side))[None]
    return F.interpolate(square, (grid, grid), mode="bicubic", align_corners=False)[0].flatten(1).T


def resized_1d(table: Float[Tensor, "cells C"], cells: int) -> Float[Tensor, "new C"]:
    """The table read as one line and resized to a line of `cells`, as ViT-MAE's decoder does."""
    if len(table) == cells:
        return table
    line = table.T[None, :, None]  # (1, C, 1, cells)
    # By size, as transformers does: by factor, 196 * (4 / 196) cells would be rounded to 3.
    return F.interpolate(line, (1, cells), mode="bicubic", align_corners=False)[0, :, 0].T
