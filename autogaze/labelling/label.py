"""Gaze labels of many clips: their budgets; those of videos and datasets, in a loop that can be resumed;
and those of a training's clips, which need no label file.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.checks import is_finite, why_absent
from autogaze.clips import frame_caps
from autogaze.datasets.clip import (
    ClipBatch,
    ClipKey,
    GazeLabels,
    LabelRequest,
    NamedClips,
    TrainingClip,
    UnreadableClip,
)
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.decoding import choose_decoder
from autogaze.datasets.video_windows import (
    VIDEOS,
    VideoClips,
    Window,
    find_files,
    find_windows,
    no_videos,
)
from autogaze.errors import TrainingError, VideoError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher, Searcher
from autogaze.labelling.shards import ShardWriter
from autogaze.utils.seeding import seeded, uniform


@dataclass(frozen=True)
class GazeBudget:
    """Distribution of the numbers of patches in the frames of a clip (AutoGaze, section 3.3).

    A clip's mean ratio is drawn from an exponential, the shares of its frames from a Dirichlet
    distribution.

    Args:
        low, high: bounds of the mean ratio.
        rate: of the exponential that it is drawn from, restricted to the bounds.
        first, later: Dirichlet concentrations of frame 0 and of each other frame.

    Raises:
        TrainingError: bounds that are no ratios, or numbers that are not positive and finite.
    """

    low: float = 0.02
    high: float = 0.2
    rate: float = 10.0
    first: float = 10.0
    later: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise TrainingError(
                f"the mean ratio must satisfy 0 < low <= high <= 1, got {self.low} and {self.high}"
            )
        if not all(is_finite(one) and one > 0 for one in (self.rate, self.first, self.later)):
            raise TrainingError(
                f"rate and concentrations must be positive numbers, got {self.rate}, {self.first}, {self.later}"
            )

    def draw(self, num_frames: int, num_patches: int, generator: torch.Generator) -> list[int]:
        """Numbers of patches of every frame, from 1 to `num_patches`."""
        # The exponential's inverse distribution function, between the bounds.
        tail = math.exp(-self.rate * (self.high - self.low))
        mean = self.low - math.log1p(-uniform(generator, 0, 1) * (1 - tail)) / self.rate
        alpha = torch.full((num_frames,), self.later, dtype=torch.float64)
        alpha[0] = self.first
        shares = torch._standard_gamma(alpha, generator=generator)  # normalised: a Dirichlet
        ratios = (shares / shares.sum() * num_frames * mean).clamp(1e-9, 1)
        return frame_caps(ratios.tolist(), num_frames, num_patches)


DECODED = ".safetensors"
"""Ending of the names of files of decoded clips (`save_decoded`)."""


@dataclass(frozen=True)
class ClipToLabel:
    """One clip of a dataset: its name in the label file, the dataset and its index there."""

    name: str
    clips: NamedClips
    number: int

    def read(self) -> UInt8[Tensor, "T 3 S S"]:
        """The clip's frames; VideoError where it cannot be read."""
        clip = self.clips[ClipKey(0, self.number)]
        if isinstance(clip, UnreadableClip):
            raise VideoError(clip.cause)
        return clip.frames


def find_clips(
    paths: Sequence[str | Path], window: Window, side: int, decoder: str = "auto"
) -> list[ClipToLabel]:
    """All clips of files and folders, sorted by name.

    Args:
        paths: videos, folders of videos, files of decoded clips.
        window: how clips are cut out of videos; decoded ones must be of its length.
        side: pixels of their frames.
        decoder: of videos; see `choose_decoder`.

    Raises:
        TrainingError: no path, one that does not exist, no clips at all, two of one name, or decoded
            clips of another shape.
    """
    if not paths:
        raise TrainingError("nothing to label: give videos, folders, or files of decoded clips")
    videos: list[Path] = []
    found: list[NamedClips] = []
    for path in map(Path, paths):
        if os.path.isdir(path):  # unlike Path.is_dir, takes names of any length
            videos += find_files([path], VIDEOS)
        elif not os.path.isfile(path):
            raise TrainingError(f"{path}: {why_absent(path, 'video or folder')}")
        elif path.suffix == DECODED:
            decoded = DecodedClips([path])
            decoded.check_shape(window.clip_len, side)
            found.append(decoded)
        else:
            videos.append(path)
    if videos:
        chosen = choose_decoder(decoder)
        clips = find_windows(videos, window, chosen)
        found.append(VideoClips(clips, window=window, side=side, decoder=chosen))
    if not found:
        raise no_videos(paths)
    return clips_of(found)


