"""`Gaze`: the patches chosen in every frame of every clip, which selectors return and encoders take.

It is ragged: only chosen patches are stored, clip by clip, frame by frame. Padding exists only in
`padded()`, the format of AutoGaze's users.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.checks import describe_value, is_dense, whole
from autogaze.errors import AutoGazeError, GeometryError, warn_renamed
from autogaze.gaze_checks import (
    check_fields,
    check_losses,
    check_pyramid,
    count_distinct,
    frames_by_search,
    padded_fields,
    shape,
)
from autogaze.gaze_io import GazeWriter, read_gaze
from autogaze.geometry import PatchPyramid
from autogaze.source import Source
from autogaze.utils.device import sent


@dataclass(frozen=True, eq=False)
class Gaze:
    """Chosen patches of B clips of T frames, N in all.

    Args:
        pyramid: the patch pyramid that ids refer to.
        ids: (N,) patch ids in [0, V), numbered from the start of their own frame,
            frame-major: clip 0 frame 0 first, then clip 0 frame 1, and so on.
        lengths: (B, T) patches of every frame, kept on the CPU.
        ordered: whether ids stand in the order they were chosen (else ascending).
        losses: (B, T) reconstruction loss left in every frame, in units of `metric`.
        metric: the metric of `losses`: "canvas" if they are measured on the canvas,
            "predicted", or a reconstruction model's name.
        source: the video and tiling behind the clips (one clip per tile), if any.
        predicted_losses: (B, T) the loss that the selector itself predicted to be left in every
            frame, in units of what its weights were trained with; None of selectors that predict
            none. After the frame's last patch, or before it where a cap ends a block of patches.

    Raises:
        GeometryError: values of other types, shapes that disagree, ids out of range or twice in a
            frame; on a CPU also losses that are not finite.
    """

    pyramid: PatchPyramid
    ids: Int[Tensor, " N"]
    lengths: Int[Tensor, "B T"]
    ordered: bool = True
    losses: Float[Tensor, "B T"] | None = None
    metric: str | None = None
    source: Source | None = None
    predicted_losses: Float[Tensor, "B T"] | None = None

    def __post_init__(self) -> None:
        check_fields(self.pyramid, self.ids, self.lengths, self.ordered, self.metric, self.source)
        ids = self.ids
        if ids.is_inference() or (ids.dtype != torch.long and torch.is_inference_mode_enabled()):
            with torch.inference_mode(False):  # a gaze is used in every mode, wherever it was made
                ids = ids.clone().long()
        object.__setattr__(self, "ids", ids.long())
        object.__setattr__(self, "lengths", self.lengths.long())
        summary = self._take_lengths_to_host()
        lengths, total = self.lengths, self.ids.numel()
        impossible = lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= total
        if impossible or int(lengths.sum()) != total:
            count = sum(lengths.flatten().tolist())  # a sum in 64 bits may wrap around
            raise GeometryError(f"lengths count {count} patches, but there are {total} ids")
        check_losses(self.losses, self.lengths)
        check_losses(self.predicted_losses, self.lengths)
        if self.source is not None:
            expected = (self.source.tiles.num_tiles, self.source.num_frames)
            if tuple(self.lengths.shape) != expected:
                raise GeometryError(
                    f"the source has {expected[0]} tiles and {expected[1]} frames, "
                    f"the gaze is {shape(self.lengths)}"
                )
        if total:
            self._check_ids(*(self._id_summary() if summary is None else summary).tolist())

    def _take_lengths_to_host(self) -> Int[Tensor, " 3"] | None:
        """Lengths come from the ids' device with all else that is asked of it: it is waited for once."""
        lengths, summary = self.lengths, None
        if lengths.device.type != "cpu" and lengths.device == self.ids.device and self.ids.numel():
            known = torch.cat([lengths.flatten(), self._id_summary()]).cpu()
            summary, lengths = known[-3:], known[:-3].view(lengths.shape).clone()
        object.__setattr__(self, "lengths", lengths.cpu())
        return summary

    def _id_summary(self) -> Int[Tensor, " 3"]:
        """The least and the largest id, and how many patches are different ones."""
        vocabulary = self.pyramid.num_patches
        slots = self.ids.clamp(0, vocabulary - 1)
        if self.lengths.numel() > 1:
            slots = self.frame_of_patch * vocabulary + slots
        # Lengths may still be wrong: what they do not count lies behind their frames.
        distinct = count_distinct(slots, (self.lengths.numel() + 1) * vocabulary)
        return torch.stack([self.ids.min(), self.ids.max(), distinct])

    def _check_ids(self, low: int, high: int, distinct: int) -> None:
        """Raise `GeometryError` for ids out of range or twice in a frame."""
        vocabulary = self.pyramid.num_patches
        if low < 0 or high >= vocabulary:
            raise GeometryError(
                f"patch ids must lie in [0, {vocabulary}), got ids from {low} to {high}"
            )
        if distinct < self.num_patches:
            slots = (self.frame_of_patch * vocabulary + self.ids).sort().values
            slot = int(slots[1:][slots[1:] == slots[:-1]][0])
            clip, frame = divmod(slot // vocabulary, max(1, self.num_frames))
            raise GeometryError(
                f"patch {slot % vocabulary} is chosen twice in frame {frame} of clip {clip}"
            )

    @property
    def num_clips(self) -> int:
        return self.lengths.shape[0]

    @property
    def num_frames(self) -> int:
        return self.lengths.shape[1]

    @property
    def num_patches(self) -> int:
        """Chosen patches in all."""
        return self.ids.numel()

    @property
    def ratio(self) -> float:
        """Chosen share of all patches of all scales, in [0, 1]."""
        total = self.lengths.numel() * self.pyramid.num_patches
        return self.num_patches / total if total else 0.0

    @property
    def device(self) -> torch.device:
        return self.ids.device

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each frame starts in `ids`: B * T + 1 positions, frame-major."""
        ends = self.lengths.flatten().cumsum(0).tolist()
        return (0, *ends)

    @cached_property
    def frame_of_patch(self) -> Int[Tensor, " N"]:
        """Clip * T + frame of every chosen patch."""
        counts = self.lengths.flatten()
        with torch.inference_mode(False):
            if counts.device.type != "cpu":  # until they are checked
                return frames_by_search(counts, self.ids.numel())
            # PyTorch's would wake a thread for every frame, which takes milliseconds.
            frames = np.repeat(np.arange(len(counts)), counts.numpy())
            return sent(torch.from_numpy(frames), self.ids.device)

    @cached_property
    def mask(self) -> Bool[Tensor, "B T V"]:
        """True where a patch was chosen."""
        vocabulary = self.pyramid.num_patches
        with torch.inference_mode(False):
            flat = torch.zeros(
                self.lengths.numel() * vocabulary, dtype=torch.bool, device=self.device
            )
            flat[self.frame_of_patch * vocabulary + self.ids] = True
            return flat.view(*self.lengths.shape, vocabulary)

    def masks(self) -> tuple[Bool[Tensor, "B T cells"], ...]:
        """`mask`, cut by scale, coarse to fine."""
        return self.mask.split(self.pyramid.cells, dim=-1)

    def rectangles(self) -> Float[Tensor, "N 4"]:
        """Left, top, right, bottom of every chosen patch.

        In pixels of the source video, cropped to it, so that a patch wholly on padding has no
        area; without a source in pixels of the clip's square frames.
        """
        boxes = self.pyramid.rectangles.to(self.device)[self.ids]
        if self.source is None or self.num_frames == 0:
            return boxes
        tiles = self.source.tiles
        # Selectors may see tiles at another side than the one they were cut at.
        zoom = tiles.side / self.pyramid.side
        origins = torch.tensor([tiles.origin(tile) for tile in range(tiles.num_tiles)])
        origin = origins.to(boxes)[self.frame_of_patch // self.num_frames]
        scale = boxes.new_tensor(tiles.scale).repeat(2)
        limit = boxes.new_tensor([tiles.width, tiles.height]).repeat(2)
        return torch.minimum((boxes * zoom + origin.repeat(1, 2)) * scale, limit)

    def padded(self) -> dict[str, Any]:
        """The padded dict of AutoGaze's users.

        Every frame is padded to the largest count among the clips. Keys:
        `gazing_pos` (B, S) ids numbered over the clip (id + V * frame), EOS (= V of
        its frame) where padded; `if_padded_gazing` (B, S) bool;
        `num_gazing_each_frame` (T,) slots per frame, padding included; `gazing_mask`
        list of (B, T, cells) floats; `scales`; `frame_sampling_rate` (1);
        `num_vision_tokens_each_frame` (V).
        """
        vocabulary = self.pyramid.num_patches
        clips, frames = self.lengths.shape
        slots = self.lengths.max(dim=0).values if clips else self.lengths.new_zeros(frames)
        starts = slots.cumsum(0) - slots
        total = int(slots.sum())
        position = self.frame_of_patch.cpu()
        row, frame = position // max(1, frames), position % max(1, frames)
        # Slot of a patch = its frame's first slot + its rank inside the frame.
        rank = torch.arange(self.num_patches) - torch.tensor(self.offsets)[position]
        slot = starts[frame] + rank
        eos = vocabulary * (torch.arange(frames) + 1)
        gazing_pos = eos.repeat_interleave(slots).expand(clips, total).clone()
        gazing_pos[row, slot] = self.ids.cpu() + vocabulary * frame
        is_padding = torch.ones(clips, total, dtype=torch.bool)
        is_padding[row, slot] = False
        return {
            "gazing_pos": gazing_pos.to(self.device),
            "if_padded_gazing": is_padding.to(self.device),
            "num_gazing_each_frame": slots.to(self.device),
            "gazing_mask": [mask.float() for mask in self.masks()],
            "scales": list(self.pyramid.scales),
            "frame_sampling_rate": 1,
            "num_vision_tokens_each_frame": vocabulary,
        }

    @classmethod
    def from_padded(cls, padded: Mapping[str, Any], pyramid: PatchPyramid, **extra: Any) -> "Gaze":
        """The inverse of `padded`, from `gazing_pos`, `if_padded_gazing` and `num_gazing_each_frame`.

        Ids in padded slots are ignored.

        Raises:
            GeometryError: shapes that disagree with each other or with `pyramid`.
        """
        positions, is_padding, slots = padded_fields(padded)
        check_pyramid(pyramid)
        vocabulary = padded.get("num_vision_tokens_each_frame", pyramid.num_patches)
        if whole(vocabulary) != pyramid.num_patches:
            raise GeometryError(
                f"the gaze has {describe_value(vocabulary)} patches per frame, the pyramid {pyramid} "
                f"has {pyramid.num_patches}"
            )
        total = sum(slots.tolist())
        if is_padding.shape != positions.shape or positions.shape[1] != total:
            raise GeometryError(
                f"gazing_pos is {shape(positions)}, if_padded_gazing {shape(is_padding)}, "
                f"and the frames have {total} slots in all"
            )
        frame = torch.repeat_interleave(torch.arange(len(slots)), slots).to(positions.device)
        kept = ~is_padding
        counts = [part.sum(-1) for part in kept.split(slots.tolist(), -1)] if len(slots) else []
        lengths = torch.stack(counts, -1) if counts else slots.new_zeros(len(positions), 0)
        return cls(pyramid, (positions - pyramid.num_patches * frame)[kept], lengths, **extra)

    @classmethod
    def from_mask(cls, pyramid: PatchPyramid, mask: Bool[Tensor, "B T V"], **extra: Any) -> "Gaze":
        """The gaze of a mask; ids ascend, so `ordered` is False."""
        check_pyramid(pyramid)
        if not (is_dense(mask) and mask.ndim == 3 and mask.shape[-1] == pyramid.num_patches):
            raise GeometryError(
                f"mask is {shape(mask)}, expected (clips, frames, {pyramid.num_patches})"
            )
        return cls(pyramid, mask.nonzero()[:, 2], mask.sum(-1), ordered=False, **extra)

    @classmethod
    def everything(cls, pyramid: PatchPyramid, num_clips: int, num_frames: int) -> "Gaze":
        """Every patch of every frame, at all scales."""
        check_pyramid(pyramid)
        clips, frames = whole(num_clips), whole(num_frames)
        if clips is None or frames is None or min(clips, frames) < 0:
            raise GeometryError(
                f"expected numbers of clips and frames, got {describe_value(num_clips)} and "
                f"{describe_value(num_frames)}"
            )
        ids = torch.arange(pyramid.num_patches).repeat(num_clips * num_frames)
        lengths = torch.full((num_clips, num_frames), pyramid.num_patches)
        return cls(pyramid, ids, lengths, ordered=False)

    @classmethod
    def cat_frames(cls, gazes: Sequence["Gaze"]) -> "Gaze":
        """Join gazes of the same clips in time."""
        _check_joinable(gazes, "num_clips")
        if len(gazes) == 1:
            return gazes[0]
        by_clip = [gaze.ids.split(gaze.lengths.sum(1).tolist()) for gaze in gazes]
        ids = [part for parts in zip(*by_clip, strict=True) for part in parts]
        sources = [gaze.source for gaze in gazes if gaze.source is not None]
        source = Source.joined(sources) if len(sources) == len(gazes) else None
        return cls._joined(gazes, ids, dim=1, source=source)

    @classmethod
    def cat_clips(cls, gazes: Sequence["Gaze"]) -> "Gaze":
        """Join gazes of different clips of equal length; sources are dropped."""
        _check_joinable(gazes, "num_frames")
        return cls._joined(gazes, [gaze.ids for gaze in gazes], dim=0)

    @classmethod
    def _joined(
        cls, gazes: Sequence["Gaze"], ids: list[Tensor], dim: int, source: Source | None = None
    ) -> "Gaze":
        def joined(losses: list[Tensor | None]) -> Tensor | None:
            known = [each for each in losses if each is not None]
            return torch.cat(known, dim=dim) if len(known) == len(gazes) else None

        return cls(
            gazes[0].pyramid,
            torch.cat(ids) if ids else gazes[0].ids,
            torch.cat([gaze.lengths for gaze in gazes], dim=dim),
            ordered=all(gaze.ordered for gaze in gazes),
            losses=joined([gaze.losses for gaze in gazes]),
            predicted_losses=joined([gaze.predicted_losses for gaze in gazes]),
            metric=gazes[0].metric,
            source=source,
        )

    def frames(self, start: int, stop: int) -> "Gaze":
        """Frames [start, stop) of every clip; the inverse of `cat_frames`.

        The source knows where chunks start also if `start` lies inside of one. The canvas of
        these frames alone then starts at grey, though `losses` were measured on that of the whole.

        Raises:
            GeometryError: the gaze does not have these frames.
        """
        first, end = whole(start), whole(stop)
        if first is None or end is None or not 0 <= first <= end <= self.num_frames:
            raise GeometryError(
                f"frames must be a range within the {self.num_frames} of the gaze, got "
                f"{describe_value(start)} to {describe_value(stop)}"
            )
        start, stop = first, end
        clips = range(0, self.lengths.numel(), max(1, self.num_frames))
        ids = [self._ids(clip + start, clip + stop) for clip in clips]
        return self._with(
            torch.cat(ids) if ids else self.ids,
            lambda losses: losses[:, start:stop],
            lengths=self.lengths[:, start:stop],
            source=self.source and self.source.frames(start, stop),
        )

    def frame(self, clip: int, frame: int) -> Int[Tensor, " n"]:
        """Ids chosen in one frame of one clip."""
        index = range(self.num_clips)[clip] * self.num_frames + range(self.num_frames)[frame]
        return self._ids(index, index + 1)

    def __getitem__(self, clip: int) -> "Gaze":
        """One clip, as a gaze of its own (without the source, which spans all tiles)."""
        clip = range(self.num_clips)[clip]
        return self._with(
            self._ids(clip * self.num_frames, (clip + 1) * self.num_frames),
            lambda losses: losses[clip : clip + 1],
            lengths=self.lengths[clip : clip + 1],
            source=None,
        )

    def __iter__(self) -> Iterator["Gaze"]:
        return (self[clip] for clip in range(self.num_clips))

    def __len__(self) -> int:
        return self.num_clips

    def _ids(self, start: int, stop: int) -> Int[Tensor, " n"]:
        """Ids of the frames [start, stop), counted over all clips."""
        return self.ids[self.offsets[start] : self.offsets[stop]]

    def to(self, device: torch.device | str) -> "Gaze":
        """The gaze with its tensors on a device; the same one if they lie there."""
        own = (self.ids, self.losses, self.predicted_losses)
        if all(one is None or one.device == torch.device(device) for one in own):
            return self
        return self._with(self.ids.to(device), lambda losses: losses.to(device))

    def _with(self, ids: Tensor, part: Callable[[Tensor], Tensor], **changes: Any) -> "Gaze":
        """This gaze with other ids, a part of each of its losses, and other changes."""
        losses, predicted = (
            None if values is None else part(values)
            for values in (self.losses, self.predicted_losses)
        )
        return replace(self, ids=ids, losses=losses, predicted_losses=predicted, **changes)

    def __repr__(self) -> str:
        loss = (
            f", loss={float(self.losses.mean()):.4f} ({self.metric})"
            if self.losses is not None and self.losses.numel()
            else ""
        )
        predicted = self.predicted_losses
        if predicted is not None and predicted.numel():
            loss += f", predicted loss={float(predicted.mean()):.4f}"
        return (
            f"Gaze(clips={self.num_clips}, frames={self.num_frames}, patches={self.num_patches}, "
            f"ratio={self.ratio:.4f}, pyramid={self.pyramid}{loss})"
        )

    def save(self, path: str | Path) -> None:
        """Write a gaze file (see `autogaze.gaze_io`).

        Raises:
            OutputError: `path` cannot be written, or the disk is full.
        """
        with GazeWriter(path) as writer:
            writer.add(self)

    @classmethod
    def load(cls, path: str | Path) -> "Gaze":
        """Read a gaze file.

        Raises:
            AutoGazeError: missing, or not a gaze file; the message names it and the cause.
        """
        fields = read_gaze(path)
        try:
            return cls(**fields)
        except GeometryError as error:
            raise AutoGazeError(f"{path}: damaged gaze file: {error}") from error

    @property
    def judge(self) -> str | None:
        """Former name of `metric`."""
        warn_renamed("Gaze.judge", "Gaze.metric")
        return self.metric


def _check_joinable(gazes: Sequence[Gaze], shared: str) -> None:
    """Raise `GeometryError` unless pyramid, metric and the count `shared` are the same for all."""
    if not isinstance(gazes, list | tuple) or not all(isinstance(gaze, Gaze) for gaze in gazes):
        raise GeometryError(f"expected a list of gazes to join, got {describe_value(gazes)}")
    if not gazes:
        raise GeometryError("no gazes to join")
    first = gazes[0]
    for gaze in gazes:
        if (gaze.pyramid, gaze.metric) != (first.pyramid, first.metric):
            raise GeometryError(
                f"cannot join gazes of pyramid {first.pyramid} and metric {first.metric} "
                f"and of {gaze.pyramid} and {gaze.metric}"
            )
    counts = [getattr(gaze, shared) for gaze in gazes]
    if len(set(counts)) > 1:
        raise GeometryError(f"cannot join gazes of different {shared}: {counts}")
