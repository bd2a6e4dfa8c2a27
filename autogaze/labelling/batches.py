"""Labels of the canvas search for clips of a training: no label file is needed.

How many patches a clip's labels hold is drawn when it is read. The search is done for all clips of a
batch at once: on the GPU that trains, from frames that are there anyway, or by the process that
collates the batch.
"""

import copy
from collections import defaultdict
from dataclasses import dataclass, replace

from torch.utils.data import Dataset

from autogaze.datasets.clip import (
    ClipBatch,
    ClipKey,
    GazeLabels,
    LabelRequest,
    TrainingClip,
    UnreadableClip,
)
from autogaze.datasets.mixture import MixedClips
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import GazeBudget
from autogaze.labelling.search import CanvasSearcher
from autogaze.utils.seeding import seeded


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
    """Another dataset's clips with labels of the canvas search, made when a clip is read.

    How many patches a label holds is drawn anew for every clip and epoch.

    Attributes:
        requests: whether clips come with requests in place of labels, for `with_labels`.
    """

    requests = False

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
        if self.requests:
            request = LabelRequest(self.pyramid, tuple(counts), self.softness)
            return replace(clip, labels=request)
        searcher = CanvasSearcher(self.pyramid, self.softness)
        return replace(clip, labels=searcher.label(clip.frames, counts))


def with_requests(dataset: Dataset) -> Dataset:
    """The dataset, with requests where clips, or those of a mixture's parts, are labelled when read."""
    changed = copy.copy(dataset)
    if isinstance(changed, GreedyLabelled):
        changed.requests = True
    elif isinstance(changed, MixedClips):
        changed.datasets = [with_requests(part) for part in changed.datasets]
    else:
        return dataset
    return changed


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
