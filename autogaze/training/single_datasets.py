"""Datasets of training that are no mixtures: their options, and the clips these describe.

A new dataset is a `SingleConfig` here, an entry in `SINGLE` and a file in `configs/dataset`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Dataset

from autogaze.datasets.augmentation import Augmentation
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.clip import ClipKey, NamedClips, TrainingClip, UnreadableClip
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.drawn import PictureClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.datasets.video_folder import VideoFolder, Window
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import GazeBudget
from autogaze.labelling.search import CanvasSearcher
from autogaze.training.config import check_choice, read
from autogaze.utils.seeding import seeded

# Options that all datasets have.


@dataclass(frozen=True)
class LabelPaths:
    """Label files (`gazing_labels.json`) of the two splits."""

    train: str | None = None
    val: str | None = None

    def load(self, split: str, num_patches: int) -> LabelFile | None:
        """The labels of a split, if there are any."""
        path = self.train if split == "train" else self.val
        return None if path is None else LabelFile.load(path, num_patches)


@dataclass(frozen=True)
class GreedyOptions(GazeBudget):
    """Labels made while clips are read: their budget, and how soft their targets are.

    Args:
        softness: of the targets (see `CanvasSearcher`); 0 for the best patch alone.
    """

    softness: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.softness >= 0:
            raise TrainingError(f"softness must be at least 0, got {self.softness}")


@dataclass(frozen=True)
class DatasetConfig(ABC):
    """Options that all datasets have.

    Args:
        clip_len: frames per clip.
        gt_gazing_pos_paths: label files; clips without a label are left out.
        greedy_labels: label the clips of a split without a label file while they are read.
        max_unreadable: share of clips that may be unreadable before training fails.
        seed: of what is drawn; the trainer's by default.
    """

    clip_len: int = 16
    gt_gazing_pos_paths: LabelPaths = field(default_factory=LabelPaths)
    greedy_labels: GreedyOptions | None = None
    max_unreadable: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.clip_len < 1:
            raise TrainingError(f"dataset.clip_len must be at least 1, got {self.clip_len}")
        if not 0 <= self.max_unreadable <= 1:
            raise TrainingError(
                f"dataset.max_unreadable must lie in [0, 1], got {self.max_unreadable}"
            )

    @abstractmethod
    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """The clips of `train` or `val`, labelled as the options say.

        Args:
            seed: where the options name none.

        Raises:
            TrainingError: there are none, or labels that do not fit.
        """

    @abstractmethod
    def members(self) -> "Sequence[SingleConfig]":
        """The datasets of a mixture; itself if it is none."""

    @abstractmethod
    def labelled(self) -> bool:
        """Whether training clips have gaze labels."""

    @abstractmethod
    def has_split(self, split: str) -> bool:
        """Whether there are clips of this split, as far as is known without reading any."""


@dataclass(frozen=True)
class SingleConfig(DatasetConfig):
    """A dataset that is no mixture."""

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        seed = seed if self.seed is None else self.seed
        labels = self.gt_gazing_pos_paths.load(split, pyramid.num_patches)
        clips = self.build(split, pyramid, seed, labels)
        if labels is not None or self.greedy_labels is None:
            return clips
        return GreedyLabelled(clips, pyramid, self.greedy_labels, seed=seed)

    @abstractmethod
    def build(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """The clips, with the labels of a file or without any."""

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """The clips that a label file can name: those of epoch 0, without labels.

        Raises:
            TrainingError: there are none, or they are not the same in every epoch.
        """
        if getattr(self, "random_sample_frame", False):
            raise TrainingError(
                "gaze labels belong to fixed clips: use dataset.random_sample_frame=False"
            )
        if getattr(self, "augmentation", None) is not None:
            raise TrainingError("gaze labels belong to clips as they are: no dataset.augmentation")
        return self.build(split, pyramid, seed if self.seed is None else self.seed)

    def members(self) -> "Sequence[SingleConfig]":
        return [self]

    def labelled(self) -> bool:
        return self.greedy_labels is not None or self.gt_gazing_pos_paths.train is not None

    def has_split(self, split: str) -> bool:
        return True

    def _with_shape(self, given: Mapping[str, Any], side: int, group: str) -> dict[str, Any]:
        """Options of drawn clips, with the length and size that follow from other groups."""
        for name, origin in (("clip_len", "dataset.clip_len"), ("side", "model.scales")):
            if name in given:
                raise TrainingError(f"{group}.{name} follows from {origin}: leave it out")
        return {**given, "clip_len": self.clip_len, "side": side}


class GreedyLabelled(Dataset):
    """Another dataset's clips with labels of the canvas search, made when a clip is read.

    How many patches a label holds is drawn anew for every clip and epoch.
    """

    def __init__(
        self, inner: Dataset, pyramid: PatchPyramid, options: GreedyOptions, *, seed: int = 0
    ) -> None:
        self.inner, self.budget, self.seed = inner, options, seed
        self.searcher = CanvasSearcher(pyramid, options.softness)

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        key = ClipKey.of(key)
        clip = self.inner[key]
        if isinstance(clip, UnreadableClip):
            return clip
        generator = seeded("greedy labels", self.seed, *key)
        num_patches = self.searcher.pyramid.num_patches
        counts = self.budget.draw(len(clip.frames), num_patches, generator)
        return replace(clip, labels=self.searcher.label(clip.frames, counts))


# Datasets that are read from files: videos, and clips decoded beforehand.


@dataclass(frozen=True)
class FolderConfig(SingleConfig):
    """Options of datasets that lie in folders.

    Args:
        root: folders: separated by commas, or a list.
    """

    root: Any = None

    def roots(self) -> list[Path]:
        """The folders.

        Raises:
            TrainingError: none named, or one that does not exist.
        """
        names = self.root.split(",") if isinstance(self.root, str) else self.root or ()
        paths = [Path(str(name).strip()).expanduser() for name in names if str(name).strip()]
        if not paths:
            raise TrainingError("dataset.root names no folder; list one or more, comma-separated")
        for path in paths:
            if not path.exists():
                raise TrainingError(f"dataset.root: {path} does not exist")
        return paths

    def has_split(self, split: str) -> bool:
        return any((root / split).exists() for root in self.roots())


@dataclass(frozen=True)
class VideoFolderConfig(FolderConfig):
    """`video_folder`: videos below `root/train` and `root/val` (see `VideoFolder`).

    Args:
        random_sample_frame: training clips start at random frames; else they are fixed.
        windows: which fixed clips a video yields: its `first`, or `all` consecutive ones. Label
            files decide this themselves.
        stride: frames from one of a clip to the next.
        augmentation: of training clips.
        decoder: `pyav`, `opencv`, or `auto`: PyAV where it is installed, else OpenCV.
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
        check_choice("dataset.decoder", self.decoder, ("auto", "opencv", "pyav"))

    def build(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        trains = split == "train"
        random = self.random_sample_frame and trains
        every = self.windows == "all" and not random
        return VideoFolder(
            self.roots(),
            split,
            window=Window(self.clip_len, self.stride, random, every),
            side=pyramid.side,
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

    def build(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        paths = self._files(split)
        if not paths:
            places = ", ".join(str(root / f"{split}*.safetensors") for root in self.roots())
            raise TrainingError(f"no files of decoded clips: {places}")
        augmentation = self.augmentation if split == "train" else None
        clips = DecodedClips(paths, augmentation=augmentation, labels=labels, seed=seed)
        clips.check_shape(self.clip_len, pyramid.side)
        return clips

    def has_split(self, split: str) -> bool:
        return bool(self._files(split))

    def _files(self, split: str) -> list[Path]:
        return sorted(path for root in self.roots() for path in root.glob(f"{split}*.safetensors"))


# Datasets that are drawn: from photographs, or from nothing.


@dataclass(frozen=True)
class PictureConfig(FolderConfig):
    """Options of clips made from the photographs below `root/<split>`.

    Args:
        clips_a_picture: per epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        cache: decode all photographs into memory before training.
    """

    clips_a_picture: int = 1
    fixed: bool = False
    cache: bool = False

    kind: ClassVar[type[PictureClips]]

    def build(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        return self.kind(
            [root / split for root in self.roots()],
            self.settings(pyramid.side),
            clips_a_picture=self.clips_a_picture,
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
            cache=self.cache,
        )

    @abstractmethod
    def settings(self, side: int) -> Any:
        """How clips are drawn."""


@dataclass(frozen=True)
class CameraConfig(PictureConfig):
    """`camera`: a camera moving over photographs (see `CameraClips`).

    Args:
        camera: `CameraSettings` without `clip_len` and `side`.
    """

    camera: dict[str, Any] = field(default_factory=dict)

    kind = CameraClips

    def settings(self, side: int) -> CameraSettings:
        group = "dataset.camera"
        return read(CameraSettings, self._with_shape(self.camera, side, group), group)


@dataclass(frozen=True)
class ComposedConfig(PictureConfig):
    """`composed`: cut-outs moving over moving photographs (see `ComposedClips`).

    Args:
        composition: `CompositionSettings`, whose `camera` is without `clip_len` and `side`.
    """

    composition: dict[str, Any] = field(default_factory=dict)

    kind = ComposedClips

    def settings(self, side: int) -> CompositionSettings:
        group = "dataset.composition"
        camera = self._with_shape(self.composition.get("camera") or {}, side, f"{group}.camera")
        return read(CompositionSettings, {**self.composition, "camera": camera}, group)


@dataclass(frozen=True)
class ProceduralConfig(SingleConfig):
    """`procedural`: moving shapes and textures; needs no data (see `ProceduralClips`).

    Args:
        num_clips: per epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        scene: `ProceduralSettings` without `clip_len` and `side`.
    """

    num_clips: int = 1024
    fixed: bool = False
    scene: dict[str, Any] = field(default_factory=dict)

    def build(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        group = "dataset.scene"
        return ProceduralClips(
            self.num_clips,
            read(ProceduralSettings, self._with_shape(self.scene, pyramid.side, group), group),
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
        )


def split_seed(seed: int, split: str) -> int:
    """A seed per split: drawn validation clips must not be training clips."""
    return seed if split == "train" else seed + 1_000_003


SINGLE: dict[str, type[SingleConfig]] = {
    "video_folder": VideoFolderConfig,
    "decoded": DecodedConfig,
    "camera": CameraConfig,
    "composed": ComposedConfig,
    "procedural": ProceduralConfig,
}
"""What a part of a mixture can be."""
