"""The habit control: the same patches whatever a clip shows, those that gazes usually take.

A selector that only learned which patches pay most often, frame by frame, comes near such a
habit; one that sees content must beat it. The habit is taken from gazes that did look, at
other clips. It is no bound: what it leaves out of a frame it leaves out of the next ones too,
so at large budgets random gazes may cover more.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.benchmarks.quality.clips import QualityClip
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors.base import frame_caps


def habits(clips: Sequence[QualityClip], gazes: Sequence[Gaze], ratio: float) -> list[Gaze]:
    """For every clip the habit of the clips of its kind that are of other sources.

    Args:
        clips: N of them; in each kind there are two sources or more, as `donors` demands.
        gazes: N gazes at one clip each, at `ratio`.
        ratio: cap on every frame's share of all patches, in (0, 1].

    Returns:
        N gazes at one clip each; those of one source and kind are the same.
    """
    made: dict[tuple[str, str], Gaze] = {}
    for clip in clips:
        if (clip.kind, clip.source) not in made:
            others = [
                gaze
                for other, gaze in zip(clips, gazes, strict=True)
                if other.kind == clip.kind and other.source != clip.source
            ]
            made[clip.kind, clip.source] = make_habit(others[0].pyramid, count_taken(others), ratio)
    return [made[clip.kind, clip.source] for clip in clips]


def count_taken(gazes: Sequence[Gaze]) -> Int[Tensor, "T V"]:
    """How many clips took a patch in a frame, by the number of the frame."""
    return torch.stack([gaze.mask.sum(0) for gaze in gazes]).sum(0)


def make_habit(pyramid: PatchPyramid, counts: Int[Tensor, "T V"], ratio: float) -> Gaze:
    """One clip's gaze at the patches that were taken most often in each frame.

    Every frame takes as many as its cap allows. Of patches that were taken equally often the
    lower ids come first, which are the coarser ones.
    """
    mask = torch.zeros_like(counts, dtype=torch.bool)
    caps = frame_caps(ratio, *counts.shape)
    for frame, (taken, cap) in enumerate(zip(counts, caps, strict=True)):
        mask[frame, taken.sort(descending=True, stable=True).indices[:cap]] = True
    return Gaze.from_mask(pyramid, mask[None])
