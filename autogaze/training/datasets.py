"""The group `dataset`: options of training and validation clips by `dataset.name`, and mixtures.

A new dataset is a `DatasetConfig` here, an entry in `DATASETS` and a file in `configs/dataset`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

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
from autogaze.labelling.label import GreedyLabelled, GreedyOptions
from autogaze.training.config import TrainerOptions, check_choice, choose, read


@dataclass(frozen=True)
class LabelPaths:
    """Label files (`gazing_labels.json`) of the two splits."""

    train: str | None = None
    val: str | None = None


@dataclass(frozen=True)
class DatasetConfig:
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

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """The clips of `train` or `val`, labelled as the options say.

        Args:
            seed: where the options name none.

        Raises:
            TrainingError: there are none, or labels that do not fit.
        """
        seed = seed if self.seed is None else self.seed
        path: str | None = getattr(self.gt_gazing_pos_paths, split)
        labels = None if path is None else LabelFile.load(path, pyramid.num_patches)
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

    def build(self, split: str, side: int, seed: int, labels: LabelFile | None) -> NamedClips:
        trains = split == "train"
        random = self.random_sample_frame and trains
        every = self.windows == "all" and not random
        return VideoFolder(
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
        clips_a_picture: per epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        cache: decode all photographs into memory before training.
    """

    clips_a_picture: int = 1
    fixed: bool = False
    cache: bool = False

    def make(
        self, kind: type[PictureClips], settings: Any, split: str, seed: int, labels: Any
    ) -> NamedClips:
        """Clips of a kind, drawn by its settings; the rest as for `build`."""
        return kind(
            [root / split for root in self.roots()],
            settings,
            clips_a_picture=self.clips_a_picture,
            seed=_split_seed(seed, split),
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
            seed=_split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
        )


def _split_seed(seed: int, split: str) -> int:
    """A seed per split: drawn validation clips must not be training clips."""
    return seed if split == "train" else seed + 1_000_003


SINGLE: dict[str, type[DatasetConfig]] = {
    "video_folder": VideoFolderConfig,
    "decoded": DecodedConfig,
    "camera": CameraConfig,
    "composed": ComposedConfig,
    "procedural": ProceduralConfig,
}
"""What a part of a mixture can be."""


SHARED = ("clip_len", "max_unreadable")
"""Options of a mixture that its parts cannot change."""


@dataclass(frozen=True)
class MixtureConfig(DatasetConfig):
    """`mixture`: several datasets, each with its share (see `MixedClips`).

    `seed`, label files and `greedy_labels` are defaults of the parts; `clip_len` and
    `max_unreadable` are the same for all.

    Args:
        parts: a part's name, freely chosen -> its `weight` (1), and the options of its
            dataset. A part of weight 0 is left out.
        num_clips: per epoch; all parts' clips together by default.
    """

    parts: dict[str, Any] = field(default_factory=dict)
    num_clips: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weighted:
            raise TrainingError("dataset.parts names no dataset with a weight above 0")
        if self.num_clips is not None and self.num_clips < 1:
            raise TrainingError(f"dataset.num_clips must be at least 1, got {self.num_clips}")

    @cached_property
    def weighted(self) -> list[tuple[str, float, DatasetConfig]]:
        """Name, weight and dataset of the parts of weight above 0."""
        found = [self._read_part(name, options) for name, options in self.parts.items()]
        return [part for part in found if part[1] > 0]

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        trains = split == "train"
        datasets, weights = [], []
        for name, weight, config in self.weighted:
            with _errors_of(name):
                if trains or config.has_split(split):
                    datasets.append(config.clips(split, pyramid, seed))
                    weights.append(weight)
        if not datasets:
            raise TrainingError(f"no part of the mixture has clips to validate on ({split})")
        return MixedClips(
            datasets,
            weights,
            num_clips=self.num_clips if trains else None,
            seed=seed if self.seed is None else self.seed,
        )

    def members(self) -> Sequence[DatasetConfig]:
        return [config for _, _, config in self.weighted]

    def labelled(self) -> bool:
        return all(config.labelled() for config in self.members())

    def has_split(self, split: str) -> bool:
        found = False
        for name, _, config in self.weighted:
            with _errors_of(name):  # every part must be well, also after one has clips
                found |= config.has_split(split)
        return found

    def _read_part(self, name: str, given: Any) -> tuple[str, float, DatasetConfig]:
        group = f"dataset.parts.{name}"
        if not isinstance(given, Mapping):
            raise TrainingError(f"{group} must be a group of options, got {given!r}")
        options = dict(given)
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
        with _errors_of(name):
            config = _read(SINGLE, options, group)
        if config.seed is None:
            config = replace(config, seed=self.seed)
        if config.greedy_labels is None and config.gt_gazing_pos_paths == LabelPaths():
            paths, greedy = self.gt_gazing_pos_paths, self.greedy_labels
            config = replace(config, gt_gazing_pos_paths=paths, greedy_labels=greedy)
        return name, float(weight), config


@contextmanager
def _errors_of(part: str) -> Iterator[None]:
    """Errors raised within name the part's options, as `dataset.parts.NAME.root`."""
    group = f"dataset.parts.{part}"
    try:
        yield
    except TrainingError as error:
        kinds = SINGLE.values()
        own = "|".join({option.name for kind in kinds for option in fields(kind)} - set(SHARED))
        pattern = rf"(?<![\w./-])dataset\.(?=(?:{own})\b)"  # no end of a file's name
        text = re.sub(pattern, lambda _: f"{group}.", str(error))
        named = re.match(rf"(unknown (option )?)?{re.escape(group)}\b", text)
        raise TrainingError(text if named else f"{group}: {text}") from error


DATASETS: dict[str, type[DatasetConfig]] = {**SINGLE, "mixture": MixtureConfig}
"""What `dataset.name` can be."""


def read_dataset(options: Mapping[str, Any]) -> DatasetConfig:
    """The dataset that the options describe; TrainingError where one does not fit."""
    return _read(DATASETS, options, "dataset")


def _read(
    kinds: Mapping[str, type[DatasetConfig]], options: Mapping[str, Any], group: str
) -> DatasetConfig:
    options = dict(options)
    kind = choose(kinds, options.pop("name", "video_folder"), f"{group}.name")
    for path in ("scene", "camera", "composition.camera"):
        drawn: Any = options
        for name in path.split("."):
            drawn = drawn.get(name) if isinstance(drawn, Mapping) else None
        for name, origin in (("clip_len", "dataset.clip_len"), ("side", "model.scales")):
            if isinstance(drawn, Mapping) and name in drawn:
                raise TrainingError(f"{group}.{path}.{name} follows from {origin}: leave it out")
    return read(kind, options, group)


class DatasetFile(NamedTuple):
    """A dataset read from a file, its options, and the seed of its training, if known."""

    config: DatasetConfig
    options: Mapping[str, Any]
    seed: int | None

    @classmethod
    def load(cls, path: str | Path) -> "DatasetFile":
        """Read a YAML or JSON file of the group `dataset`, or of all groups (`config.json`).

        TrainingError where there is none, it is not of this form, or options do not exist.
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
            return cls(read_dataset(options), options, seed if "trainer" in groups else None)
        except TrainingError as error:
            raise TrainingError(f"{path}: {error}") from error
