"""Who chooses at a budget, and which gazes a clip is served: its own, or those of a control."""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.clips import Clips, Ratio, frame_caps
from autogaze.errors import SelectorError, VideoError
from autogaze.evaluation.choosers import CONTROLS
from autogaze.evaluation.quality.clips import QualityClip
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.limits import draw_settings
from autogaze.selectors import registry
from autogaze.selectors.base import Selector
from autogaze.selectors.greedy import Greedy
from autogaze.selectors.learned import Learned

# The habit control: the same patches whatever a clip shows, those that gazes usually take.


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


SELECTORS = ("learned", "greedy", "run-length", "change")
"""Asked unless others are named; the first one only where no weights are given."""
CODEC = (
    "codec cannot be compared here: it reads the motion vectors of a compressed video file, which "
    "filmed and composed clips are not, and which do not survive that clips are cut and resized"
)


class Serving(Enum):
    """Which gazes of a selector a clip is served; the values stand behind the selector's name.

    Attributes:
        OWN: those at the clip itself.
        SHUFFLED: those at another clip of the kind (`donors`).
        HABIT: what it takes most often at other clips of the kind (`habit`).
    """

    OWN = ""
    SHUFFLED = " (shuffled)"
    HABIT = " (habit)"


CONTENT_FREE = (Serving.SHUFFLED, Serving.HABIT)
"""Gazes that were made without a look at the clip they serve."""


@dataclass(frozen=True)
class Weights:
    """Learned weights: what they are called in figures, and their folder or hub id."""

    name: str
    place: str

    @classmethod
    def parse(cls, text: str) -> "Weights":
        """From NAME=PATH.

        Raises:
            SelectorError: no such pair, or a name that means something else.
        """
        name, equals, place = text.partition("=")
        if not (equals and name and place):
            raise SelectorError(f"--weights must look like NAME=PATH, got {text!r}")
        if name in registry.list_selectors() or any(how.value in name for how in CONTENT_FREE):
            raise SelectorError(
                f"--weights {text}: {name!r} is what a selector or control is called; take another name"
            )
        return cls(name, place)


@dataclass(frozen=True, eq=False)
class Contender:
    """A selector under the name that it has in figures."""

    name: str
    selector: Selector

    @property
    def is_control(self) -> bool:
        return self.name in CONTROLS

    @property
    def servings(self) -> tuple[Serving, ...]:
        """How its gazes are compared. Greedy's are searched for, so their habit is the strongest."""
        if self.is_control:
            return (Serving.OWN,)
        if isinstance(self.selector, Greedy):
            return tuple(Serving)
        return (Serving.OWN, Serving.SHUFFLED)

    def gaze(self, clips: Clips, ratio: float, generator: torch.Generator) -> Gaze:
        """Gazes at whole clips, at no more than a share of all their patches.

        Every frame gets the same cap, except by weights whose config spreads a clip's
        budget over its frames ("dirichlet"): those draw shares for every clip.

        Args:
            ratio: cap on the share of all patches of all scales, in (0, 1].
            generator: goes on from batch to batch, so that batches of other sizes give
                the same gazes.
        """
        if isinstance(self.selector, Learned) and spreads(self.selector.model.config):
            model = self.selector.model
            ratios = [
                spread(model.config, ratio, clips.num_frames, generator)
                for _ in range(clips.num_clips)
            ]
            caps = [frame_caps(own, clips.num_frames, model.pyramid.num_patches) for own in ratios]
            generation = model.generate(self.selector.seen(clips), caps=torch.tensor(caps))
            return self.selector.chosen(generation).to("cpu")
        return self.selector.select(clips, ratio=ratio, generator=generator).to("cpu")


def spreads(config: AutoGazeConfig) -> bool:
    """Whether a clip's budget is shared out over its frames at random."""
    strategy: str = config.gazing_ratio_each_frame_config["sample_strategy_during_inference"]
    return strategy == "dirichlet"


def spread(
    config: AutoGazeConfig, ratio: float, num_frames: int, generator: torch.Generator
) -> Ratio:
    """What such a config makes of a clip's mean ratio: a cap for every frame."""
    config = deepcopy(config)
    config.gazing_ratio_config["sample_strategy_during_inference"] = "fixed"
    config.gazing_ratio_config["fixed"] = {"gazing_ratio": ratio}
    drawn = draw_settings(config, num_frames, training=False, generator=generator).ratio
    if drawn is None:
        raise SelectorError("weights that cap no frame have no budget to be compared at")
    return drawn


def check_selectors(names: Sequence[str], weights: Sequence[Weights]) -> None:
    """Raise SelectorError, before anything slow, for who cannot be compared."""
    known = [name for name in registry.list_selectors() if name != "codec"]
    for name in names:
        if name == "codec":
            raise SelectorError(CODEC)
        if name not in known:
            raise SelectorError(
                f"unknown selector {name!r}; known are {', '.join(known)}; weights are given by "
                "--weights NAME=PATH"
            )
    twice = [name for name, count in Counter(w.name for w in weights).items() if count > 1]
    if twice:
        raise SelectorError(f"--weights: {twice[0]!r} names two things")


def load_contenders(
    names: Sequence[str], weights: Sequence[Weights], device: torch.device
) -> list[Contender]:
    """Learned weights, then selectors without, then the controls; all of one pyramid.

    Raises:
        SelectorError: weights of another pyramid than the others'.
        CheckpointError: weights that cannot be loaded.
    """
    learned = []
    shipped = [Weights(registry.LEARNED, registry.LEARNED)] if registry.LEARNED in names else []
    for one in (*weights, *shipped):
        selector = registry.load(one.place)
        if not isinstance(selector, Learned):
            raise SelectorError(f"--weights {one.name}={one.place}: is no learned selector")
        selector.model.static_shapes = device.type == "cuda"
        selector.model.to(device, torch.float32)  # type: ignore[call-overload]
        learned.append(Contender(one.name, selector))
    pyramid = learned[0].selector.pyramid if learned else PatchPyramid()
    for contender in learned:
        if contender.selector.pyramid != pyramid:
            raise SelectorError(
                f"all weights must choose from the same patches: {learned[0].name} from {pyramid}, "
                f"{contender.name} from {contender.selector.pyramid}"
            )
    apart = (*CONTROLS, registry.LEARNED)
    others = [*(name for name in dict.fromkeys(names) if name not in apart), *CONTROLS]
    return [
        *learned,
        *(Contender(name, registry.load(name, pyramid=pyramid)) for name in others),
    ]


def donors(clips: Sequence[QualityClip]) -> list[int]:
    """For every clip the number of one of another source, of its kind; each is taken once.

    So the shuffled gazes of a kind are the selector's own gazes of that kind, and hold
    exactly as many patches.

    Raises:
        VideoError: more than half of a kind's clips are of one source.
    """
    given = [-1] * len(clips)
    for kind in dict.fromkeys(clip.kind for clip in clips):
        members = [number for number, clip in enumerate(clips) if clip.kind == kind]
        # With clips of one source in a row, a step as long as the longest row leaves every one.
        # Sources stay in the order of the clips, which is random: neighbours are not alike.
        first = {clips[number].source: number for number in reversed(members)}
        members.sort(key=lambda number: first[clips[number].source])
        source, longest = Counter(clips[number].source for number in members).most_common(1)[0]
        if 2 * longest > len(members):
            raise VideoError(
                f"{longest} of {len(members)} {kind} clips are of {source}: to be served the gazes "
                "of another video, at most half may be of one; give more videos or another --clips"
            )
        for place, number in enumerate(members):
            given[number] = members[(place + longest) % len(members)]
    return given
