"""Batches of clips that are dicts: what is joined, and what errors name."""

from pathlib import Path

import pytest
import torch

from autogaze.datasets.collate import collate_fn
from autogaze.errors import TrainingError

LABELS = {"gazing_pos": [[1], [2]], "task_losses": [[0.1], [0.2]]}
ITEM = {"video": torch.zeros(2, 3), "is_valid": True, "gt_gazing_info": LABELS}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_items_are_joined(kind):
    batch = collate_fn(kind([ITEM, {**ITEM, "is_valid": False}, ITEM]))
    assert batch["video"].shape == (2, 2, 3)
    assert batch["gt_gazing_info"]["gazing_pos"].tolist() == [[1, -1, 2, -1]] * 2


def without(key):
    return {name: value for name, value in ITEM.items() if name != key}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("batch", "named"),
    [
        ([], "none of the 0"),
        (ITEM, "list of dicts"),
        ([1, 2], "list of dicts"),
        ([ITEM, without("video")], "1 of 2 clips.*'video'"),
        ([ITEM, without("gt_gazing_info")], "'gt_gazing_info'"),
        ([{**ITEM, "path": Path("a")}], "'path' cannot be joined"),
        ([{**ITEM, "label": None}], "'label' cannot be joined"),
        ([ITEM, {**ITEM, "video": torch.zeros(3, 3)}], "'video' cannot be joined"),
    ],
)
def test_items_that_cannot_be_joined_are_named(batch, named):
    with pytest.raises(TrainingError, match=named):
        collate_fn(batch)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "labels",
    [
        [1],
        {"gazing_pos": [[1]]},
        {"gazing_pos": None, "task_losses": None},
        {"gazing_pos": [1, 2], "task_losses": [0.1, 0.2]},
        {"gazing_pos": [["a"]], "task_losses": [[0.1]]},
    ],
)
def test_labels_of_another_form_are_refused(labels):
    with pytest.raises(TrainingError, match=r"gazing_pos|gt_gazing_info"):
        collate_fn([{**ITEM, "gt_gazing_info": labels}])
