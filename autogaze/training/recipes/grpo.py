"""GRPO: the selector gazes several times at every clip and learns which went better."""

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.grpo import grpo_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.errors import TrainingError
from autogaze.models.autogaze.processing import normalise
from autogaze.tasks.base import Task
from autogaze.training.lesson import GazeRows, Lesson
from autogaze.training.recipes.base import Material, Recipe
from autogaze.training.sampling import at_last_gazes, sample_groups


class GRPORecipe(Recipe):
    """Group-relative policy optimisation (`autogaze.algorithms.grpo`)."""

    name = "grpo"
    samples = True

    def teach(self, material: Material) -> Lesson:
        rgb = material.frames.float() / 255
        rows = sample_groups(
            material.model,
            normalise(rgb),
            material.batch.places,
            self.options.group_size,
            material.moment,
        )
        reward = self._reward(material.task, rgb, rows, material.judged)
        losses, known = at_last_gazes(rows, material.judged, -reward)
        return Lesson(material.frames, rows, material.judged, losses, known, reward)

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        if lesson.reward is None:
            raise TrainingError("GRPO learns from rewards, and this lesson has none")
        return grpo_loss(
            rollout,
            lesson.reward,
            [lesson.rows.ends(frame) for frame in lesson.judged],
            group_size=self.options.group_size,
            discount_factor=self.options.discount_factor,
            optimize_task_loss_prediction=self.options.optimize_task_loss_prediction,
        )

    def _reward(
        self,
        task: Task,
        rgb: Float[Tensor, "B T 3 S S"],
        rows: GazeRows,
        judged: tuple[int, ...],
    ) -> Float[Tensor, "R F"]:
        """Of every row; repetition by repetition, so that frames are held only once."""
        B = len(rgb)
        parts = [
            task(rgb, rows.gaze(slice(g * B, (g + 1) * B)), judged).reward
            for g in range(self.options.group_size)
        ]
        return torch.cat(parts)
