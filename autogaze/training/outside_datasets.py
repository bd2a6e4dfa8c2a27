"""Datasets from outside the package, named by `_target_`: with our interface or the published one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import Dataset

from autogaze.datasets.clip import NamedClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.plain import PlainClips
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.batches import GreedyLabelled
from autogaze.models.autogaze.processing import AutoGazeImageProcessor
from autogaze.training.datasets import DatasetConfig, split_seed
from autogaze.training.plugins import call, takes, with_attributes


@dataclass(frozen=True)
class OutsideDataset(DatasetConfig):
    """A dataset from outside the package: a class, or a function that makes one.

    Args:
        target: gets its options, and of `split`, `clip_len`, `side`, `seed` and `labels` what its
            signature names. One that takes no `split` has training clips alone. One of the published
            interface takes a `gaze_transform`, and gets that, the `task_transform`, and the
            `gt_gazing_pos_paths`, which it reads itself.
        task_transform: of a published task; None for those that take frames as they are.
    """

    target: Callable[..., Any] = NamedClips
    options: Mapping[str, Any] = field(default_factory=dict)
    task_transform: Any = None

    @property
    def published(self) -> bool:
        """Whether the target has the published interface."""
        return takes(self.target, "gaze_transform", inherited=True)

    def with_task_transform(self, transform: Any) -> "DatasetConfig":
        return replace(self, task_transform=transform)

    def labelled(self) -> bool:
        return super().labelled() or self.published  # its items may hold labels

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        if not self.published:
            return super().clips(split, pyramid, seed)
        seed = seed if self.seed is None else self.seed
        clips = self._published(split, pyramid.side, seed, pyramid.num_patches)
        if self.greedy_labels is None:
            return clips
        return GreedyLabelled(clips, pyramid, self.greedy_labels, seed=seed)

    def _published(self, split: str, side: int, seed: int, num_patches: int | None) -> PlainClips:
        transform = AutoGazeImageProcessor(
            size={"shortest_edge": side},
            do_center_crop=True,
            crop_size={"height": side, "width": side},
        )
        offered = {
            "split": split,
            "clip_len": self.clip_len,
            "seed": split_seed(seed, split),
            "gaze_transform": transform,
            "task_transform": self.task_transform or transform,
            "gt_gazing_pos_paths": with_attributes(
                {name: getattr(self.gt_gazing_pos_paths, name) for name in ("train", "val")}
            ),
        }
        options = with_attributes(self.options)
        made = call(self.target, options, offered, "dataset", inherited=True)
        return PlainClips(
            made,
            self.clip_len,
            side,
            normalised=True,
            num_patches=num_patches,
            keeps_task_video=self.task_transform is not None,
        )

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        if self.published:
            return self._published(split, side, seed, None)
        if labels is not None and not takes(self.target, "labels"):
            raise TrainingError(
                f"dataset.gt_gazing_pos_paths: {self.target.__qualname__} takes no `labels`; use "
                "dataset.greedy_labels, or add the parameter"
            )
        offered = {
            "split": split,
            "clip_len": self.clip_len,
            "side": side,
            "seed": split_seed(seed, split),
            "labels": labels,
        }
        made = call(self.target, self.options, offered, "dataset")
        return made if isinstance(made, NamedClips) else PlainClips(made, self.clip_len, side)

    def has_split(self, split: str) -> bool:
        return split == "train" or takes(self.target, "split")
