"""Labels made while training: greedy search with the canvas, clip by clip.

For datasets that have no label file, because their clips are new in every epoch. They are
what `autogaze label` would make with the canvas as its judge.
"""

from dataclasses import dataclass, replace

from torch.utils.data import Dataset

from autogaze.datasets.clip import ClipKey, TrainingClip, UnreadableClip
from autogaze.datasets.seeds import seeded
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.budget import GazeBudget
from autogaze.labelling.canvas import CanvasSearcher
from autogaze.labelling.label import label_frames


@dataclass(frozen=True)
class GreedyOptions(GazeBudget):
    """How many patches clips get, and how they are taught.

    Args:
        softness: see `CanvasSearcher`; 0 teaches the one best patch.

    Raises:
        TrainingError: see `GazeBudget`; a negative softness.
    """

    softness: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.softness >= 0:
            raise TrainingError(f"softness must be at least 0, got {self.softness}")


class GreedyLabelled(Dataset):
    """Another dataset's clips with greedy labels; how many patches they hold is drawn anew
    for every clip and epoch.
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
        return replace(
            clip, labels=label_frames(clip.frames, self.searcher, self.budget, generator)
        )
