"""Dummy: random gazes, for training a judge that shall know gazes of all kinds."""

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.dummy import dummy_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.settings import draw_settings
from autogaze.selectors.base import frame_caps
from autogaze.tasks.base import Task
from autogaze.training.lesson import GazeRows, Lesson
from autogaze.training.loader import PlacedBatch
from autogaze.training.moment import Moment
from autogaze.training.recipes.base import Recipe, judged_frames


class DummyRecipe(Recipe):
    """As many random patches as the model's config would let the model take."""

    name = "dummy"
    teaches = False

    def lesson(
        self,
        model: AutoGaze,
        task: Task,
        batch: PlacedBatch,
        moment: Moment,
        device: torch.device,
    ) -> Lesson:
        frames = batch.clips.frames.to(device, non_blocking=True)
        gaze = random_gaze(model.config, batch.places, frames.shape[1], moment)
        rows = GazeRows.of_gaze(gaze.to(device))
        return Lesson(frames, rows, judged_frames(task, frames.shape[1], moment))

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        return dummy_loss(rollout)


def random_gaze(
    config: AutoGazeConfig, places: tuple[int, ...], num_frames: int, moment: Moment
) -> Gaze:
    """Random patches for clips at these places of a batch.

    Raises:
        TrainingError: lengths that only a selector could choose.
    """
    pyramid = config.pyramid
    ids: list[Tensor] = []
    lengths: list[list[int]] = []
    for place in places:
        generator = moment.generator("random gaze", place)
        drawn = draw_settings(config, num_frames, training=moment.training, generator=generator)
        if drawn.ratio is None:
            raise TrainingError(
                "algorithm dummy gazes at random and cannot stop by loss: "
                "model.gazing_ratio_each_frame_config must be uniform or dirichlet, not self"
            )
        caps = frame_caps(drawn.ratio, num_frames, pyramid.num_patches)
        ids += [torch.randperm(pyramid.num_patches, generator=generator)[:cap] for cap in caps]
        lengths.append(caps)
    return Gaze(pyramid, torch.cat(ids), torch.tensor(lengths))
