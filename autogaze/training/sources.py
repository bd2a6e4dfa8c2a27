"""The `dataset` group: clips for training and validation, by `dataset.name`.

A new dataset is a class here, an entry in `DATASETS` and a config in `configs/dataset`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from autogaze.datasets.augmentation import Augmentation
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.datasets.video_folder import VideoFolder, Window
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.budget import GazeBudget
from autogaze.training.greedy_labels import GreedyLabelled
from autogaze.training.reading import choose, read


@dataclass(frozen=True)
class LabelPaths:
    """`gazing_labels.json` files of either split."""

    train: str | None = None
    val: str | None = None

    def load(self, split: str, num_patches: int) -> LabelFile | None:
        """The labels of a split, if there are any."""
        path = self.train if split == "train" else self.val
        return None if path is None else LabelFile.load(path, num_patches)


@dataclass(frozen=True)
class ClipSource(ABC):
    """What all datasets can be told.

    Args:
        clip_len: frames of a clip.
        greedy_labels: label clips while they are read (see `GazeBudget`).
        max_unreadable: share of clips that may be unreadable before training fails.
    """

    clip_len: int = 16
    greedy_labels: GazeBudget | None = None
    max_unreadable: float = 0.05

    def __post_init__(self) -> None:
        if self.clip_len < 1:
            raise TrainingError(f"dataset.clip_len must be at least 1, got {self.clip_len}")
        if not 0 <= self.max_unreadable <= 1:
            raise TrainingError(
                f"dataset.max_unreadable must lie in [0, 1], got {self.max_unreadable}"
            )

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """The clips of `train` or `val`.

        Raises:
            TrainingError: there are none, or labels that do not fit.
        """
        clips = self.read(split, pyramid, seed)
        if self.greedy_labels is None:
            return clips
        return GreedyLabelled(clips, pyramid, self.greedy_labels, seed=seed)

    @abstractmethod
    def read(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """The clips without labels made on the way."""

    @abstractmethod
    def labelled(self) -> bool:
        """Whether training clips have gaze labels."""


Roots = str | tuple[str, ...] | None
"""Folders: separated by commas, or a list."""


def folders(roots: Roots, option: str = "dataset.root") -> list[Path]:
    """The folders of an option.

    Raises:
        TrainingError: none named, or one that does not exist.
    """
    names = roots.split(",") if isinstance(roots, str) else roots or ()
    paths = [Path(name.strip()).expanduser() for name in names if name.strip()]
    if not paths:
        raise TrainingError(f"{option} names no folder; give one or more, separated by commas")
    for path in paths:
        if not path.exists():
            raise TrainingError(f"{option}: {path} does not exist")
    return paths


@dataclass(frozen=True)
class VideoFolderSource(ClipSource):
    """`video_folder`: videos below `root/train` and `root/val` (see `VideoFolder`).

    Args:
        root: folders, separated by commas.
        gt_gazing_pos_paths: label files.
        random_sample_frame: draw where training clips start; else at the first frame.
        stride: frames from one of a clip to the next.
        augmentation: of training clips.
    """

    root: Roots = None
    gt_gazing_pos_paths: LabelPaths = field(default_factory=LabelPaths)
    random_sample_frame: bool = False
    stride: int = 1
    augmentation: Augmentation | None = None

    def read(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        trains = split == "train"
        return VideoFolder(
            folders(self.root),
            split,
            window=Window(self.clip_len, self.stride, self.random_sample_frame and trains),
            side=pyramid.side,
            augmentation=self.augmentation if trains else None,
            labels=self.gt_gazing_pos_paths.load(split, pyramid.num_patches),
            seed=seed,
        )

    def labelled(self) -> bool:
        return self.greedy_labels is not None or self.gt_gazing_pos_paths.train is not None


@dataclass(frozen=True)
class DecodedSource(ClipSource):
    """`decoded`: files of decoded clips (see `save_decoded`), `<root>/<split>*.safetensors`.

    Args:
        root: folders, separated by commas.
        gt_gazing_pos_paths: label files.
        augmentation: of training clips.
    """

    root: Roots = None
    gt_gazing_pos_paths: LabelPaths = field(default_factory=LabelPaths)
    augmentation: Augmentation | None = None

    def read(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        roots = folders(self.root)
        paths = sorted(path for root in roots for path in root.glob(f"{split}*.safetensors"))
        if not paths:
            places = ", ".join(str(root / f"{split}*.safetensors") for root in roots)
            raise TrainingError(f"no files of decoded clips: {places}")
        return DecodedClips(
            paths,
            augmentation=self.augmentation if split == "train" else None,
            labels=self.gt_gazing_pos_paths.load(split, pyramid.num_patches),
            seed=seed,
        )

    def labelled(self) -> bool:
        return self.greedy_labels is not None or self.gt_gazing_pos_paths.train is not None


@dataclass(frozen=True)
class CameraSource(ClipSource):
    """`camera`: a camera moving over photographs below `root/<split>` (see `CameraClips`).

    Args:
        root: folders, separated by commas.
        clips_a_picture: an epoch.
        camera: how it moves; `CameraSettings` without `clip_len` and `side`.
    """

    root: Roots = None
    clips_a_picture: int = 1
    camera: Mapping[str, Any] = field(default_factory=dict)

    def read(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        shape = {"clip_len": self.clip_len, "side": pyramid.side}
        settings = read(CameraSettings, {**self.camera, **shape}, "dataset.camera")
        return CameraClips(
            [root / split for root in folders(self.root)],
            settings,
            clips_a_picture=self.clips_a_picture,
            seed=_split_seed(seed, split),
            fixed=split != "train",
        )

    def labelled(self) -> bool:
        return self.greedy_labels is not None


@dataclass(frozen=True)
class ProceduralSource(ClipSource):
    """`procedural`: shapes and textures that move; needs no data (see `ProceduralClips`).

    Args:
        num_clips: an epoch.
        fixed: the same clips in every epoch.
        scene: what clips look like; `ProceduralSettings` without `clip_len` and `side`.
    """

    num_clips: int = 1024
    fixed: bool = False
    scene: Mapping[str, Any] = field(default_factory=dict)

    def read(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        shape = {"clip_len": self.clip_len, "side": pyramid.side}
        settings = read(ProceduralSettings, {**self.scene, **shape}, "dataset.scene")
        fixed = self.fixed or split != "train"
        if self.num_clips < 1:
            raise TrainingError(f"dataset.num_clips must be at least 1, got {self.num_clips}")
        return ProceduralClips(self.num_clips, settings, seed=_split_seed(seed, split), fixed=fixed)

    def labelled(self) -> bool:
        return self.greedy_labels is not None


def _split_seed(seed: int, split: str) -> int:
    """Validation clips must not be training clips."""
    return seed if split == "train" else seed + 1_000_003


DATASETS: dict[str, type[ClipSource]] = {
    "video_folder": VideoFolderSource,
    "decoded": DecodedSource,
    "camera": CameraSource,
    "procedural": ProceduralSource,
}
"""What `dataset.name` can be."""


def read_source(options: Mapping[str, Any]) -> ClipSource:
    """The dataset that the options describe."""
    options = dict(options)
    kind: type[ClipSource] = choose(DATASETS, options.pop("name", "video_folder"), "dataset.name")
    return read(kind, options, "dataset")


def has_split(source: ClipSource, split: str) -> bool:
    """Whether a source that reads folders has one of this name with anything in it."""
    root = getattr(source, "root", None)
    if root is None:
        return True
    return any(_holds(folder, split) for folder in folders(root))


def _holds(folder: Path, split: str) -> bool:
    inner: Sequence[Path] = [folder / split, *folder.glob(f"{split}*.safetensors")]
    return any(path.exists() for path in inner)
