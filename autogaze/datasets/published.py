"""`VideoFolder` with the arguments that AutoGaze's users give it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autogaze.datasets import video_folder
from autogaze.datasets.augmentation import Augmentation
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.video_folder import Window

VOCABULARY = 265
"""Patches of AutoGaze's scales, 32+64+112+224."""


class VideoFolder(video_folder.VideoFolder):
    """Clips of the videos below `root/<split>`.

    Args:
        root: folders with `train/` and `val/`: separated by commas, or a list.
        split: which of them.
        clip_len: frames per clip.
        gt_gazing_pos_paths: label files by split, or the label file of this one.
        random_sample_frame: clips start at random frames, in the split "train".
        frame_sample_rate: from one frame of a clip to the next, in frames of the video.
        train_data_aug: random changes of clips of the split "train".
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
        gt_gazing_pos_paths: str | Path | Mapping[str, Any] | None = None,
        random_sample_frame: bool = False,
        frame_sample_rate: int = 1,
        train_data_aug: bool = False,
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
            options["labels"] = LabelFile.load(path, num_vision_tokens_each_frame)
        if train_data_aug and trains:
            options["augmentation"] = Augmentation()
        super().__init__(roots, split, **options)
