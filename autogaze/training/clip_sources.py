"""The `dataset` group: clips for training and validation, by `dataset.name`.

A new dataset is a `ClipSource` in a file here, an entry in `PARTS` (`mixture.py`) and a
config in `configs/dataset`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import yaml
from torch.utils.data import Dataset

from autogaze.datasets.augmentation import Augmentation
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.clip import NamedClips
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.drawn import PictureClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.mixture import MixedClips
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.datasets.video_folder import VideoFolder, Window
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.training.auxiliary import GreedyLabelled, GreedyOptions
from autogaze.training.config import TrainerOptions, choose, read

# What all datasets can be told.


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
        gt_gazing_pos_paths: label files; clips without a label are left out.
        greedy_labels: label the clips of a split without a label file while they are read
            (see `GreedyOptions`).
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
    def members(self) -> "Sequence[SingleSource]":
        """The datasets that this one mixes; itself if it mixes none."""

    @abstractmethod
    def labelled(self) -> bool:
        """Whether training clips have gaze labels."""

    @abstractmethod
    def has_split(self, split: str) -> bool:
        """Whether there are clips of this split, as far as can be said without reading any."""


@dataclass(frozen=True)
class SingleSource(ClipSource):
    """A dataset that mixes no others."""

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """See `ClipSource`."""
        seed = seed if self.seed is None else self.seed
        labels = self.gt_gazing_pos_paths.load(split, pyramid.num_patches)
        clips = self.read(split, pyramid, seed, labels)
        if labels is not None or self.greedy_labels is None:
            return clips
        return GreedyLabelled(clips, pyramid, self.greedy_labels, seed=seed)

    @abstractmethod
    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """The clips, with the labels of a file or without any."""

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """The clips that a label file can name: those of epoch 0, without labels.

        Raises:
            TrainingError: there are none, or they are not the same in every epoch.
        """
        return self.read(split, pyramid, seed if self.seed is None else self.seed)

    def members(self) -> "Sequence[SingleSource]":
        """See `ClipSource`."""
        return [self]

    def labelled(self) -> bool:
        """See `ClipSource`."""
        return self.greedy_labels is not None or self.gt_gazing_pos_paths.train is not None

    def has_split(self, split: str) -> bool:
        """See `ClipSource`."""
        return True

    def shape(self, given: Mapping[str, Any], side: int, group: str) -> dict[str, Any]:
        """Options of a group that says how drawn clips look, with their length and size.

        Raises:
            TrainingError: the group says these itself, though they follow from others.
        """
        for name, origin in (("clip_len", "dataset.clip_len"), ("side", "model.scales")):
            if name in given:
                raise TrainingError(f"{group}.{name} follows from {origin}: leave it out")
        return {**given, "clip_len": self.clip_len, "side": side}


def split_seed(seed: int, split: str) -> int:
    """Drawn validation clips must not be training clips."""
    return seed if split == "train" else seed + 1_000_003


# Datasets that are read from files: videos, and clips decoded beforehand.

Roots = str | tuple[str, ...] | None
"""Folders: separated by commas, or a list."""


@dataclass(frozen=True)
class FolderSource(SingleSource):
    """What datasets in folders can be told besides.

    Args:
        root: folders, separated by commas.
    """

    root: Roots = None

    def roots(self) -> list[Path]:
        """The folders.

        Raises:
            TrainingError: none named, or one that does not exist.
        """
        names = self.root.split(",") if isinstance(self.root, str) else self.root or ()
        paths = [Path(name.strip()).expanduser() for name in names if name.strip()]
        if not paths:
            raise TrainingError(
                "dataset.root names no folder; give one or more, separated by commas"
            )
        for path in paths:
            if not path.exists():
                raise TrainingError(f"dataset.root: {path} does not exist")
        return paths

    def has_split(self, split: str) -> bool:
        """See `ClipSource`."""
        return any((root / split).exists() for root in self.roots())


@dataclass(frozen=True)
class VideoFolderSource(FolderSource):
    """`video_folder`: videos below `root/train` and `root/val` (see `VideoFolder`).

    Args:
        random_sample_frame: draw where training clips start; else they are fixed.
        windows: which fixed clips a video gives: its first, or all that lie side by side.
            Label files say it themselves.
        stride: frames from one of a clip to the next.
        augmentation: of training clips.
        decoder: reads the files; `auto` is PyAV where it is installed, else OpenCV.
        cache: decode all videos into memory before training.
    """

    random_sample_frame: bool = False
    windows: Literal["first", "all"] = "first"
    stride: int = 1
    augmentation: Augmentation | None = None
    decoder: Literal["auto", "pyav", "opencv"] = "auto"
    cache: bool = False

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
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

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """See `SingleSource`."""
        if self.random_sample_frame:
            raise TrainingError(
                "gaze labels belong to fixed clips: use dataset.random_sample_frame=False"
            )
        _refuse(self.augmentation)
        return super().to_label(split, pyramid, seed)


@dataclass(frozen=True)
class DecodedSource(FolderSource):
    """`decoded`: files of decoded clips (see `save_decoded`), `<root>/<split>*.safetensors`.

    Args:
        augmentation: of training clips.
    """

    augmentation: Augmentation | None = None

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
        paths = self._files(split)
        if not paths:
            places = ", ".join(str(root / f"{split}*.safetensors") for root in self.roots())
            raise TrainingError(f"no files of decoded clips: {places}")
        clips = DecodedClips(
            paths,
            augmentation=self.augmentation if split == "train" else None,
            labels=labels,
            seed=seed,
        )
        clips.check_shape(self.clip_len, pyramid.side)
        return clips

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """See `SingleSource`."""
        _refuse(self.augmentation)
        return super().to_label(split, pyramid, seed)

    def has_split(self, split: str) -> bool:
        """See `ClipSource`."""
        return bool(self._files(split))

    def _files(self, split: str) -> list[Path]:
        return sorted(path for root in self.roots() for path in root.glob(f"{split}*.safetensors"))


def _refuse(augmentation: Augmentation | None) -> None:
    if augmentation is not None:
        raise TrainingError("gaze labels belong to clips as they are: use no dataset.augmentation")


# Datasets that are drawn: from photographs, or from nothing.


@dataclass(frozen=True)
class PictureSource(FolderSource):
    """What datasets of photographs below `root/<split>` can be told.

    Args:
        clips_a_picture: an epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        cache: decode all photographs into memory before training.
    """

    clips_a_picture: int = 1
    fixed: bool = False
    cache: bool = False

    kind: ClassVar[type[PictureClips]]

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
        return self.kind(
            [root / split for root in self.roots()],
            self.look(pyramid.side),
            clips_a_picture=self.clips_a_picture,
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
            cache=self.cache,
        )

    @abstractmethod
    def look(self, side: int) -> Any:
        """How clips are made."""


@dataclass(frozen=True)
class CameraSource(PictureSource):
    """`camera`: a camera moving over photographs (see `CameraClips`).

    Args:
        camera: how it moves; `CameraSettings` without `clip_len` and `side`.
    """

    camera: Mapping[str, Any] = field(default_factory=dict)

    kind = CameraClips

    def look(self, side: int) -> CameraSettings:
        """See `PictureSource`."""
        group = "dataset.camera"
        return read(CameraSettings, self.shape(self.camera, side, group), group)


@dataclass(frozen=True)
class ComposedSource(PictureSource):
    """`composed`: cut-outs moving over moving photographs (see `ComposedClips`).

    Args:
        composition: what clips look like; `CompositionSettings`, whose `camera` goes without
            `clip_len` and `side`.
    """

    composition: Mapping[str, Any] = field(default_factory=dict)

    kind = ComposedClips

    def look(self, side: int) -> CompositionSettings:
        """See `PictureSource`."""
        group = "dataset.composition"
        camera = self.shape(self.composition.get("camera") or {}, side, f"{group}.camera")
        return read(CompositionSettings, {**self.composition, "camera": camera}, group)


@dataclass(frozen=True)
class ProceduralSource(SingleSource):
    """`procedural`: shapes and textures that move; needs no data (see `ProceduralClips`).

    Args:
        num_clips: an epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        scene: what clips look like; `ProceduralSettings` without `clip_len` and `side`.
    """

    num_clips: int = 1024
    fixed: bool = False
    scene: Mapping[str, Any] = field(default_factory=dict)

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
        group = "dataset.scene"
        return ProceduralClips(
            self.num_clips,
            read(ProceduralSettings, self.shape(self.scene, pyramid.side, group), group),
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
        )


# Several datasets as one, each with its share of the clips.

PARTS: dict[str, type[SingleSource]] = {
    "video_folder": VideoFolderSource,
    "decoded": DecodedSource,
    "camera": CameraSource,
    "composed": ComposedSource,
    "procedural": ProceduralSource,
}
"""What a part of a mixture can be."""

SHARED = ("clip_len", "max_unreadable")
"""Options that are the same for all parts: the mixture's."""


