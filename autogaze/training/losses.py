"""From lessons to losses, with gradients."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import Rollout
from autogaze.errors import TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.algorithms import Recipe
from autogaze.training.auxiliary import carried_targets, hint_loss, hint_targets
from autogaze.training.loader import Moment, PlacedBatch
from autogaze.training.rollouts import Lesson


@dataclass(frozen=True)
class BatchCounts:
    """What the lessons of a whole batch hold together, all processes included."""

    rows: int
    gazes: int
    known: int

    @property
    def mean_gazes(self) -> float:
        """Gazes a row, for normalising."""
        return max(self.gazes, 1) / max(self.rows, 1)

    @property
    def mean_known(self) -> float:
        """Known losses a row, for normalising."""
        return max(self.known, 1) / max(self.rows, 1)


@dataclass(frozen=True)
class RowLosses:
    """What training minimises the mean of, for every row; None where nothing is learned.

    Attributes:
        gaze: of the algorithm.
        task: of the task itself.
        hints: of the hints (`autogaze.training.auxiliary`), times their weight.
    """

    gaze: Float[Tensor, " R"] | None
    task: Float[Tensor, " R"] | None
    hints: Float[Tensor, " R"] | None = None

    def total(self) -> Float[Tensor, ""]:
        """The sum over rows of all."""
        parts = (self.gaze, self.task, self.hints)
        return torch.stack([part.sum() for part in parts if part is not None]).sum()


class Learner:
    """A selector, the task it serves, and the algorithm between them.

    Args:
        train_gaze, train_task: which of the two learns.

    Raises:
        TrainingError: pyramids that differ, or nothing that could be learned.
    """

    def __init__(
        self,
        model: AutoGaze,
        task: Task,
        recipe: Recipe,
        device: torch.device,
        *,
        train_gaze: bool = True,
        train_task: bool = False,
    ) -> None:
        if model.pyramid != task.pyramid:
            raise TrainingError(
                f"model.scales make {model.pyramid}, task.scales make {task.pyramid}; "
                "they must be the same"
            )
        if train_gaze and not recipe.teaches:
            raise TrainingError(
                f"algorithm {recipe.name} teaches the selector nothing: set "
                "trainer.train_gaze=False"
            )
        if recipe.samples and model.config.inhibition_of_return is not None:
            raise TrainingError(
                f"algorithm {recipe.name} learns from how likely its gazes were, which "
                "model.inhibition_of_return changes behind its back: set it to null"
            )
        if train_task and not any(p.requires_grad for p in task.parameters()):
            raise TrainingError(f"the task ({task.metric}) has no weights that could be trained")
        model.to(device).train()  # type: ignore[arg-type]
        # Rows of a batch stop at lengths of their own, which costs launches on a GPU otherwise.
        model.static_shapes = device.type == "cuda"
        self.model, self.task, self.recipe = model, task.to(device), recipe
        self.device = device
        self.train_gaze, self.train_task = train_gaze, train_task

    @torch.no_grad()
    def lesson(self, batch: PlacedBatch, moment: Moment) -> Lesson | None:
        """What a micro-batch can teach; None where none of its clips could be read."""
        if not len(batch):
            return None
        return self.recipe.lesson(self.model, self.task, batch, moment, self.device)

    def losses(self, lesson: Lesson, counts: BatchCounts) -> RowLosses:
        """Losses of the lesson's rows, normalised by what the whole batch holds."""
        gaze, hints = self.gaze_losses(lesson, counts) if self.train_gaze else (None, None)
        task = self._task_losses(lesson) if self.train_task else None
        return RowLosses(gaze, task, hints)

    def gaze_losses(
        self, lesson: Lesson, counts: BatchCounts
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"] | None]:
        """What the algorithm minimises the mean of, for every row; and the weighted hints."""
        tokens = lesson.rows.see(self.model, lesson.video)
        scores = lesson.rows.score(self.model, tokens, lesson.targets)
        rollout = Rollout(
            scores.log_probs.float(),
            lesson.rows.is_padding,
            scores.predicted_losses.float(),
            lesson.losses,
            lesson.losses_known,
            counts.mean_gazes,
            counts.mean_known,
        )
        loss = self.recipe.loss(rollout, lesson)
        weight = self.recipe.options.hint_weight
        if not weight:
            return loss, None
        grid = math.isqrt(tokens.shape[2])
        targets = hint_targets(lesson.rgb, self.model.pyramid, grid)
        B = len(targets)
        targets = targets.repeat(lesson.num_rows // B, 1, 1, 1)
        # Repetition by repetition, so that pictures are held only once.
        parts = [lesson.rows.gaze(slice(r, r + B)) for r in range(0, lesson.num_rows, B)]
        carried = torch.cat([carried_targets(lesson.rgb, part, grid) for part in parts])
        seen = hint_loss(tokens, targets)
        said = hint_loss(scores.vision_states, targets, carried)
        return loss, weight * (seen + said)

    def _task_losses(self, lesson: Lesson) -> Float[Tensor, " R"]:
        rgb = lesson.rgb
        repeated = rgb.repeat(lesson.num_rows // len(rgb), 1, 1, 1, 1)
        return self.task(repeated, lesson.rows.gaze(), lesson.judged).loss
