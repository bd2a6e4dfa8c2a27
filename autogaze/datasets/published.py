"""`VideoFolder` with the arguments that AutoGaze's users give it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autogaze.datasets import video_folder
from autogaze.datasets.augmentation import Augmentation, ResizedCrop
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.video_folder import Window
from autogaze.errors import TrainingError

VOCABULARY = 265
"""Patches of AutoGaze's scales, 32+64+112+224."""


class VideoFolder(video_folder.VideoFolder):
    """Clips of the videos below `root/<split>`.

    Args:
        root: folders with `train/` and `val/`: separated by commas, or a list.
        split: which of them.
        clip_len: frames per clip.
        gt_gazing_pos_paths: label files by split, or those of this one (`LabelFile.load_all`).
        random_sample_frame: clips start at random frames, in the split "train".
        frame_sample_rate: from one frame of a clip to the next, in frames of the video.
        train_data_aug: of the split "train": {"aug_type": "random_resized_crop",
            "random_resized_crop": {...}}, with the options of `ResizedCrop`; or None.
        num_vision_tokens_each_frame: patches that labels are numbered by.
        options: those of `autogaze.datasets.video_folder.VideoFolder`.

    Raises:
        TrainingError: as there.
    """

    def __init__(
        self,
        root: str | Path | Sequence[str | Path],
        split: str = "train",
        clip_len: int = 16,
        gt_gazing_pos_paths: Any = None,
        random_sample_frame: bool = False,
        frame_sample_rate: int = 1,
        train_data_aug: Mapping[str, Any] | None = None,
        num_vision_tokens_each_frame: int = VOCABULARY,
        **options: Any,
    ) -> None:
        names = (
            root.split(",") if isinstance(root, str) else [root] if isinstance(root, Path) else root
        )
        roots = [Path(str(name).strip()).expanduser() for name in names if str(name).strip()]
        trains = split == "train"
        if options.get("window") is None:
            random = random_sample_frame and trains
            options["window"] = Window(clip_len, frame_sample_rate, random)
        path: Any = gt_gazing_pos_paths
        if isinstance(path, Mapping):
            path = path.get(split)
        if path is not None:
            options["labels"] = LabelFile.load_all(path, num_vision_tokens_each_frame)
        if trains and (augmentation := _augmentation(train_data_aug or {})) is not None:
            options["augmentation"] = augmentation
        super().__init__(roots, split, **options)


def _augmentation(given: Mapping[str, Any]) -> Augmentation | None:
    kind = given.get("aug_type")
    if kind in (None, ""):
        return None
    if kind != "random_resized_crop":
        raise TrainingError(
            f"train_data_aug's aug_type must be random_resized_crop, got {kind!r}; "
            "others are given as `augmentation`"
        )
    crop = ResizedCrop(**(given.get(kind) or {}))
    return Augmentation(min_crop=1.0, flip=False, brightness=0.0, contrast=0.0, resized_crop=crop)
