"""Labelling many clips: each by its own seed, written down as soon as it is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.clip import GazeLabels, UnreadableClip
from autogaze.datasets.seeds import seeded
from autogaze.errors import VideoError
from autogaze.labelling.budget import GazeBudget
from autogaze.labelling.clips import ClipToLabel
from autogaze.labelling.journal import Journal
from autogaze.labelling.search import Searcher


@dataclass(frozen=True)
class LabelSettings:
    """What labels depend on besides their judge.

    Args:
        clips: what makes the clips what they are; plain values that JSON can hold.
        budget: how many patches they get.
        seed: of the budgets.
    """

    clips: Mapping[str, Any] = field(default_factory=dict)
    budget: GazeBudget = field(default_factory=GazeBudget)
    seed: int = 0

    def identity(self, searcher: Searcher) -> dict[str, Any]:
        """What all labels of one file must share."""
        return {
            "judge": searcher.identity,
            "pyramid": str(searcher.pyramid),
            "num_patches": searcher.pyramid.num_patches,
            **self.clips,
            "seed": self.seed,
            "budget": asdict(self.budget),
        }


def label_frames(
    frames: UInt8[Tensor, "T 3 S S"],
    searcher: Searcher,
    budget: GazeBudget,
    generator: torch.Generator,
) -> GazeLabels:
    """Labels of a clip, with as many patches as are drawn for it."""
    counts = budget.draw(len(frames), searcher.pyramid.num_patches, generator)
    return searcher.label(frames, counts)


def label_clips(
    clips: Sequence[ClipToLabel],
    searcher: Searcher,
    settings: LabelSettings,
    journal: Journal,
    advance: Callable[[], None] = lambda: None,
    report: Callable[[UnreadableClip], None] = lambda _: None,
) -> list[UnreadableClip]:
    """Label the clips that the journal does not have yet.

    What a clip gets follows from the seed and its name: neither order nor shard matter.

    Args:
        clips: of this shard.
        searcher: with its judge.
        settings: see `LabelSettings`.
        journal: open; where labels go.
        advance: called after every clip.
        report: told of every clip that cannot be read.

    Returns:
        Those clips: they are skipped.
    """
    unreadable: list[UnreadableClip] = []
    for clip in clips:
        if clip.name not in journal.done:
            try:
                frames = clip.read()
            except (VideoError, OSError) as error:
                unreadable.append(UnreadableClip(clip.name, str(error)))
                report(unreadable[-1])
            else:
                generator = seeded("labels", settings.seed, clip.name)
                labels = label_frames(frames, searcher, settings.budget, generator)
                journal.add(clip.name, labels)
        advance()
    return unreadable
