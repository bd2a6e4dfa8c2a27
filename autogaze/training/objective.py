"""Training objective: differentiable losses of rollouts."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.grpo import has_no_spread, reward_spread
from autogaze.algorithms.rollout import Rollout, loss_prediction_loss
from autogaze.datasets.clip import ClipBatch, repeat_extra
from autogaze.errors import TrainingError
from autogaze.labelling.batches import with_labels
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.scoring import score
from autogaze.tasks.base import Task
from autogaze.training.algorithms import Algorithm
from autogaze.training.auxiliary import auxiliary_loss
from autogaze.training.loader import StepContext
from autogaze.training.rollouts import BatchCounts, RolloutBatch

REWARD_METRICS = ("reward", "reward_spread", "groups_without_spread")
"""What is measured of rewards: their mean, and how they differ within groups."""


@dataclass(frozen=True)
class RowValues:
    """Losses and metrics of R rows in a step, by name.

    Attributes:
        losses: training minimises the mean of their sum.
        metrics: without a graph; their means are logged.
    """

    losses: dict[str, Float[Tensor, " R"]]
    metrics: dict[str, Float[Tensor, " R"]] = field(default_factory=dict)


class Objective:
    """A selector, a task, and the algorithm that trains one for the other.

    Args:
        train_gaze, train_task: which of the two is trained.

    Attributes:
        loss_names: of the losses that are trained: `loss` of the algorithm, `task_loss` of the
            task itself, `auxiliary_loss` of vision tokens (`autogaze.training.auxiliary`).
        metric_names: of what else is measured; where gazes are sampled, `REWARD_METRICS` and the
            `entropy` of the distributions that they are drawn from; the `prediction_loss` that
            `loss` contains.

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
        trained = {
            "loss": train_gaze,
            "task_loss": train_task,
            "auxiliary_loss": train_gaze and algorithm.options.auxiliary_weight > 0,
        }
        self.loss_names = tuple(name for name, is_trained in trained.items() if is_trained)
        self.metric_names: tuple[str, ...] = REWARD_METRICS if algorithm.samples else ()
        if algorithm.samples and train_gaze:
            self.metric_names += ("entropy",)
        if train_gaze and algorithm.options.optimize_task_loss_prediction:
            self.metric_names += ("prediction_loss",)

    @torch.no_grad()
    def rollouts(self, batch: ClipBatch, context: StepContext) -> RolloutBatch | None:
        """Rollouts of a micro-batch; None where none of its clips could be read."""
        if not len(batch):
            return None
        batch = with_labels(batch.to(self.device))
        return self.algorithm.rollouts(self.model, self.task, batch, context)

    def values(self, batch: RolloutBatch, counts: BatchCounts) -> RowValues:
        """Losses and metrics of every row, by `loss_names` and `metric_names`.

        Args:
            counts: of the whole batch, which losses are normalised by.
        """
        gaze = self.gaze_values(batch, counts) if self.train_gaze else RowValues({})
        found = dict(gaze.losses)
        if self.train_task:
            times = batch.num_rows // len(batch.frames)
            repeated = batch.rgb.repeat(times, 1, 1, 1, 1)
            extra = repeat_extra(batch.extra, times)
            output = self.task(repeated, batch.rows.to_gaze(), batch.reconstructed, extra)
            found["task_loss"] = output.loss
        metrics = dict(gaze.metrics)
        if self.algorithm.samples:
            if batch.reward is None:
                raise TrainingError(
                    f"algorithm {self.algorithm.name} made rollouts without rewards"
                )
            G = batch.num_rows // len(batch.frames)
            metrics["reward"] = batch.reward.mean(1)
            metrics["reward_spread"] = reward_spread(batch.reward, G)
            metrics["groups_without_spread"] = has_no_spread(batch.reward, G)
        return RowValues(
            {name: found[name] for name in self.loss_names},
            {name: metrics[name] for name in self.metric_names},
        )

    def gaze_values(self, batch: RolloutBatch, counts: BatchCounts) -> RowValues:
        """The algorithm's `loss`, and the weighted `auxiliary_loss` where it has a weight."""
        rows, decoder = batch.rows, self.model.gazing_model.gaze_decoder
        tokens = self.model.gazing_model.tokens_of_bytes(batch.frames)  # once per clip
        tokens = tokens.repeat(batch.num_rows // len(tokens), 1, 1, 1)  # (R, T, tokens, C)
        scores = score(
            decoder,
            tokens,
            rows,
            batch.targets,
            temperature=batch.temperature,
            entropy=self.algorithm.samples,
            vision_states=self.algorithm.options.auxiliary_weight > 0,
        )
        rollout = Rollout(
            scores.log_probs.float(),
            ~rows.kept,
            scores.predicted_losses.float(),
            batch.losses,
            batch.losses_known,
            counts.mean_gazes,
            counts.mean_known,
        )
        losses = {"loss": self.algorithm.loss(rollout, batch)}
        if scores.vision_states is not None:
            auxiliary = auxiliary_loss(batch, tokens, scores.vision_states)
            losses["auxiliary_loss"] = self.algorithm.options.auxiliary_weight * auxiliary
        metrics = {}
        if scores.entropy is not None:  # its mean over all gazes
            entropy = scores.entropy.masked_fill(~rows.kept, 0.0)
            metrics["entropy"] = entropy.sum(1) / counts.mean_gazes
        if self.algorithm.options.optimize_task_loss_prediction and batch.losses is not None:
            metrics["prediction_loss"] = loss_prediction_loss(rollout).detach()
        return RowValues(losses, metrics)