class Part(NamedTuple):
    """A dataset and its share."""

    name: str
    weight: float
    source: SingleSource

    def has_split(self, split: str) -> bool:
        """See `ClipSource`; errors name this part."""
        with self.named():
            return self.source.has_split(split)

    def named(self) -> AbstractContextManager[None]:
        """Errors that are raised within name the options of this part, not the mixture's."""
        return _naming(self.name, type(self.source))


@contextmanager
def _naming(name: str, kind: type[SingleSource]) -> Iterator[None]:
    """Errors that are raised within name the options of a part, wherever they name any."""
    try:
        yield
    except TrainingError as error:
        group = f"dataset.parts.{name}"
        own = "|".join(option.name for option in fields(kind) if option.name not in SHARED)
        # Not what ends in it: a file may be called so.
        pattern = rf"(?<![\w./-])dataset\.(?=(?:{own})\b)"
        text = re.sub(pattern, lambda _: f"{group}.", str(error))
        says_it = re.match(rf"(unknown (option )?)?{re.escape(group)}\b", text)
        raise TrainingError(text if says_it else f"{group}: {text}") from error


@dataclass(frozen=True)
class MixtureSource(ClipSource):
    """`mixture`: several datasets, each with its share (see `MixedClips`).

    `seed`, label files and `greedy_labels` are those of all parts that say nothing of them;
    `clip_len` and `max_unreadable` are the same for all.

    Args:
        parts: a part's name, freely chosen -> its `weight` (1), and the options of its
            dataset. A part of weight 0 is left out.
        num_clips: an epoch; all parts' clips together by default.
    """

    parts: Mapping[str, Any] = field(default_factory=dict)
    num_clips: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shares:
            raise TrainingError("dataset.parts names no dataset with a weight above 0")
        if self.num_clips is not None and self.num_clips < 1:
            raise TrainingError(f"dataset.num_clips must be at least 1, got {self.num_clips}")

    @cached_property
    def shares(self) -> tuple[Part, ...]:
        """The parts that take part."""
        read = [self._read_part(name, options) for name, options in self.parts.items()]
        return tuple(part for part in read if part.weight > 0)

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """See `ClipSource`; parts without validation clips have no share in these."""
        trains = split == "train"
        parts = [part for part in self.shares if trains or part.has_split(split)]
        if not parts:
            raise TrainingError(f"no part of the mixture has clips to validate on ({split})")
        datasets = []
        for part in parts:
            with part.named():
                datasets.append(part.source.clips(split, pyramid, seed))
        return MixedClips(
            datasets,
            [part.weight for part in parts],
            num_clips=self.num_clips if trains else None,
            seed=seed if self.seed is None else self.seed,
        )

    def members(self) -> Sequence[SingleSource]:
        """See `ClipSource`."""
        return [part.source for part in self.shares]

    def labelled(self) -> bool:
        """See `ClipSource`."""
        return all(source.labelled() for source in self.members())

    def has_split(self, split: str) -> bool:
        """See `ClipSource`."""
        return any(part.has_split(split) for part in self.shares)

    def _read_part(self, name: str, given: Any) -> Part:
        group = f"dataset.parts.{name}"
        if not isinstance(given, Mapping):
            raise TrainingError(f"{group} must be a group of options, got {given!r}")
        options = dict(given)
        kind: type[SingleSource] = choose(
            PARTS, options.pop("name", "video_folder"), f"{group}.name"
        )
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise TrainingError(f"{group}.weight must be a number, at least 0, got {weight!r}")
        for shared in SHARED:
            own = getattr(self, shared)
            if options.setdefault(shared, own) != own:
                raise TrainingError(
                    f"{group}.{shared}={options[shared]}: all parts have dataset.{shared}={own}; "
                    "leave it out"
                )
        with _naming(name, kind):
            source = read(kind, options, group)
        if source.seed is None:
            source = replace(source, seed=self.seed)
        if source.greedy_labels is None and source.gt_gazing_pos_paths == LabelPaths():
            source = replace(
                source,
                gt_gazing_pos_paths=self.gt_gazing_pos_paths,
                greedy_labels=self.greedy_labels,
            )
        return Part(name, float(weight), source)


