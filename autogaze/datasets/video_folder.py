"""`VideoFolder` as AutoGaze's users know it: its arguments in their order, and items that are dicts.

Trainings of the package's own read videos by `autogaze.datasets.video_windows`.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Num, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.datasets.augmentation import ResizedCrop, crop
from autogaze.datasets.decoding import choose_decoder
from autogaze.datasets.labels import label_paths, read_entries, short_name, shortened
from autogaze.datasets.video_windows import named_folders
from autogaze.errors import TrainingError, VideoError

log = logging.getLogger("autogaze.datasets")

SPLITS = ("train", "val")
CROP_OPTIONS = ("scale_min", "scale_max", "ratio_min", "ratio_max")


class VideoFolder(Dataset):
    """One clip of every video that lies in `root/<split>/`, as dicts.

    An item, which `autogaze.datasets.collate.collate_fn` joins to batches, holds

    - `video`: (T, 3, h, w), what `gaze_transform` made of the frames; uint8 where that is None;
    - `video_for_task`: the same by `task_transform`;
    - `is_valid`: False where the video cannot be read, which is logged: both are then empty, and
      `collate_fn` leaves the item out;
    - `video_path`: of the file;
    - `gt_gazing_info`: its labels, `gazing_pos` and `task_losses`, as in the label file; or [].

    What is random is drawn from NumPy's and PyTorch's global generators.

    Args:
        root: folders with `train/` and `val/`: separated by commas, or a list. The videos of each are
            sorted; those in deeper folders are left out.
        split: "train" or "val".
        gt_gazing_pos_paths: label files by split, or those of this one (see
            `autogaze.datasets.labels.label_paths`). Videos without a label are left out.
        random_sample_frame: clips start at random frames, in both splits.
        train_data_aug: of the split "train", a mapping or an object with attributes: `aug_type`, which is
            "random_resized_crop" or None, and under that name the options of `ResizedCrop`. Crops
            are the same in both videos, and of the size of `gaze_transform` (else `task_transform`).
        gaze_transform, task_transform: image processors, or functions of one PIL image; see
            `autogaze.datasets.video_utils.transform_video_for_pytorch`.
        clip_len: frames per clip, T.
        frame_sample_rate: a clip spans clip_len * frame_sample_rate frames of the video; see
            `autogaze.datasets.video_utils.sample_frame_indices`.
        video_ext: endings of the files.

    Attributes:
        data: paths of the videos.
        gt_gazing_pos_dict: labels by the last three parts of a path.

    Raises:
        TrainingError: a `ValueError`: no such folder or split, no videos, labels for other videos, or
            labels with random clips or crops, which they do not fit.
    """

    name = "VideoFolder"

    def __init__(
        self,
        root: str | Path | Sequence[str | Path],
        split: str = "train",
        gt_gazing_pos_paths: Any = None,
        random_sample_frame: bool = False,
        train_data_aug: Any = None,
        gaze_transform: Callable[..., Any] | None = None,
        task_transform: Callable[..., Any] | None = None,
        clip_len: int = 64,
        frame_sample_rate: float = 1,
        video_ext: str | Sequence[str] = ".mp4",
    ) -> None:
        if split not in SPLITS:
            raise TrainingError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if clip_len < 1 or not frame_sample_rate > 0:
            raise TrainingError(
                "clip_len must be at least 1 and frame_sample_rate above 0, got "
                f"{clip_len} and {frame_sample_rate}"
            )
        self.split = split
        self.clip_len, self.frame_sample_rate = clip_len, frame_sample_rate
        self.video_ext = video_ext
        self.random_sample_frame = random_sample_frame
        self.gaze_transform, self.task_transform = gaze_transform, task_transform
        self.train_data_aug = train_data_aug
        self.roots = [str(folder) for folder in named_folders(root)]
        self.data = _videos(self.roots, split, video_ext)
        self.data_aug = None
        if split == "train":
            self.data_aug = _augmentation(train_data_aug, gaze_transform or task_transform)
        paths = gt_gazing_pos_paths
        if isinstance(paths, Mapping):
            paths = paths.get(split)
        self.gt_gazing_pos_paths = label_paths(paths) if paths else []
        self.gt_gazing_pos_dict = _labels(self.gt_gazing_pos_paths)
        if self.gt_gazing_pos_paths:
            self.data = self._labelled()
        self.decoder = choose_decoder("pyav")

    def _labelled(self) -> list[str]:
        """The videos that have labels."""
        if self.random_sample_frame or self.data_aug is not None:
            raise TrainingError(
                "gaze labels belong to fixed clips: give random_sample_frame=False and no "
                "train_data_aug with them"
            )
        names = [short_name(Path(path)) for path in self.data]
        found = {
            name: path
            for name, path in zip(names, self.data, strict=True)
            if name in self.gt_gazing_pos_dict
        }
        if not found:
            raise TrainingError(
                f"{self.gt_gazing_pos_paths[0]} labels none of the {len(names)} videos found, such as "
                f"{names[0]}, but {next(iter(self.gt_gazing_pos_dict))}; a video is known by the last "
                "three parts of its path"
            )
        labelled = [name for name in names if name in found]
        twice = sorted({name for name in found if labelled.count(name) > 1})
        if twice:
            raise TrainingError(
                f"{twice[0]} is the name of several videos, and of one label: rename one of their folders"
            )
        return list(found.values())

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        path = self.data[idx]
        video = task_video = torch.empty(0, 3, 0, 0)
        is_valid = True
        try:
            frames = self._read(Path(path))
        except (VideoError, OSError) as error:
            log.warning("%s is left out: %s", path, error)
            is_valid = False
        else:
            video, task_video = self._transformed(frames)
        return {
            "video": video,
            "video_for_task": task_video,
            "is_valid": is_valid,
            "video_path": path,
            # A copy, since users' collate functions pad these lists in place.
            "gt_gazing_info": deepcopy(self.gt_gazing_pos_dict.get(short_name(Path(path)), [])),
        }

    def _read(self, path: Path) -> UInt8[np.ndarray, "T H W 3"]:
        # PyAV comes with this module, and training on decoded frames does without.
        from autogaze.datasets.video_utils import sample_frame_indices

        video = self.decoder(path)
        if not video.num_frames:
            raise VideoError(f"{path}: has no frames")
        chosen = sample_frame_indices(
            self.clip_len, self.frame_sample_rate, video.num_frames, self.random_sample_frame
        ).tolist()
        first, wanted = chosen[0], set(chosen)
        # Read to the end where the clip does, so that damage there is found.
        last = chosen[-1] if chosen[-1] < video.num_frames - 1 else None
        frames = {
            number: pixels
            for number, pixels in enumerate(video.frames(first, last), first)
            if number in wanted
        }
        if len(frames) < len(wanted):
            raise VideoError(f"{path}: frame {chosen[-1]} of {video.num_frames} cannot be decoded")
        return np.stack([frames[number] for number in chosen])

    def _transformed(
        self, frames: UInt8[np.ndarray, "T H W 3"]
    ) -> tuple[Num[Tensor, "T 3 h w"], Num[Tensor, "T 3 h2 w2"]]:
        """Both videos."""
        from autogaze.datasets.video_utils import transform_video_for_pytorch

        videos = [
            torch.from_numpy(frames).permute(0, 3, 1, 2)
            if transform is None
            else transform_video_for_pytorch(frames, transform)
            for transform in (self.gaze_transform, self.task_transform)
        ]
        if self.data_aug is not None:
            if videos[0].shape != videos[1].shape:
                raise TrainingError(
                    "gaze_transform and task_transform must give frames of one size for "
                    f"train_data_aug, got {tuple(videos[0].shape)} and {tuple(videos[1].shape)}"
                )
            videos = list(self.data_aug(torch.cat(videos)).chunk(2))
        return videos[0], videos[1]

    def check_dataset_is_not_random(self) -> bool:
        """Whether the first clip is the same whenever it is read, as labels need it."""
        first = self[0]["video"]
        return all(torch.equal(first, self[0]["video"]) for _ in range(5))


def _videos(roots: Sequence[str], split: str, endings: str | Sequence[str]) -> list[str]:
    """Paths of the videos of each root, sorted."""
    wanted = (endings,) if isinstance(endings, str) else tuple(endings)
    folders = [Path(root) / split for root in roots]
    for folder in folders:
        if not os.path.isdir(folder):
            raise TrainingError(f"root: {folder} is no folder")
    found = [
        str(path)
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.name.endswith(wanted) and path.is_file() and not path.name.startswith(".")
    ]
    if not found:
        places = ", ".join(map(str, folders)) or "no folder"
        raise TrainingError(f"no videos ({' '.join(wanted)}) in {places}; see video_ext")
    return found


def _labels(paths: Sequence[Path]) -> dict[str, Any]:
    """Labels by the last three parts of a name; of clips in several files, the last."""
    found: dict[str, Any] = {}
    for path in paths:
        for name, entry in read_entries(path).items():
            frames = entry.get("gazing_pos") if isinstance(entry, dict) else None
            if not isinstance(frames, list) or not all(isinstance(ids, list) for ids in frames):
                raise TrainingError(
                    f"{path}: {name} must hold gazing_pos, a list of ids per frame, got {entry!r:.80}"
                )
            found[shortened(name)] = entry
    return found


def _augmentation(given: Any, transform: Any) -> "RandomResizedCrop | None":
    """What `train_data_aug` asks for."""
    kind = None if given is None else _of(given, "aug_type")
    if kind in (None, ""):
        return None
    if kind != "random_resized_crop":
        raise TrainingError(f"train_data_aug.aug_type must be random_resized_crop, got {kind!r}")
    options = _of(given, kind) or {}
    values = {name: _of(options, name) for name in CROP_OPTIONS}
    if isinstance(options, Mapping) and (wrong := sorted(options.keys() - values.keys())):
        raise TrainingError(
            f"train_data_aug.{kind}.{wrong[0]} is unknown; known are {', '.join(values)}"
        )
    cropped = ResizedCrop(**{name: value for name, value in values.items() if value is not None})
    size = getattr(transform, "size", None)
    if (edge := _of(size, "shortest_edge")) is not None:
        return RandomResizedCrop(cropped, (int(edge), int(edge)))
    height, width = _of(size, "height"), _of(size, "width")
    if height is None or width is None:
        raise TrainingError(
            "train_data_aug needs the size of the frames: a gaze_transform or task_transform whose "
            f"size has shortest_edge, or height and width, got {size!r}"
        )
    return RandomResizedCrop(cropped, (int(height), int(width)))


def _of(options: Any, name: str) -> Any:
    """A value of a mapping or of an object's attributes; None where there is none."""
    return options.get(name) if isinstance(options, Mapping) else getattr(options, name, None)


class RandomResizedCrop:
    """The same random crop of all frames, resized."""

    def __init__(self, settings: ResizedCrop, size: tuple[int, int]) -> None:
        self.settings, self.size = settings, size

    def __call__(self, frames: Num[Tensor, "T 3 H W"]) -> Num[Tensor, "T 3 h w"]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        height, width = frames.shape[-2:]
        return crop(frames, self.settings.draw(height, width, generator), self.size, generator)
