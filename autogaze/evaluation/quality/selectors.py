"""The selectors that are compared at equal budgets, and the gazes on which a clip is measured.

A clip is measured on a selector's own gaze at it, and on two that saw nothing of it: the
selector's gaze at another clip (shuffled), and the patches that it takes most often in other
clips (content-blind prior).
"""

from collections import Counter
from collections.abc import Sequence
from enum import Enum

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.clips import frame_caps
from autogaze.errors import SelectorError, VideoError
from autogaze.evaluation import selectors as evaluated
from autogaze.evaluation.quality.clips import QualityClip
from autogaze.evaluation.selectors import CONTROLS, MeasuredSelector, load_selector, with_controls
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors import registry
from autogaze.selectors.greedy import Greedy
from autogaze.selectors.learned import Learned
from autogaze.utils.device import DeviceOptions


class Variant(Enum):
    """Which of a selector's gazes a clip is measured on; values stand behind its name.

    Attributes:
        OWN: the gaze at the clip itself.
        SHUFFLED: the gaze at another clip of the kind (`shuffled`).
        PRIOR: the patches taken most often in other clips of the kind (`priors`).
    """

    OWN = ""
    SHUFFLED = " (shuffled)"
    PRIOR = " (prior)"


def variants(one: MeasuredSelector) -> tuple[Variant, ...]:
    """Variants measured of a selector; the prior of `greedy` only, which is the strongest."""
    if one.name in CONTROLS:
        return (Variant.OWN,)
    if isinstance(one.selector, Greedy):
        return tuple(Variant)
    return (Variant.OWN, Variant.SHUFFLED)


def parse_weights(texts: Sequence[str]) -> dict[str, str]:
    """Names of learned weights in figures -> folder or hub id, from NAME=PATH each.

    Raises:
        SelectorError: no such pair, a name that means something else, or one given twice.
    """
    weights: dict[str, str] = {}
    taken = (Variant.SHUFFLED.value, Variant.PRIOR.value)
    for text in texts:
        name, equals, path = text.partition("=")
        if not (equals and name and path):
            raise SelectorError(f"--weights must look like NAME=PATH, got {text!r}")
        if name in registry.list_selectors() or any(suffix in name for suffix in taken):
            raise SelectorError(
                f"--weights {text}: {name!r} is the name of a selector or control; take another name"
            )
        if name in weights:
            raise SelectorError(f"--weights: {name!r} names two things")
        weights[name] = path
    return weights


def check_selectors(names: Sequence[str]) -> None:
    """Raise `SelectorError`, before anything slow, for a selector that cannot be compared."""
    if "codec" in names:
        raise SelectorError(
            "codec cannot be compared here: it reads the motion vectors of a compressed video "
            "file, which are lost where clips are filmed, composed, cut or resized"
        )
    evaluated.check_selectors(names, checkpoints=False)


def load_selectors(
    names: Sequence[str], weights: dict[str, str], device_options: DeviceOptions
) -> list[MeasuredSelector]:
    """Learned weights, then selectors without, then the controls; all of one pyramid.

    Raises:
        SelectorError: weights of another pyramid than the others'.
        CheckpointError: weights that cannot be loaded.
    """
    learned: list[MeasuredSelector] = []
    shipped = {registry.LEARNED: registry.LEARNED} if registry.LEARNED in names else {}
    for name, path in {**weights, **shipped}.items():
        one = load_selector(name, None, device_options, path)
        if not isinstance(one.selector, Learned):
            raise SelectorError(f"--weights {name}={path}: is no learned selector")
        if learned and one.selector.pyramid != learned[0].selector.pyramid:
            raise SelectorError(
                f"all weights must select from the same patches: {learned[0].name} from "
                f"{learned[0].selector.pyramid}, {name} from {one.selector.pyramid}"
            )
        learned.append(one)
    pyramid = learned[0].selector.pyramid if learned else PatchPyramid()
    others = [name for name in names if name not in (*CONTROLS, registry.LEARNED)]
    return learned + [
        load_selector(name, pyramid, device_options) for name in with_controls(others)
    ]


def shuffled(clips: Sequence[QualityClip]) -> list[int]:
    """A permutation of the clips within each kind that maps every clip to one of another source.

    So the shuffled gazes of a kind are the selector's own gazes of that kind, and have
    exactly as many patches.

    Raises:
        VideoError: more than half of a kind's clips are of one source.
    """
    order = [-1] * len(clips)
    for kind in dict.fromkeys(clip.kind for clip in clips):
        members = [number for number, clip in enumerate(clips) if clip.kind == kind]
        # With clips of one source in a row, a shift by the longest row leaves every row.
        # Sources stay in the order of the clips, which is random: neighbours are not alike.
        first = {clips[number].source: number for number in reversed(members)}
        members.sort(key=lambda number: first[clips[number].source])
        source, longest = Counter(clips[number].source for number in members).most_common(1)[0]
        if 2 * longest > len(members):
            raise VideoError(
                f"{longest} of {len(members)} {kind} clips are of {source}: to be compared with gazes "
                "at another video, at most half may be of one; give more videos or another --clips"
            )
        for place, number in enumerate(members):
            order[number] = members[(place + longest) % len(members)]
    return order


def priors(clips: Sequence[QualityClip], gazes: Sequence[Gaze], ratio: float) -> list[Gaze]:
    """For every clip the content-blind prior from clips of its kind and other sources.

    Args:
        clips: N of them; in each kind there are two sources or more, as `shuffled` demands.
        gazes: N gazes at one clip each, at `ratio`.
        ratio: cap on every frame's share of all patches, in (0, 1].

    Returns:
        N gazes at one clip each; those of one source and kind are the same.
    """
    made: dict[tuple[str, str], Gaze] = {}
    for clip in clips:
        if (clip.kind, clip.source) not in made:
            masks = [
                gaze.mask.sum(0)
                for other, gaze in zip(clips, gazes, strict=True)
                if other.kind == clip.kind and other.source != clip.source
            ]
            counts = torch.stack(masks).sum(0)
            made[clip.kind, clip.source] = prior(gazes[0].pyramid, counts, ratio)
    return [made[clip.kind, clip.source] for clip in clips]


def prior(pyramid: PatchPyramid, counts: Int[Tensor, "T V"], ratio: float) -> Gaze:
    """One clip's gaze at the patches taken most often in each frame, by how often that was.

    Every frame takes as many as its cap allows. Of patches that were taken equally often the
    lower ids come first, which are the coarser ones.
    """
    mask = torch.zeros_like(counts, dtype=torch.bool)
    caps = frame_caps(ratio, *counts.shape)
    for frame, (taken, cap) in enumerate(zip(counts, caps, strict=True)):
        mask[frame, taken.sort(descending=True, stable=True).indices[:cap]] = True
    return Gaze.from_mask(pyramid, mask[None])
