"""Options of the datasets of training, by `dataset.name`, and the clips that they describe.

A new dataset of the package is a `DatasetConfig` here, an entry in `DATASETS` and a file in
`configs/dataset`; one from outside needs none of them (`docs/plugins.md`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from autogaze.checks import why_absent
from autogaze.datasets.augmentation import Augmentation
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.clip import NamedClips
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.decoding import DECODERS
from autogaze.datasets.drawn import PictureClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.plain import PlainClips
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.datasets.video_windows import VideoWindows, Window, named_folders
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import GreedyLabelled, GreedyOptions
from autogaze.models.autogaze.processing import AutoGazeImageProcessor
from autogaze.training.config import check_choice
from autogaze.training.plugins import call, takes, with_attributes

MAX_CLIP_LEN = 4096
"""The most frames per clip: 600 MB of them at 224 pixels."""


@dataclass(frozen=True)
class LabelPaths:
    """Label files (`gazing_labels.json`) of the two splits: one, or several (`LabelFile.load_all`)."""

    train: Any = None
    val: Any = None


@dataclass(frozen=True)
class DatasetConfig:
    """Options that all datasets have.

    Args:
        clip_len: frames per clip.
        gt_gazing_pos_paths: label files; clips without a label are left out.
        greedy_labels: label the clips of a split without a label file, batch by batch.
        max_unreadable: share of clips that may be unreadable before training fails.
        seed: of what is drawn; the trainer's by default.
    """

    clip_len: int = 16
    gt_gazing_pos_paths: LabelPaths = field(default_factory=LabelPaths)
    greedy_labels: GreedyOptions | None = None
    max_unreadable: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.clip_len <= MAX_CLIP_LEN:
            raise TrainingError(
                f"dataset.clip_len must be from 1 to {MAX_CLIP_LEN}, got {self.clip_len}"
            )
        if not 0 <= self.max_unreadable <= 1:
            raise TrainingError(
                f"dataset.max_unreadable must lie in [0, 1], got {self.max_unreadable}"
            )

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """The clips of `train` or `val`, labelled as the options say.

        Args:
            seed: where the options name none.

        Raises:
            TrainingError: there are none, or labels that do not fit.
        """
        seed = seed if self.seed is None else self.seed
        paths = getattr(self.gt_gazing_pos_paths, split)
        labels = None if paths is None else LabelFile.load_all(paths, pyramid.num_patches)
        clips = self.build(split, pyramid.side, seed, labels)
        if labels is not None or self.greedy_labels is None:
            return clips
        return GreedyLabelled(clips, pyramid, self.greedy_labels, seed=seed)

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        """The clips, with the labels of a file or without any; a mixture has none of its own."""
        raise NotImplementedError

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """The clips that a label file can name: those of epoch 0, without labels.

        TrainingError where there are none, or they are not the same in every epoch.
        """
        for name, off in (("random_sample_frame", False), ("augmentation", None)):
            if getattr(self, name, off) != off:
                raise TrainingError(f"gaze labels belong to fixed clips: leave out dataset.{name}")
        return self.build(split, pyramid.side, seed if self.seed is None else self.seed, None)

    def members(self) -> "Sequence[DatasetConfig]":
        """The datasets of a mixture; itself if it is none."""
        return [self]

    def labelled(self) -> bool:
        """Whether training clips have gaze labels."""
        return self.greedy_labels is not None or self.gt_gazing_pos_paths.train is not None

    def with_task_transform(self, transform: Any) -> "DatasetConfig":
        """The same for a task of the published interface, whose image processor datasets are given."""
        return self

    def has_split(self, split: str) -> bool:
        """Whether there are clips of this split, as far as is known without reading any."""
        return True


# Datasets that are read from files: videos, and clips decoded beforehand.


@dataclass(frozen=True)
class FolderConfig(DatasetConfig):
    """Options of datasets that lie in folders.

    Args:
        root: folders: separated by commas, or a list.
    """

    root: Any = None

    def roots(self) -> list[Path]:
        """The folders; TrainingError where none is named, or one does not exist."""
        paths = named_folders(self.root or ())
        if not paths:
            raise TrainingError("dataset.root names no folder; list one or more, comma-separated")
        for path in paths:
            if not os.path.exists(path):
                raise TrainingError(f"dataset.root: {path}: {why_absent(path, 'folder')}")
        return paths

    def has_split(self, split: str) -> bool:
        return any(os.path.exists(root / split) for root in self.roots())


@dataclass(frozen=True)
class VideoFolderConfig(FolderConfig):
    """`video_folder`: videos below `root/train` and `root/val` (see `VideoWindows`).

    Args:
        random_sample_frame: training clips start at random frames; else they are fixed.
        windows: which fixed clips a video yields: its `first`, or `all` consecutive ones. Label
            files decide this themselves.
        stride: frames from one of a clip to the next.
        augmentation: of training clips.
        decoder: `pyav`, `torchcodec`, `opencv`, or `auto`: PyAV where it is installed, else OpenCV.
        cache: decode all videos into memory before training.
    """

    random_sample_frame: bool = False
    windows: str = "first"
    stride: int = 1
    augmentation: Augmentation | None = None
    decoder: str = "auto"
    cache: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.windows", self.windows, ("all", "first"))
        check_choice("dataset.decoder", self.decoder, DECODERS)

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        trains = split == "train"
        random = self.random_sample_frame and trains
        every = self.windows == "all" and not random
        return VideoWindows(
            self.roots(),
            split,
            window=Window(self.clip_len, self.stride, random, every),
            side=side,
            augmentation=self.augmentation if trains else None,
            labels=labels,
            seed=seed,
            decoder=self.decoder,
            cache=self.cache,
        )


@dataclass(frozen=True)
class DecodedConfig(FolderConfig):
    """`decoded`: files of decoded clips (see `save_decoded`), `<root>/<split>*.safetensors`.

    Args:
        augmentation: of training clips.
    """

    augmentation: Augmentation | None = None

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        paths = self._files(split)
        if not paths:
            patterns = ", ".join(str(root / f"{split}*.safetensors") for root in self.roots())
            raise TrainingError(f"no files of decoded clips: {patterns}")
        augmentation = self.augmentation if split == "train" else None
        clips = DecodedClips(paths, augmentation=augmentation, labels=labels, seed=seed)
        clips.check_shape(self.clip_len, side)
        return clips

    def has_split(self, split: str) -> bool:
        return bool(self._files(split))

    def _files(self, split: str) -> list[Path]:
        return sorted(path for root in self.roots() for path in root.glob(f"{split}*.safetensors"))


# Datasets that are drawn: from photographs, or from nothing. The length and size in their
# settings are those of `dataset.clip_len` and `model.scales`.


@dataclass(frozen=True)
class PictureConfig(FolderConfig):
    """Options of clips made from the photographs below `root/<split>`.

    Args:
        clips_per_picture: per epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        cache: decode all photographs into memory before training.
    """

    clips_per_picture: int = 1
    fixed: bool = False
    cache: bool = False

    def make(
        self, kind: type[PictureClips], settings: Any, split: str, seed: int, labels: Any
    ) -> NamedClips:
        """Clips of a kind, drawn by its settings; the rest as for `build`."""
        return kind(
            [root / split for root in self.roots()],
            settings,
            clips_per_picture=self.clips_per_picture,
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
            cache=self.cache,
        )


@dataclass(frozen=True)
class CameraConfig(PictureConfig):
    """`camera`: a camera moving over photographs (see `CameraClips`)."""

    camera: CameraSettings = field(default_factory=CameraSettings)

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        settings = replace(self.camera, clip_len=self.clip_len, side=side)
        return self.make(CameraClips, settings, split, seed, labels)


@dataclass(frozen=True)
class ComposedConfig(PictureConfig):
    """`composed`: cut-outs moving over moving photographs (see `ComposedClips`)."""

    composition: CompositionSettings = field(default_factory=CompositionSettings)

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        camera = replace(self.composition.camera, clip_len=self.clip_len, side=side)
        settings = replace(self.composition, camera=camera)
        return self.make(ComposedClips, settings, split, seed, labels)


@dataclass(frozen=True)
class ProceduralConfig(DatasetConfig):
    """`procedural`: moving shapes and textures; needs no data (see `ProceduralClips`).

    Args:
        num_clips: per epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        scene: how clips are drawn.
    """

    num_clips: int = 1024
    fixed: bool = False
    scene: ProceduralSettings = field(default_factory=ProceduralSettings)

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        return ProceduralClips(
            self.num_clips,
            replace(self.scene, clip_len=self.clip_len, side=side),
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
        )


def split_seed(seed: int, split: str) -> int:
    """A seed per split: drawn validation clips must not be training clips."""
    return seed if split == "train" else seed + 1_000_003


DATASETS: dict[str, type[DatasetConfig]] = {
    "video_folder": VideoFolderConfig,
    "decoded": DecodedConfig,
    "camera": CameraConfig,
    "composed": ComposedConfig,
    "procedural": ProceduralConfig,
}
"""What `dataset.name` can be, beside `mixture`, and the `name` of a mixture's part."""


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
