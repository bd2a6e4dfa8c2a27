"""Sampling groups of gazes from the model (GRPO).

The rows of a group must be of equal length, or the longest would win by its length. How
long they are is drawn for every clip by itself:

- `uniform` and `dirichlet`: from the model's config, as a cap a frame.
- `self`, and wherever the config asks for a loss threshold: one gaze is sampled that
  stops where the predicted loss is at most a threshold drawn for this clip; the number
  of patches it took in each frame are the caps of the clip's whole group.
"""

import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.picking import Picking
from autogaze.models.autogaze.settings import GazeSettings, draw_settings
from autogaze.selectors.base import frame_caps
from autogaze.training.lesson import GazeRows
from autogaze.training.moment import Moment


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
        picking=Picking(moment.temperature, row_seeds=seeds),
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
        picking=Picking(moment.temperature, row_seeds=seeds),
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
