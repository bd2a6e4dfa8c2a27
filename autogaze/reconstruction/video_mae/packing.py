"""Clips packed one after another, each led by one class token.

The class token counts as a frame of its own before the first, so block-causal
attention lets it see itself only, and everyone sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.vision_encoders.layout import TokenLayout


@dataclass(frozen=True, eq=False)
class LedClips:
    """B clips of tokens, frame-major, behind their class tokens.

    Args:
        lengths: tokens of every frame, on the CPU.
        device: where the tokens are.
    """

    lengths: Int[Tensor, "B T"]
    device: torch.device

    @cached_property
    def layout(self) -> TokenLayout:
        """Who sees whom."""
        clips = tuple((1, *clip) for clip in self.lengths.tolist())
        return TokenLayout(clips, "block_causal", self.device)

    @cached_property
    def is_leader(self) -> Bool[Tensor, " tokens"]:
        """Where the class tokens are."""
        counts = self.lengths.sum(1) + 1
        flags = torch.zeros(int(counts.sum()), dtype=torch.bool)
        flags[counts.cumsum(0) - counts] = True
        return flags.to(self.device)

    def join(
        self, leaders: Float[Tensor, "B C"], tokens: Float[Tensor, "N C"]
    ) -> Float[Tensor, "tokens C"]:
        """Class tokens and the clips' tokens, each behind its own."""
        parts = tokens.split(self.lengths.sum(1).tolist())
        pairs = zip(leaders.split(1), parts, strict=True)
        return torch.cat([part for pair in pairs for part in pair])


@dataclass(frozen=True)
class DecoderCells:
    """The cells that the decoder sees: all of frames to be reconstructed, else what was gazed at.

    Attributes:
        lengths: cells of every frame.
        ids: (N,) id of every cell.
        frame: (N,) its frame in the clip.
        is_shown: (N,) whether its frame is to be reconstructed.
        gazed: (gazed,) where among the cells each gazed patch is.
    """

    lengths: Int[Tensor, "B T"]
    ids: Int[Tensor, " N"]
    frame: Int[Tensor, " N"]
    is_shown: Bool[Tensor, " N"]
    gazed: Int[Tensor, " gazed"]

    @classmethod
    def of(cls, gaze: Gaze, shown: Sequence[int]) -> "DecoderCells":
        """Cells of a gaze of which the frames `shown` are to be reconstructed; on the CPU."""
        T, V = gaze.num_frames, gaze.pyramid.num_patches
        whole = torch.zeros(T, dtype=torch.bool)
        whole[list(shown)] = True
        lengths = torch.where(whole, V, gaze.lengths)
        slot = torch.arange(lengths.numel()).repeat_interleave(lengths.flatten())
        frame = slot % T
        starts = lengths.flatten().cumsum(0) - lengths.flatten()
        # In a frame with all cells a patch stands at its id, elsewhere in its turn.
        ids, gazed_slot = gaze.ids.cpu(), gaze.frame_of_patch.cpu()
        turn = torch.arange(len(ids)) - torch.tensor(gaze.offsets[:-1])[gazed_slot]
        gazed = starts[gazed_slot] + torch.where(whole[gazed_slot % T], ids, turn)
        every = torch.arange(len(slot)) - starts[slot]
        every[gazed] = ids
        return cls(lengths, every, frame, whole[frame], gazed)

    def to(self, device: torch.device) -> "DecoderCells":
        """The same on another device; `lengths` stay on the CPU."""
        moved = (part.to(device) for part in (self.ids, self.frame, self.is_shown, self.gazed))
        return DecoderCells(self.lengths, *moved)
