"""Objective: what training minimises, from rollouts to differentiable losses."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import Rollout
from autogaze.errors import TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.algorithms import Algorithm
from autogaze.training.auxiliary import auxiliary_loss
from autogaze.training.loader import IndexedBatch, StepContext
from autogaze.training.rollouts import RolloutBatch


@dataclass(frozen=True)
class BatchCounts:
    """Totals of a whole batch over micro-batches and processes, which losses are normalised by."""

    rows: int
    gazes: int
    known: int

    @property
    def mean_gazes(self) -> float:
        """Gazes per row."""
        return max(self.gazes, 1) / max(self.rows, 1)

    @property
    def mean_known(self) -> float:
        """Known losses per row."""
        return max(self.known, 1) / max(self.rows, 1)


@dataclass(frozen=True)
class RowLosses:
    """Losses of every row; training minimises the mean of their sum. None: not trained.

    Attributes:
        gaze: of the algorithm.
        task: of the task itself.
        auxiliary: of vision tokens (`autogaze.training.auxiliary`), weighted.
    """

    gaze: Float[Tensor, " R"] | None
    task: Float[Tensor, " R"] | None
    auxiliary: Float[Tensor, " R"] | None = None

    def total(self) -> Float[Tensor, ""]:
        """Sum over rows and parts."""
        parts = (self.gaze, self.task, self.auxiliary)
        return torch.stack([part.sum() for part in parts if part is not None]).sum()


class Objective:
    """A selector, a task, and the algorithm that trains one for the other.

    Args:
        train_gaze, train_task: which of the two is trained.

    Raises:
        TrainingError: pyramids that differ, or nothing that could be trained.
    """

    def __init__(
        self,
        model: AutoGaze,
        task: Task,
        algorithm: Algorithm,
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
        if train_gaze and not algorithm.trains_selector:
            raise TrainingError(
                f"algorithm {algorithm.name} does not train the selector: set "
                "trainer.train_gaze=False"
            )
        if algorithm.samples and model.config.inhibition_of_return is not None:
            raise TrainingError(
                f"algorithm {algorithm.name} learns from the probabilities of its gazes, which "
                f"model.inhibition_of_return={model.config.inhibition_of_return} changes while "
                "sampling: set it to null"
            )
        if train_task and not any(p.requires_grad for p in task.parameters()):
            raise TrainingError(f"the task ({task.metric}) has no weights that could be trained")
        model.to(device).train()  # type: ignore[arg-type]
        # Rows of a batch stop at lengths of their own, which costs launches on a GPU otherwise.
        model.static_shapes = device.type == "cuda"
        self.model, self.task, self.algorithm = model, task.to(device), algorithm
        self.device = device
        self.train_gaze, self.train_task = train_gaze, train_task

    @torch.no_grad()
    def rollouts(self, batch: IndexedBatch, context: StepContext) -> RolloutBatch | None:
        """Rollouts of a micro-batch; None where none of its clips could be read."""
        if not len(batch):
            return None
        frames = batch.clips.frames.to(self.device, non_blocking=True)
        reconstructed = tuple(range(T := frames.shape[1]))  # all of them in validation
        if context.training:
            reconstructed = self.task.draw_frames(T, context.generator("judged"))
        return self.algorithm.rollouts(self.model, self.task, batch, frames, reconstructed, context)

    def losses(self, batch: RolloutBatch, counts: BatchCounts) -> RowLosses:
        """Losses of the rollouts' rows, normalised by the totals of the whole batch."""
        gaze, auxiliary = self.gaze_losses(batch, counts) if self.train_gaze else (None, None)
        task = self._task_losses(batch) if self.train_task else None
        return RowLosses(gaze, task, auxiliary)

    def gaze_losses(
        self, batch: RolloutBatch, counts: BatchCounts
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"] | None]:
        """The algorithm's loss of every row, and the weighted auxiliary loss."""
        tokens = batch.rows.vision_tokens(self.model, batch.video)
        scores = batch.rows.score(self.model, tokens, batch.targets)
        rollout = Rollout(
            scores.log_probs.float(),
            batch.rows.is_padding,
            scores.predicted_losses.float(),
            batch.losses,
            batch.losses_known,
            counts.mean_gazes,
            counts.mean_known,
        )
        loss = self.algorithm.loss(rollout, batch)
        weight = self.algorithm.options.auxiliary_weight
        if not weight:
            return loss, None
        return loss, weight * auxiliary_loss(batch, tokens, scores.vision_states)

    def _task_losses(self, batch: RolloutBatch) -> Float[Tensor, " R"]:
        rgb = batch.rgb
        repeated = rgb.repeat(batch.num_rows // len(rgb), 1, 1, 1, 1)
        return self.task(repeated, batch.rows.gaze(), batch.reconstructed).loss
