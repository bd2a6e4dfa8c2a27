"""Gazed patches, cut straight from the frames: nothing that was not chosen is made.

A frame is resized only to the scales it is gazed at (bicubic, not antialiased, as the
published encoder sees them), and of each scale only the chosen cells are copied out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.adapter import EncoderAdapter


def gazed_patches(
    frames: Float[Tensor, "F 3 S S"],
    ids: Int[Tensor, " N"],
    frame_of_patch: Int[Tensor, " N"],
    pyramid: PatchPyramid,
    frames_at_once: int = 64,
) -> Float[Tensor, "N 3 p p"]:
    """Pixels of the chosen patches, in their order.

    Args:
        frames: square frames of the pyramid's side.
        ids: patch ids, numbered from the start of their own frame.
        frame_of_patch: the frame of every patch, ascending.
        frames_at_once: frames resized together, which bounds memory.
    """
    p = pyramid.patch_size
    patches = frames.new_empty(len(ids), 3, p, p)
    levels = pyramid.levels.to(ids.device)[ids]
    for level, scale in enumerate(pyramid.scales):
        slots = (levels == level).nonzero()[:, 0]
        if not len(slots):
            continue
        cells = ids[slots] - pyramid.offsets[level]
        if scale == pyramid.side:
            patches[slots] = cut_cells(frames, frame_of_patch[slots], cells, p)
            continue
        needed, frame = frame_of_patch[slots].unique(return_inverse=True)
        for start in range(0, len(needed), frames_at_once):
            chunk = needed[start : start + frames_at_once]
            here = ((frame >= start) & (frame < start + len(chunk))).nonzero()[:, 0]
            small = resize(frames[chunk], scale)
            patches[slots[here]] = cut_cells(small, frame[here] - start, cells[here], p)
    return patches


def resize(frames: Float[Tensor, "F 3 S S"], scale: int) -> Float[Tensor, "F 3 s s"]:
    """Frames at another scale: bicubic, not antialiased."""
    return F.interpolate(frames, size=(scale, scale), mode="bicubic", align_corners=False)


def cut_cells(
    frames: Float[Tensor, "F 3 s s"],
    frame: Int[Tensor, " n"],
    cell: Int[Tensor, " n"],
    patch_size: int,
) -> Float[Tensor, "n 3 p p"]:
    """Cells of frames, numbered row by row; what is left over at the border belongs to none."""
    grid = frames.shape[-1] // patch_size
    covered = frames[..., : grid * patch_size, : grid * patch_size]
    cells = covered.unflatten(-1, (grid, patch_size)).unflatten(-3, (grid, patch_size))
    return cells[frame, :, cell // grid, :, cell % grid]


# Positions of all patches of a pyramid: what follows from a patch's id alone.

Rotary = tuple[Float[Tensor, "cells D"], Float[Tensor, "cells D"]]
"""Cosines and sines."""


@dataclass(frozen=True)
class PositionTables:
    """One row an id, made once a call."""

    positions: Float[Tensor, "V C"] | None
    rotary: tuple[Float[Tensor, "V D"], Float[Tensor, "V D"]] | None

    @classmethod
    def of(cls, encoder: EncoderAdapter, pyramid: PatchPyramid) -> "PositionTables":
        """Every scale's positions are those of an image of its size."""
        positions = [encoder.positions(grid) for grid in pyramid.grids]
        rotary = _rotary(encoder, pyramid.grids)
        known_positions = [table for table in positions if table is not None]
        known_rotary = [tables for tables in rotary if tables is not None]
        return cls(
            torch.cat(known_positions) if known_positions else None,
            (
                torch.cat([cos for cos, _ in known_rotary]),
                torch.cat([sin for _, sin in known_rotary]),
            )
            if known_rotary
            else None,
        )


def _rotary(encoder: EncoderAdapter, grids: Sequence[int]) -> list[Rotary | None]:
    """Of every grid; in training, by the same random numbers for all of them.

    DINOv3 then stretches its positions at random, once a call. Scales show the same
    picture, so all of them are stretched alike, and what is drawn later is what would be
    drawn behind the untouched model.
    """
    if not encoder.model.training:
        return [encoder.rotary(grid) for grid in grids]
    device = encoder.projection.weight.device
    made = []
    for grid in grids[:-1]:
        # Leaves the generators as they were.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            made.append(encoder.rotary(grid))
    return [*made, encoder.rotary(grids[-1])]
