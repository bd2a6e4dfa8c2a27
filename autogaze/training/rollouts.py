"""Rollouts: padded gaze sequences, groups sampled from the model (GRPO), and control gazes.

The rows of a group must be of equal length, or the longest would win by its length. Their
length is drawn per clip:

- `uniform` and `dirichlet`: caps per frame, from the model's config.
- `self`, and wherever the config asks for a loss threshold: one gaze is sampled that stops
  where the predicted loss falls below a threshold drawn for this clip; its number of patches
  in each frame are the caps of the clip's whole group.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from autogaze.clips import frame_caps
from autogaze.datasets.clip import Extra
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.limits import GazeSettings, draw_settings
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.sampling import Sampling
from autogaze.tasks.base import Task
from autogaze.training.loader import StepContext


@dataclass(frozen=True)
class RolloutBatch:
    """Gaze sequences with rewards or labelled losses: G rows for each of B clips, no gradients.

    Attributes:
        frames: (B, T, 3, S, S) RGB.
        rows: the gazes, group-major: row = repetition * B + clip.
        reconstructed: frames that the task measures.
        losses: (R, slots) the task's loss after a gaze, where known.
        losses_known: (R, slots) where it is known.
        reward: (R, F) of every row at each reconstructed frame, for algorithms with rewards.
        targets: (R, slots, V) see `GazeLabels`, where labels have any.
        temperature: that the gazes were sampled at, where the loss takes log-probabilities of the
            policy that sampled; None for those as released (see `models.autogaze.scoring`).
        extra: of the B clips (see `ClipBatch`).
    """

    frames: UInt8[Tensor, "B T 3 S S"]
    rows: GazeRows
    reconstructed: tuple[int, ...]
    losses: Float[Tensor, "R slots"] | None = None
    losses_known: Bool[Tensor, "R slots"] | None = None
    reward: Float[Tensor, "R F"] | None = None
    targets: Float[Tensor, "R slots V"] | None = None
    temperature: float | None = None
    extra: Extra = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return len(self.rows.ids)

    @property
    def rgb(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames in [0, 1]."""
        return self.frames.float() / 255

    @property
    def video(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames normalised for the selector."""
        return normalise(self.rgb, in_place=True)  # of a copy


@dataclass(frozen=True)
class BatchCounts:
    """Totals of a whole batch over micro-batches and processes, which losses are normalised by.

    Attributes:
        rows, gazes: numbers of them.
        known: gazes after which the loss is known.
    """

    rows: int
    gazes: int
    known: int

    @classmethod
    def of(cls, batches: Sequence[RolloutBatch]) -> "BatchCounts":
        """Totals of these micro-batches."""
        return cls(
            sum(batch.num_rows for batch in batches),
            sum(int(batch.rows.host_kept.sum()) for batch in batches),
            sum(_num_known(batch) for batch in batches),
        )

    @property
    def mean_gazes(self) -> float:
        """Gazes per row."""
        return max(self.gazes, 1) / max(self.rows, 1)

    @property
    def mean_known(self) -> float:
        """Known losses per row."""
        return max(self.known, 1) / max(self.rows, 1)


def _num_known(batch: RolloutBatch) -> int:
    """Gazes of a micro-batch after which the loss is known."""
    if batch.losses_known is None:
        return 0
    if batch.losses_known is batch.rows.kept:  # after all: no device is waited for
        return int(batch.rows.host_kept.sum())
    return int((batch.losses_known & batch.rows.kept).sum())


# Groups sampled from the model.


def reconstructed_frames(task: Task, num_frames: int, context: StepContext) -> tuple[int, ...]:
    """The frames that the task measures in a training step; all of them in validation."""
    if not context.training:
        return tuple(range(num_frames))
    # The generator is seeded with this word: another one would change the draws of old trainings.
    return task.draw_frames(num_frames, context.generator("judged"))


@torch.no_grad()
def sample_groups(
    model: AutoGaze,
    video: Float[Tensor, "B T 3 S S"],
    indices: tuple[int, ...],
    group_size: int,
    context: StepContext,
) -> GazeRows:
    """Sample `group_size` gazes at every clip, all of them decoded together.

    Args:
        video: normalised.
        indices: of the clips in the whole batch; samples follow from them, not from how the
            batch is divided.

    Returns:
        Group-major rows: row = repetition * B + clip.
    """
    caps = group_caps(model, video, indices, context)  # (B, T)
    seeds = tuple(context.seed_of("gaze", i, g) for g in range(group_size) for i in indices)
    return model.generate(
        video,
        caps=caps.repeat(group_size, 1),
        sampling=Sampling(context.temperature, row_seeds=seeds),
        repetitions=group_size,
    )


@torch.no_grad()
def group_caps(
    model: AutoGaze,
    video: Float[Tensor, "B T 3 S S"],
    indices: tuple[int, ...],
    context: StepContext,
) -> Int[Tensor, "B T"]:
    """Patches that every row of a clip's group takes in each frame."""
    T, V = video.shape[1], model.pyramid.num_patches
    drawn = [group_settings(model.config, T, context.generator("length", i)) for i in indices]
    caps = torch.tensor([frame_caps(each.ratio, T, V) for each in drawn])
    thresholds = [each.threshold for each in drawn if each.threshold is not None]
    if not thresholds:
        return caps
    seeds = tuple(context.seed_of("length gaze", index) for index in indices)
    measured = model.generate(
        video,
        caps=caps,
        threshold=torch.tensor(thresholds),
        sampling=Sampling(context.temperature, row_seeds=seeds),
    )
    return measured.to_gaze().lengths


def group_settings(
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
    rows: GazeRows, reconstructed: tuple[int, ...], losses: Float[Tensor, "R F"]
) -> tuple[Float[Tensor, "R slots"], Bool[Tensor, "R slots"]]:
    """Losses of the reconstructed frames at the slots of their last gazes, and where these are."""
    values = losses.new_zeros(rows.kept.shape)
    known = torch.zeros_like(rows.kept)
    counts = rows.counts()
    row = torch.arange(len(rows.ids), device=rows.ids.device)
    for column, frame in enumerate(reconstructed):
        start = rows.ends(frame) - rows.slots[frame]
        slot = start + (counts[:, frame] - 1).clamp(min=0)
        values[row, slot] = losses[:, column]
        known[row, slot] = counts[:, frame] > 0
    return values, known


# Gazes that know nothing of the clip: for the dummy algorithm, and as controls in validation.


def random_gaze(
    pyramid: PatchPyramid, lengths: Int[Tensor, "B T"], generators: Sequence[torch.Generator]
) -> Gaze:
    """Random patches, `lengths` in every frame, from one generator per clip."""
    ids = [
        torch.randperm(pyramid.num_patches, generator=generator)[:count]
        for generator, counts in zip(generators, lengths.tolist(), strict=True)
        for count in counts
    ]
    return Gaze(pyramid, torch.cat(ids), lengths)


def drawn_gaze(
    config: AutoGazeConfig, indices: tuple[int, ...], num_frames: int, context: StepContext
) -> Gaze:
    """Random patches, as many as the config draws, for clips at these indices of a batch.

    Raises:
        TrainingError: lengths that only a selector could choose.
    """
    pyramid = config.pyramid
    generators = [context.generator("random gaze", index) for index in indices]
    lengths: list[list[int]] = []
    for generator in generators:
        drawn = draw_settings(config, num_frames, training=context.training, generator=generator)
        if drawn.ratio is None:
            raise TrainingError(
                "algorithm dummy gazes at random and cannot stop by loss: "
                "model.gazing_ratio_each_frame_config must be uniform or dirichlet, not self"
            )
        lengths.append(frame_caps(drawn.ratio, num_frames, pyramid.num_patches))
    return random_gaze(pyramid, torch.tensor(lengths), generators)


def shuffled(gaze: Gaze) -> Gaze:
    """The same gazes at other clips of the batch.

    Clips change places with those half a batch away: neighbours may be of one video.
    """
    half = len(gaze) // 2
    clips = list(gaze)
    return Gaze.cat_clips([*clips[half:], *clips[:half]])
