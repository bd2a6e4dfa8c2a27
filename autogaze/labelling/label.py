"""Labelling many clips: each by its own seed, written down as soon as it is done."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from autogaze.datasets.clip import UnreadableClip
from autogaze.datasets.seeds import seeded
from autogaze.datasets.video_folder import Window
from autogaze.errors import VideoError
from autogaze.labelling.budget import GazeBudget
from autogaze.labelling.clips import ClipToLabel
from autogaze.labelling.journal import Journal
from autogaze.labelling.search import Searcher


@dataclass(frozen=True)
class LabelSettings:
    """What labels depend on besides their judge.

    Args:
        window: the frames of a clip; its first, so `random` must be off.
        budget: how many patches they get.
        seed: of the budgets.
    """

    window: Window = field(default_factory=Window)
    budget: GazeBudget = field(default_factory=GazeBudget)
    seed: int = 0

    def identity(self, searcher: Searcher) -> dict[str, Any]:
        """What all labels of one file must share."""
        return {
            "judge": searcher.identity,
            "pyramid": str(searcher.pyramid),
            "num_patches": searcher.pyramid.num_patches,
            "clip_len": self.window.clip_len,
            "stride": self.window.stride,
            "seed": self.seed,
            "budget": asdict(self.budget),
        }


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
                frames = clip.read(settings.window, searcher.pyramid.side)
            except (VideoError, OSError) as error:
                unreadable.append(UnreadableClip(clip.name, str(error)))
                report(unreadable[-1])
            else:
                generator = seeded("labels", settings.seed, clip.name)
                counts = settings.budget.draw(len(frames), searcher.pyramid.num_patches, generator)
                journal.add(clip.name, searcher.label(frames, counts))
        advance()
    return unreadable
