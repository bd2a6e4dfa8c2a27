"""Several datasets as one, each with its share of the clips."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from autogaze.datasets.mixture import MixedClips
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.training.reading import choose, read
from autogaze.training.sources.base import ClipSource, LabelPaths, SingleSource
from autogaze.training.sources.drawn import CameraSource, ComposedSource, ProceduralSource
from autogaze.training.sources.folders import DecodedSource, VideoFolderSource

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
