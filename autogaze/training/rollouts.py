"""Sampling groups of gazes from the model (GRPO).

The rows of a group must be of equal length, or the longest would win by its length. How
long they are is drawn for every clip by itself:

- `uniform` and `dirichlet`: from the model's config, as a cap a frame.
- `self`, and wherever the config asks for a loss threshold: one gaze is sampled that
  stops where the predicted loss is at most a threshold drawn for this clip; the number
  of patches it took in each frame are the caps of the clip's whole group.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from autogaze.clips import frame_caps
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.limits import GazeSettings, draw_settings
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import normalise
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.scoring import Scores, score
from autogaze.models.autogaze.streaming import Generation
from autogaze.training.loader import Moment

# Controls: gazes that know nothing of the clip they are judged on.


def shuffled(gaze: Gaze) -> Gaze:
    """The same gazes at other clips of the batch.

    Clips change places with those half a batch away: neighbours may be of one video.
    """
    half = len(gaze) // 2
    clips = list(gaze)
    return Gaze.cat_clips([*clips[half:], *clips[:half]])


def random_gaze(
    pyramid: PatchPyramid,
    lengths: Int[Tensor, "B T"],
    generators: Sequence[torch.Generator],
    weights: Float[Tensor, "B V"] | None = None,
) -> Gaze:
    """Random patches, so many in every frame.

    Args:
        generators: one a clip.
        weights: how likely a clip's patches are, each above 0; evenly by default.
    """
    V = pyramid.num_patches
    ids = []
    for clip, (generator, counts) in enumerate(zip(generators, lengths.tolist(), strict=True)):
        for count in counts:
            if weights is None:
                order = torch.randperm(V, generator=generator)
            else:  # the first of exponential clocks with these rates
                clocks = torch.empty(V).exponential_(generator=generator) / weights[clip]
                order = clocks.argsort()
            ids.append(order[:count])
    return Gaze(pyramid, torch.cat(ids), lengths)


# A lesson: gazes at some clips and what they were worth, settled before any gradient.


@dataclass(frozen=True)
class GazeRows:
    """Gazes of R rows in slots.

    Attributes:
        pyramid: what ids mean.
        ids: (R, slots) numbered from the start of their own frame, nonsense where not kept.
        kept: (R, slots) False where a slot is padding.
        slots: slots of every frame.
    """

    pyramid: PatchPyramid
    ids: Int[Tensor, "R slots"]
    kept: Bool[Tensor, "R slots"]
    slots: tuple[int, ...]

    @classmethod
    def of_gaze(cls, gaze: Gaze) -> "GazeRows":
        """A gaze, each of its clips a row."""
        padded: dict[str, Any] = gaze.padded()
        slots = tuple(padded["num_gazing_each_frame"].tolist())
        frame = torch.arange(len(slots)).repeat_interleave(torch.tensor(slots))
        ids = padded["gazing_pos"] - (gaze.pyramid.num_patches * frame).to(gaze.device)
        return cls(gaze.pyramid, ids, ~padded["if_padded_gazing"], slots)

    @classmethod
    def of_generation(cls, generation: Generation) -> "GazeRows":
        """Generated rows."""
        ids = torch.cat([frame.ids for frame in generation.frames], 1)
        kept = torch.cat([frame.kept for frame in generation.frames], 1)
        slots = tuple(frame.ids.shape[1] for frame in generation.frames)
        return cls(generation.pyramid, ids, kept, slots)

    @property
    def is_padding(self) -> Bool[Tensor, "R slots"]:
        return ~self.kept

    def ends(self, frame: int) -> int:
        """Slots up to the end of a frame."""
        return sum(self.slots[: frame + 1])

    def counts(self) -> Int[Tensor, "R T"]:
        """Gazes of every row in every frame."""
        return torch.stack([part.sum(1) for part in self.kept.split(list(self.slots), 1)], 1)

    def gaze(self, rows: slice = slice(None)) -> Gaze:
        """Some rows without padding."""
        return Gaze(self.pyramid, self.ids[rows][self.kept[rows]], self.counts()[rows])

    def see(
        self, model: AutoGaze, video: Float[Tensor, "B T 3 S S"]
    ) -> Float[Tensor, "R T tokens C"]:
        """Vision tokens of every row, seen once for all rows of a clip; differentiable.

        Args:
            video: normalised; rows are group-major, row = repetition * B + clip.
        """
        tokens, _ = model.gazing_model.vision_tokens(video)
        return tokens.repeat(len(self.ids) // len(video), 1, 1, 1)

    def score(
        self,
        model: AutoGaze,
        tokens: Float[Tensor, "R T tokens C"],
        targets: Float[Tensor, "R slots V"] | None = None,
    ) -> Scores:
        """How likely the gazes were and what loss is predicted after each; differentiable.

        Args:
            tokens: what `see` gave.
            targets: see `autogaze.models.autogaze.scoring.score`.
        """
        return score(
            model.gazing_model.gaze_decoder, tokens, self.ids, self.kept, list(self.slots), targets
        )


@dataclass(frozen=True)
class Lesson:
    """What R rows, G for each of B clips, can teach.

    Attributes:
        frames: (B, T, 3, S, S) RGB.
        rows: the gazes, group-major: row = repetition * B + clip.
        judged: frames that the task judges.
        losses: (R, slots) the task's loss after a gaze, where known.
        losses_known: (R, slots) where it is.
        reward: (R, F) of every row at each judged frame, where the algorithm has any.
        targets: (R, slots, V) see `GazeLabels`, where labels have any.
    """

    frames: UInt8[Tensor, "B T 3 S S"]
    rows: GazeRows
    judged: tuple[int, ...]
    losses: Float[Tensor, "R slots"] | None = None
    losses_known: Bool[Tensor, "R slots"] | None = None
    reward: Float[Tensor, "R F"] | None = None
    targets: Float[Tensor, "R slots V"] | None = None

    @property
    def num_rows(self) -> int:
        return len(self.rows.ids)

    @property
    def num_gazes(self) -> int:
        return int(self.rows.kept.sum())

    @property
    def num_known(self) -> int:
        if self.losses_known is None:
            return 0
        return int((self.losses_known & self.rows.kept).sum())

    @property
    def rgb(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames in [0, 1]."""
        return self.frames.float() / 255

    @property
    def video(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames as the selector sees them."""
        return normalise(self.rgb)


@torch.no_grad()
def sample_groups(
    model: AutoGaze,
    video: Float[Tensor, "B T 3 S S"],
    places: tuple[int, ...],
    group_size: int,
    moment: Moment,
) -> GazeRows:
    """Gazes at every clip, `group_size` times, all of them decoded together.

    Args:
        video: normalised.
        places: of the clips in the whole batch; what is sampled at a clip follows from
            its place, so it does not depend on how batches are divided.

    Returns:
        Group-major rows: row = repetition * B + clip.
    """
    caps = group_caps(model, video, places, moment)
    seeds = tuple(moment.seed_of("gaze", place, g) for g in range(group_size) for place in places)
    generation = model.generate(
        video,
        caps=caps.repeat(group_size, 1),
        sampling=Sampling(moment.temperature, row_seeds=seeds),
        repetitions=group_size,
    )
    return GazeRows.of_generation(generation)


@torch.no_grad()
def group_caps(
    model: AutoGaze, video: Float[Tensor, "B T 3 S S"], places: tuple[int, ...], moment: Moment
) -> Int[Tensor, "B T"]:
    """How many patches every row of a clip's group takes in each frame."""
    T, V = video.shape[1], model.pyramid.num_patches
    drawn = [
        lengths_settings(model.config, T, moment.generator("length", place)) for place in places
    ]
    caps = torch.tensor([frame_caps(each.ratio, T, V) for each in drawn])
    thresholds = [each.threshold for each in drawn if each.threshold is not None]
    if not thresholds:
        return caps
    seeds = tuple(moment.seed_of("length gaze", place) for place in places)
    measured = model.generate(
        video,
        caps=caps,
        threshold=torch.tensor(thresholds),
        sampling=Sampling(moment.temperature, row_seeds=seeds),
    )
    return measured.to_gaze().lengths


def lengths_settings(
    config: AutoGazeConfig, num_frames: int, generator: torch.Generator
) -> GazeSettings:
    """Cap and threshold of a group. With `self` the mean ratio still caps every frame."""
    drawn = draw_settings(config, num_frames, training=True, generator=generator)
    if drawn.ratio is not None:
        return drawn
    capped = copy.copy(config)
    capped.gazing_ratio_each_frame_config = {"sample_strategy_during_training": "uniform"}
    cap = draw_settings(capped, num_frames, training=True, generator=generator)
    return GazeSettings(cap.ratio, drawn.threshold)


def at_last_gazes(
    rows: GazeRows, judged: tuple[int, ...], losses: Float[Tensor, "R F"]
) -> tuple[Float[Tensor, "R slots"], Bool[Tensor, "R slots"]]:
    """The loss of every judged frame at the slot of its last real gaze, and where these are."""
    values = losses.new_zeros(rows.kept.shape)
    known = torch.zeros_like(rows.kept)
    counts = rows.counts()
    row = torch.arange(len(rows.ids), device=rows.ids.device)
    for column, frame in enumerate(judged):
        start = rows.ends(frame) - rows.slots[frame]
        slot = start + (counts[:, frame] - 1).clamp(min=0)
        values[row, slot] = losses[:, column]
        known[row, slot] = counts[:, frame] > 0
    return values, known
