"""Gazes of several rows as the model makes, scores and trains on them: padded frame by frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.gaze import Gaze
from autogaze.gaze_checks import padded_fields
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.decoding import Slots
from autogaze.utils.device import sent


@dataclass(frozen=True)
class GazeRows:
    """Gaze sequences of R rows at T frames, padded to common lengths frame by frame.

    Attributes:
        pyramid: what ids refer to.
        ids: (R, S) frame-relative patch ids; arbitrary where not kept.
        kept: (R, S) False where a slot is padding.
        slots: number of slots of every frame, S in all.
        losses: (R, T) predicted to be left in every frame, where the model predicted them.
        known_kept: `kept` on the host, where it is known there.
    """

    pyramid: PatchPyramid
    ids: Int[Tensor, "R S"]
    kept: Bool[Tensor, "R S"]
    slots: tuple[int, ...]
    losses: Float[Tensor, "R T"] | None = None
    known_kept: Bool[Tensor, "R S"] | None = None

    @classmethod
    def of_frames(cls, pyramid: PatchPyramid, frames: Sequence[Slots]) -> "GazeRows":
        """Gazes as the model generated them, frame by frame."""
        losses = [frame.losses for frame in frames if frame.losses is not None]
        ids = torch.cat([frame.ids for frame in frames], 1)
        known_kept = None
        if all(frame.all_kept for frame in frames):
            with torch.inference_mode(False):  # for training too
                known_kept = torch.ones(ids.shape, dtype=torch.bool)
        return cls(
            pyramid,
            ids,
            torch.cat([frame.kept for frame in frames], 1),
            tuple(frame.ids.shape[1] for frame in frames),
            torch.stack(losses, 1) if len(losses) == len(frames) else None,
            known_kept,
        )

    @classmethod
    def of_padded(cls, padded: Mapping[str, Any], pyramid: PatchPyramid) -> "GazeRows":
        """The gazes of a padded dict (`Gaze.padded`).

        Raises:
            GeometryError: what `Gaze.from_padded` refuses.
        """
        Gaze.from_padded(padded, pyramid)  # as it is: a copy of an output would compute its scores
        ids, is_padding, counts = padded_fields(padded)
        slots = tuple(counts.tolist())
        first = pyramid.num_patches * _frame_of_slot(slots)
        return cls(pyramid, ids - first.to(ids.device), ~is_padding, slots)

    @classmethod
    def of_gaze(cls, gaze: Gaze, device: torch.device | None = None) -> "GazeRows":
        """A gaze, each of its clips a row.

        Args:
            device: of the rows; by default the gaze's own. None is waited for.
        """
        device = device or gaze.device
        counts, V = gaze.lengths, gaze.pyramid.num_patches  # (R, T), on the host
        slots = counts.amax(0) if len(counts) else counts.new_zeros(counts.shape[1])
        rank = torch.arange(int(slots.sum())) - (slots.cumsum(0) - slots).repeat_interleave(slots)
        frame = _frame_of_slot(slots.tolist())
        kept = rank < counts[:, frame]
        places = kept.flatten().nonzero()[:, 0]
        if gaze.device.type == "cpu":
            ids = torch.full(kept.shape, V)
            ids.view(-1)[places] = gaze.ids
            ids = sent(ids, device)
        else:
            ids = torch.full(kept.shape, V, device=gaze.device)
            ids.view(-1).index_copy_(0, sent(places, gaze.device), gaze.ids)
        return cls(
            gaze.pyramid, ids.to(device), sent(kept, device), tuple(slots.tolist()), None, kept
        )

    @classmethod
    def cat(cls, parts: Sequence["GazeRows"]) -> "GazeRows":
        """Join rows at the same frames, which are padded to the longest among the parts."""
        if len(parts) == 1:
            return parts[0]
        slots = tuple(map(max, zip(*(part.slots for part in parts), strict=True)))

        def widened(values: Tensor, own: tuple[int, ...]) -> Tensor:
            frames = zip(values.split(own, 1), own, slots, strict=True)
            return torch.cat([F.pad(each, (0, wide - width)) for each, width, wide in frames], 1)

        losses = [part.losses for part in parts if part.losses is not None]
        return cls(
            parts[0].pyramid,
            torch.cat([widened(part.ids, part.slots) for part in parts]),
            torch.cat([widened(part.kept, part.slots) for part in parts]),
            slots,
            torch.cat(losses) if len(losses) == len(parts) else None,
        )

    @cached_property
    def host_kept(self) -> Bool[Tensor, "R S"]:
        """`kept` on the host; where it was not known there, a GPU is waited for once."""
        return self.kept.cpu() if self.known_kept is None else self.known_kept

    def ends(self, frame: int) -> int:
        """Slots up to the end of a frame."""
        return sum(self.slots[: frame + 1])

    def counts(self) -> Int[Tensor, "R T"]:
        """Gazes of every row in every frame."""
        return self._counts(self.kept)

    def _counts(self, kept: Bool[Tensor, "R S"]) -> Int[Tensor, "R T"]:
        if len(set(self.slots)) == 1:  # one operator
            return kept.unflatten(1, (len(self.slots), self.slots[0])).sum(2)
        before = F.pad(kept.cumsum(1), (1, 0))  # slots kept before each
        ends = [before[:, end] for end in accumulate(self.slots, initial=0)]
        return torch.stack(ends, 1).diff(dim=1)

    def to_gaze(self, rows: slice = slice(None)) -> Gaze:
        """The ragged gaze of some rows, without padding."""
        # Launched before a GPU is waited for, unless it is known here.
        lengths = self._counts(self.kept if self.known_kept is None else self.known_kept)[rows]
        all_kept = self.known_kept is not None and bool(self.known_kept.all())
        return Gaze(
            self.pyramid,
            self.ids[rows].flatten() if all_kept else self.ids[rows][self.kept[rows]],
            lengths,
            predicted_losses=None if self.losses is None else self.losses[rows],
        )

    def to_padded(self) -> dict[str, Any]:
        """The dict of `Gaze.padded`, with the slots as they are here."""
        V, device = self.pyramid.num_patches, self.ids.device
        first = V * _frame_of_slot(self.slots)
        return {
            **self.to_gaze().padded(),
            "gazing_pos": torch.where(self.kept, self.ids, V) + first.to(device),
            "if_padded_gazing": ~self.kept,
            "num_gazing_each_frame": torch.tensor(self.slots, device=device),
        }


def _frame_of_slot(slots: Sequence[int]) -> Int[Tensor, " S"]:
    """The frame that every slot belongs to."""
    return torch.arange(len(slots)).repeat_interleave(torch.tensor(slots))
