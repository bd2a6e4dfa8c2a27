"""Mixtures of datasets, and how the group `dataset` is read from a configuration or a file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch.utils.data import Dataset

from autogaze.checks import is_finite
from autogaze.datasets.mixture import MixedClips
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.training.config import TrainerOptions, check_group, read
from autogaze.training.datasets import DATASETS, DatasetConfig, LabelPaths, OutsideDataset
from autogaze.training.option_names import with_our_names
from autogaze.training.plugins import TARGET, find

SHARED = ("clip_len", "max_unreadable")
"""Options of a mixture that its parts cannot change."""

VIDEO_FOLDER = "video_folder"
"""The dataset where none is named."""


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

    def with_task_transform(self, transform: Any) -> DatasetConfig:
        given = replace(self)
        given.__dict__["weighted"] = [
            (name, weight, config.with_task_transform(transform))
            for name, weight, config in self.weighted
        ]
        return given

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
        check_group(given, group)
        options = dict(given)
        weight = options.pop("weight", 1.0)
        if not (is_finite(weight) and weight >= 0):
            raise TrainingError(
                f"{group}.weight must be a finite number, at least 0, got {weight!r}"
            )
        for shared in SHARED:
            own = getattr(self, shared)
            if options.setdefault(shared, own) != own:
                raise TrainingError(
                    f"{group}.{shared}={options[shared]}: all parts have dataset.{shared}={own}; "
                    "leave it out"
                )
        with _errors_of(name):
            config = _read_as(DATASETS, options, group)
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
        kinds = DATASETS.values()
        own = "|".join({option.name for kind in kinds for option in fields(kind)} - set(SHARED))
        pattern = rf"(?<![\w./-])dataset\.(?=(?:{own})\b)"  # no end of a file's name
        text = re.sub(pattern, lambda _: f"{group}.", str(error))
        named = re.match(rf"(unknown (option )?)?{re.escape(group)}\b", text)
        raise TrainingError(text if named else f"{group}: {text}") from error


def read_dataset(options: Mapping[str, Any]) -> DatasetConfig:
    """The dataset that the options describe; TrainingError where one does not fit."""
    return _read_as({**DATASETS, "mixture": MixtureConfig}, options, "dataset")


def with_decoder(options: Mapping[str, Any], decoder: str) -> dict[str, Any]:
    """The options of a dataset, or of a mixture, whose video files are read by another decoder.

    Raises:
        TrainingError: no part of it reads video files.
    """
    changed = _with_decoder(options, decoder)
    if changed == _with_decoder(options, ""):
        raise TrainingError("the dataset reads no video files, so that no decoder can be chosen")
    return changed


def _with_decoder(options: Mapping[str, Any], decoder: str) -> dict[str, Any]:
    name = None if TARGET in options else options.get("name", VIDEO_FOLDER)
    if name == VIDEO_FOLDER:
        return {**options, "decoder": decoder}
    parts = options.get("parts")
    if name != "mixture" or not isinstance(parts, Mapping):
        return dict(options)
    return {
        **options,
        "parts": {
            part: _with_decoder(own, decoder) if isinstance(own, Mapping) else own
            for part, own in parts.items()
        },
    }


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
            groups = with_our_names({**groups, "dataset": options})
            options = groups["dataset"]
            seed = read(TrainerOptions, groups.get("trainer") or {}, "trainer").seed
            return cls(read_dataset(options), options, seed if "trainer" in groups else None)
        except TrainingError as error:
            raise TrainingError(f"{path}: {error}") from error


def _read_as(
    kinds: Mapping[str, type[DatasetConfig]], options: Mapping[str, Any], group: str
) -> DatasetConfig:
    """Options of one of `kinds` or of one from outside; errors name them as `group`."""
    kind, options = find("dataset", options, kinds, group=group, default=VIDEO_FOLDER)
    if not (isinstance(kind, type) and issubclass(kind, DatasetConfig)):
        shared = {one.name for one in fields(DatasetConfig)} & options.keys()
        common = read(DatasetConfig, {name: options.pop(name) for name in shared}, group)
        values = {one.name: getattr(common, one.name) for one in fields(common)}
        return OutsideDataset(**values, target=kind, options=options)
    for path in ("scene", "camera", "composition.camera"):
        drawn: Any = options
        for name in path.split("."):
            drawn = drawn.get(name) if isinstance(drawn, Mapping) else None
        for name, origin in (("clip_len", "dataset.clip_len"), ("side", "model.scales")):
            if isinstance(drawn, Mapping) and name in drawn:
                raise TrainingError(f"{group}.{path}.{name} follows from {origin}: leave it out")
    return read(kind, options, group)