def clips_of(datasets: Sequence[NamedClips]) -> list[ClipToLabel]:
    """All clips of some datasets, sorted by name.

    Raises:
        TrainingError: two of one name.
    """
    clips = [
        ClipToLabel(dataset.name(number), dataset, number)
        for dataset in datasets
        for number in range(len(dataset))
    ]
    name, count = Counter(clip.name for clip in clips).most_common(1)[0]
    if count > 1:
        raise TrainingError(
            f"{count} clips would be {name} in the label file, which knows a video by the last "
            "three parts of its path; rename a folder, or give it once"
        )
    return sorted(clips, key=lambda clip: clip.name)


@dataclass(frozen=True)
class LabelSettings:
    """Settings that labels depend on, besides their metric.

    Args:
        clips: where the clips come from and how they are cut; values that JSON can hold.
        budget: of their numbers of patches.
        seed: of the budgets.
    """

    clips: Mapping[str, Any] = field(default_factory=dict)
    budget: GazeBudget = field(default_factory=GazeBudget)
    seed: int = 0

    def identity(self, searcher: Searcher) -> dict[str, Any]:
        """What all labels of one file must share."""
        return {
            "judge": searcher.identity,  # the name in files of older versions
            "pyramid": str(searcher.pyramid),
            "num_patches": searcher.pyramid.num_patches,
            **self.clips,
            "seed": self.seed,
            "budget": asdict(self.budget),
        }


def label_clips(
    clips: Sequence[ClipToLabel],
    searcher: Searcher,
    settings: LabelSettings,
    shard: ShardWriter,
    advance: Callable[[], None] = lambda: None,
    report: Callable[[UnreadableClip], None] = lambda _: None,
) -> list[UnreadableClip]:
    """Label the clips of a shard that are not labelled yet; returns the unreadable ones.

    A clip's labels depend on the seed and its name, not on order or shard.

    Args:
        advance: called after every clip.
        report: called with every unreadable clip.
    """
    unreadable: list[UnreadableClip] = []
    num_patches, at_once = searcher.pyramid.num_patches, searcher.at_once
    for start in range(0, len(clips), at_once):
        some = clips[start : start + at_once]
        names, frames, counts = list[str](), list[Tensor](), list[list[int]]()
        for clip in some:
            if clip.name in shard.done:
                continue
            try:
                frames.append(clip.read())
            except (VideoError, OSError) as error:
                unreadable.append(UnreadableClip(clip.name, str(error)))
                report(unreadable[-1])
                continue
            generator = seeded("labels", settings.seed, clip.name)
            counts.append(settings.budget.draw(len(frames[-1]), num_patches, generator))
            names.append(clip.name)
        for name, labels in zip(names, searcher.label_clips(frames, counts), strict=True):
            shard.add(name, labels)
        for _ in some:
            advance()
    return unreadable


# Labels for clips of a training, by the canvas search for all clips of a batch at once: on the GPU that
# trains, where the frames are anyway, or by the process that collates the batch.


@dataclass(frozen=True)
class GreedyOptions(GazeBudget):
    """Labels made for the clips of a training: their budget, and how soft their targets are.

    Args:
        softness: of the targets (see `CanvasSearcher`); 0 for the best patch alone.
    """

    softness: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.softness >= 0:
            raise TrainingError(f"softness must be at least 0, got {self.softness}")


class GreedyLabelled(Dataset):
    """Another dataset's clips with requests for labels of the canvas search, which `with_labels` makes.

    How many patches a label holds is drawn anew for every clip and epoch.
    """

    def __init__(
        self, inner: Dataset, pyramid: PatchPyramid, options: GreedyOptions, *, seed: int = 0
    ) -> None:
        self.inner, self.budget, self.seed = inner, options, seed
        self.pyramid, self.softness = pyramid, options.softness

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        key = ClipKey.of(key)
        clip = self.inner[key]
        if isinstance(clip, UnreadableClip):
            return clip
        generator = seeded("greedy labels", self.seed, *key)
        counts = self.budget.draw(len(clip.frames), self.pyramid.num_patches, generator)
        return replace(clip, labels=LabelRequest(self.pyramid, tuple(counts), self.softness))


def with_labels(batch: ClipBatch) -> ClipBatch:
    """The batch with the labels that its clips ask for, searched where its frames are."""
    if batch.pending is None:
        return batch
    labels: dict[int, GazeLabels] = {}
    alike: dict[tuple[PatchPyramid, float], dict[int, LabelRequest]] = defaultdict(dict)
    for clip, one in enumerate(batch.pending):
        if isinstance(one, LabelRequest):
            alike[one.pyramid, one.softness][clip] = one
        else:
            labels[clip] = one
    for (pyramid, softness), requests in alike.items():
        clips = list(requests)
        frames = batch.frames if len(clips) == len(batch) else batch.frames[clips]
        ids = [[[None] * count for count in one.counts] for one in requests.values()]
        found = CanvasSearcher(pyramid, softness).follow_clips(frames, ids)
        labels |= dict(zip(clips, found, strict=True))
    return replace(batch, labels=tuple(labels[clip] for clip in range(len(batch))), pending=None)