# Dataset options from a file, for what is done with clips outside of training.


class SourceFile(NamedTuple):
    """A dataset, the options that it was read from, and the seed of its training, if known."""

    source: ClipSource
    options: Mapping[str, Any]
    seed: int | None

    @classmethod
    def load(cls, path: str | Path) -> "SourceFile":
        """Read a YAML or JSON file of options of the group `dataset`.

        Or of all groups: an experiment's `config.json` will do.

        Raises:
            TrainingError: no such file, not of this form, or options that do not exist.
        """
        try:
            content = yaml.safe_load(Path(path).read_bytes())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise TrainingError(f"{path}: cannot be read as YAML or JSON: {error}") from error
        groups = content if isinstance(content, Mapping) else {}
        options = groups.get("dataset", content)
        if not isinstance(options, Mapping):
            raise TrainingError(f"{path}: expected the options of a dataset, got {options!r:.80}")
        try:
            seed = read(TrainerOptions, groups.get("trainer") or {}, "trainer").seed
            return cls(read_source(options), options, seed if "trainer" in groups else None)
        except TrainingError as error:
            raise TrainingError(f"{path}: {error}") from error


DATASETS: dict[str, type[ClipSource]] = {**PARTS, "mixture": MixtureSource}
"""What `dataset.name` can be."""


def read_source(options: Mapping[str, Any]) -> ClipSource:
    """The dataset that the options describe.

    Raises:
        TrainingError: an option that does not exist, or a value that does not fit.
    """
    options = dict(options)
    kind: type[ClipSource] = choose(DATASETS, options.pop("name", "video_folder"), "dataset.name")
    return read(kind, options, "dataset")


__all__ = ["DATASETS", "ClipSource", "read_source"]
