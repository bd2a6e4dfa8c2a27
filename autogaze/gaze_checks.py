"""Checks of the values that a gaze is made of; errors say what came and what is taken."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.checks import describe_value, is_dense, whole
from autogaze.errors import GeometryError
from autogaze.geometry import PatchPyramid
from autogaze.source import Source

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_fields(
    pyramid: Any, ids: Any, lengths: Any, ordered: Any, metric: Any, source: Any
) -> None:
    """Raise `GeometryError` unless a gaze's fields are of their types and dimensions."""
    check_pyramid(pyramid)
    if not (is_integers(ids) and ids.ndim == 1):
        raise GeometryError(f"ids must be a flat integer tensor, got {shape(ids)}")
    if not (is_integers(lengths) and lengths.ndim == 2):
        raise GeometryError(
            f"lengths must be an integer tensor (clips, frames), got {shape(lengths)}"
        )
    if not (isinstance(ordered, bool) and isinstance(metric, str | None)):
        raise GeometryError(
            "ordered must be True or False and metric a name or None, got "
            f"{describe_value(ordered)} and {describe_value(metric)}"
        )
    if not isinstance(source, Source | None):
        raise GeometryError(f"source must be a Source or None, got {describe_value(source)}")


def check_losses(losses: Any, lengths: Tensor) -> None:
    """Raise `GeometryError` unless losses are None, or floats of the shape of `lengths`.

    On a CPU they must be finite; elsewhere that would make the device wait.
    """
    if losses is None:
        return
    if not (is_dense(losses) and losses.is_floating_point()):
        raise GeometryError(f"losses must be a tensor of floats, got {shape(losses)}")
    if losses.shape != lengths.shape:
        raise GeometryError(f"losses are {shape(losses)}, expected {shape(lengths)} like lengths")
    if losses.device.type == "cpu" and not losses.isfinite().all():
        raise GeometryError("losses must be finite, got NaN or infinity among them")


def check_pyramid(pyramid: Any) -> None:
    if not isinstance(pyramid, PatchPyramid):
        raise GeometryError(f"pyramid must be a PatchPyramid, got {describe_value(pyramid)}")


def frames_by_search(counts: Int[Tensor, " frames"], total: int) -> Int[Tensor, " total"]:
    """The frame of each of so many patches, on the device of the frames' counts, which waits for nothing.

    Whatever the counts: patches that they do not count lie behind the last frame.
    """
    numbers = torch.arange(total, device=counts.device)
    return torch.searchsorted(counts.cumsum(0), numbers, right=True)


def count_distinct(slots: Int[Tensor, " N"], num_slots: int) -> Int[Tensor, ""]:
    """How many of `num_slots` numbers there are, on their device; memory follows N.

    Args:
        slots: in [0, num_slots), at least one.
    """
    if num_slots <= 32 * slots.numel():  # bytes, no more than to sort takes
        seen = torch.zeros(num_slots, dtype=torch.bool, device=slots.device)
        return seen.scatter_(0, slots, True).sum()
    slots = slots.sort().values
    return 1 + (slots[1:] != slots[:-1]).sum()


def is_integers(value: Any) -> bool:
    """Whether this is a tensor of integers."""
    return is_dense(value) and value.dtype in _INTEGERS


def shape(value: Any) -> str:
    """Shape and type of a tensor, for messages."""
    if not isinstance(value, Tensor):
        return describe_value(value)
    kind = str(value.dtype).removeprefix("torch.")
    if not is_dense(value):
        return f"a {kind} tensor that is sparse, nested or without values"
    return f"{tuple(value.shape)} {kind}"


def padded_fields(padded: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, padding and slots per frame of a padded dict.

    Raises:
        GeometryError: they are missing, or of other types.
    """
    names = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame")
    try:
        positions, is_padding, slots = (padded[name] for name in names)
    except (KeyError, TypeError, IndexError) as error:
        missing = f"the gaze has no {error}; " if isinstance(error, KeyError) else ""
        found = sorted(map(str, padded)) if isinstance(padded, Mapping) else describe_value(padded)
        raise GeometryError(
            f"{missing}expected a dict with gazing_pos, if_padded_gazing and num_gazing_each_frame, got {found}"
        ) from None
    if not isinstance(slots, Tensor):
        whole_slots = [whole(slot) for slot in slots] if isinstance(slots, list | tuple) else [None]
        if None in whole_slots:
            raise GeometryError(
                f"num_gazing_each_frame must be whole numbers, got {describe_value(slots)}"
            )
        slots = torch.tensor(whole_slots, dtype=torch.long)
    if not (is_integers(positions) and is_dense(is_padding) and is_integers(slots)):
        raise GeometryError(
            f"gazing_pos and num_gazing_each_frame must be integer tensors, got {shape(positions)} "
            f"and {shape(slots)}; if_padded_gazing a tensor too, got {shape(is_padding)}"
        )
    slots = slots.long().cpu()
    if slots.ndim != 1 or positions.ndim != 2 or (slots.numel() and int(slots.min()) < 0):
        raise GeometryError(
            f"expected gazing_pos (clips, slots) and num_gazing_each_frame (frames), got "
            f"{shape(positions)} and {shape(slots)}"
        )
    return positions, is_padding.bool(), slots
