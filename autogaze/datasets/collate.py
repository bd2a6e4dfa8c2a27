"""Batches of clips that are dicts, as the datasets of AutoGaze's users make them.

The package's own clips, `TrainingClip`, are collated by `autogaze.datasets.clip.collate`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from autogaze.checks import describe_value
from autogaze.errors import TrainingError, first_line

LABELS = "gt_gazing_info"


def collate_fn(batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The batch of the items that are valid: for a data loader's `collate_fn`.

    Args:
        batch: dicts of the same keys. Those whose `is_valid` is False are left out;
            `gt_gazing_info` holds what `process_gazing_info` takes, or is empty in every item.

    Returns:
        Under every key what PyTorch's `default_collate` makes of its values, and under
        `gt_gazing_info` what `process_gazing_info` does.

    Raises:
        TrainingError: a `ValueError`: no item is valid, or only some have labels; or items that are no
            dicts of the same keys, or whose values cannot be joined.
    """
    batch = list(batch)
    if not all(isinstance(item, Mapping) for item in batch):
        raise TrainingError(f"expected a list of dicts, one per clip, got {describe_value(batch)}")
    items = [item for item in batch if item.get("is_valid", True)]
    if not items:
        raise TrainingError(f"none of the {len(batch)} clips of a batch could be read")
    collated: dict[str, Any] = {}
    for key in items[0]:
        without = sum(key not in item for item in items)
        if without:
            raise TrainingError(f"{without} of {len(items)} clips of a batch have no {key!r}")
        values = [item[key] for item in items]
        try:
            collated[key] = _labels(values) if key == LABELS else default_collate(values)
        except TrainingError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise TrainingError(
                f"the values of {key!r} cannot be joined to a batch: {first_line(error)}"
            ) from error
    return collated


def _labels(values: Sequence[Any]) -> dict[str, Tensor] | list[Any]:
    labelled = [bool(value) for value in values]
    if not any(labelled):
        return []
    if not all(labelled):
        raise TrainingError(
            f"{labelled.count(False)} of {len(values)} clips of a batch have no {LABELS}; "
            "give all of them labels or none"
        )
    names = ("gazing_pos", "task_losses")
    if not all(isinstance(value, Mapping) and {*names} <= value.keys() for value in values):
        raise TrainingError(
            f"{LABELS} must be a dict with {' and '.join(names)}, got {describe_value(values[0])}"
        )
    ids, losses = ([value[name] for value in values] for name in names)
    return process_gazing_info(ids, losses)


def process_gazing_info(
    gazing_pos: Sequence[Sequence[Sequence[int]]],
    task_losses: Sequence[Sequence[Sequence[float]]],
) -> dict[str, Tensor]:
    """Labels of B clips in slots: those of the longest clip in every frame, and one to end it.

    Args:
        gazing_pos: ids of every clip's frames, numbered over the clip.
        task_losses: loss after each of them.

    Returns:
        `gazing_pos` (B, slots), -1 where padded; `task_losses` (B, slots), which repeat a frame's
        last where padded; `if_padded_gazing` (B, slots); `num_gazing_each_frame` (T,).

    Raises:
        TrainingError: a `ValueError`: clips of different lengths, ids and losses that do not
            belong together, or a frame without any.
    """
    try:
        lengths = [[len(frame) for frame in clip] for clip in gazing_pos]
        known = [[len(frame) for frame in clip] for clip in task_losses]
    except TypeError as error:
        raise TrainingError(
            "gazing_pos and task_losses must hold for every clip one list per frame, got "
            f"{describe_value(gazing_pos)} and {describe_value(task_losses)}"
        ) from error
    if lengths != known:
        raise TrainingError("every gazing_pos needs its own of task_losses")
    if len({len(frames) for frames in lengths}) != 1 or not all(map(all, lengths)):
        raise TrainingError(
            "clips need labels for the same number of frames, at least one in each, "
            f"got {lengths} per frame"
        )
    slots = [max(counts) + 1 for counts in zip(*lengths, strict=True)]
    ids, losses = [], []
    for clip_ids, clip_losses in zip(gazing_pos, task_losses, strict=True):
        for count, frame_ids, frame_losses in zip(slots, clip_ids, clip_losses, strict=True):
            missing = count - len(frame_ids)
            ids.append([*frame_ids, *[-1] * missing])
            losses.append([*frame_losses, *[frame_losses[-1]] * missing])
    flat_ids = torch.tensor([i for frame in ids for i in frame], dtype=torch.long)
    flat_losses = torch.tensor([x for frame in losses for x in frame], dtype=torch.float)
    positions = flat_ids.view(len(gazing_pos), -1)
    return {
        "gazing_pos": positions,
        "task_losses": flat_losses.view(len(gazing_pos), -1),
        "if_padded_gazing": positions == -1,
        "num_gazing_each_frame": torch.tensor(slots),
    }
