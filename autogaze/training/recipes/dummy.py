"""Dummy: random gazes, for training a judge that shall know gazes of all kinds."""

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.dummy import dummy_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.settings import draw_settings
from autogaze.selectors.base import frame_caps
from autogaze.training.controls import random_gaze
from autogaze.training.lesson import GazeRows, Lesson
from autogaze.training.moment import Moment
from autogaze.training.recipes.base import Material, Recipe


class DummyRecipe(Recipe):
    """As many random patches as the model's config would let the model take."""

    name = "dummy"
    teaches = False

    def teach(self, material: Material) -> Lesson:
        gaze = drawn_gaze(
            material.model.config,
            material.batch.places,
            material.num_frames,
            material.moment,
            scale_alpha=self.options.scale_alpha,
        )
        rows = GazeRows.of_gaze(gaze.to(material.frames.device))
        return Lesson(material.frames, rows, material.judged)

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        return dummy_loss(rollout)


def drawn_gaze(
    config: AutoGazeConfig,
    places: tuple[int, ...],
    num_frames: int,
    moment: Moment,
    *,
    scale_alpha: float | None = None,
) -> Gaze:
    """Random patches, as many as the config draws, for clips at these places of a batch.

    Args:
        scale_alpha: see `AlgorithmOptions`.

    Raises:
        TrainingError: lengths that only a selector could choose.
    """
    pyramid = config.pyramid
    generators = [moment.generator("random gaze", place) for place in places]
    lengths: list[list[int]] = []
    for generator in generators:
        drawn = draw_settings(config, num_frames, training=moment.training, generator=generator)
        if drawn.ratio is None:
            raise TrainingError(
                "algorithm dummy gazes at random and cannot stop by loss: "
                "model.gazing_ratio_each_frame_config must be uniform or dirichlet, not self"
            )
        lengths.append(frame_caps(drawn.ratio, num_frames, pyramid.num_patches))
    weights = None
    if scale_alpha is not None:
        weights = torch.stack(
            [scale_weights(pyramid, scale_alpha, generator) for generator in generators]
        )
    return random_gaze(pyramid, torch.tensor(lengths), generators, weights)


def scale_weights(
    pyramid: PatchPyramid, alpha: float, generator: torch.Generator
) -> Float[Tensor, " V"]:
    """How likely every patch is, where the scales' shares are drawn from Dirichlet(alpha).

    A selector begins with the few coarse patches; evenly drawn ones are nearly all fine.
    A judge that is to know both must have seen both.
    """
    alphas = torch.full((len(pyramid.scales),), alpha)
    shares = torch._standard_gamma(alphas, generator=generator)  # Dirichlet, but for the sum
    cells = torch.tensor(pyramid.cells)
    return (shares / shares.sum() / cells)[pyramid.levels].clamp(min=1e-6)
