"""One training step: rollouts, their losses (`Objective`), gradients, optimizer (`TrainingStep`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.algorithms.grpo import has_no_spread, reward_spread
from autogaze.algorithms.rollout import Rollout, loss_prediction_loss
from autogaze.datasets.clip import ClipBatch, repeat_extra
from autogaze.errors import TrainingError
from autogaze.labelling.label import with_labels
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.scoring import score
from autogaze.tasks.base import Task
from autogaze.training.algorithms import Algorithm
from autogaze.training.auxiliary import auxiliary_loss
from autogaze.training.checkpoints import TrainingState
from autogaze.training.config import TrainerOptions
from autogaze.training.loader import StepContext, check_unreadable, report_unreadable
from autogaze.training.reporting import Stopwatch
from autogaze.training.rollouts import BatchCounts, RolloutBatch

if TYPE_CHECKING:
    from accelerate import Accelerator

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

    @property
    def trained(self) -> dict[str, nn.Module]:
        """What is trained: the selector, the task, or both, by name."""
        parts = {"selector": (self.model, self.train_gaze), "task": (self.task, self.train_task)}
        return {name: part for name, (part, is_trained) in parts.items() if is_trained}

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


MIN_LOSS_SCALE = 1.0
"""Of fp16: below it, gradients overflow for another reason than the loss scale."""


class TrainingStep:
    """Performs steps; only weights and the optimizer carry over from one to the next.

    Args:
        num_steps: of the whole training, for the schedules.
        max_unreadable: share of clips that may be unreadable.
    """

    def __init__(
        self,
        objective: Objective,
        accelerator: "Accelerator",
        options: TrainerOptions,
        num_steps: int,
        max_unreadable: float,
    ) -> None:
        self.objective, self.accelerator, self.options = objective, accelerator, options
        self.num_steps, self.max_unreadable = num_steps, max_unreadable
        groups = parameter_groups(objective.model, objective.task, options)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer: Any = accelerator.prepare(make_optimizer(groups, options))
        self.stopwatch = Stopwatch()

    def __call__(
        self, state: TrainingState, batches: Sequence[ClipBatch]
    ) -> tuple[TrainingState, dict[str, float]]:
        """Learn from a batch, given as micro-batches; returns what was measured.

        Raises:
            TrainingError: too many unreadable clips, or a loss or gradients that are not
                finite; the weights are then as they were.
        """
        options, number = self.options, state.step + 1
        lr = options.learning_rate(state.step, self.num_steps)
        sampling = options.temp_schedule_args.at(state.step, self.num_steps)
        context = StepContext(options.seed, state.step, sampling)
        # 1. Rollouts, without gradients: labels, or gazes sampled from the model and rewarded.
        with self.stopwatch.stage("gazing"):
            found = [self.objective.rollouts(batch, context) for batch in batches]
        rollouts = [batch for batch in found if batch is not None]
        # 2. Totals over all processes: losses are means over the whole batch.
        counts, state = self._count(rollouts, batches, state)
        metrics = {"lr": lr, "gazes": counts.gazes / max(1, counts.rows)}
        if rollouts:
            num_patches = rollouts[0].frames.shape[1] * rollouts[0].rows.pyramid.num_patches
            metrics["gazing_ratio"] = metrics["gazes"] / num_patches
        if self.objective.algorithm.samples:
            metrics["temperature"] = sampling
        if counts.rows:
            # 3. Gradients of the mean loss, micro-batch by micro-batch, then over processes.
            clear_gradients(self.parameters)
            with self.stopwatch.stage("forward and backward"):
                sums = self._backward(rollouts, counts)
                norm = self._clip()
                # All that is asked for is asked for at once: a GPU is waited for one time.
                *totals, norm = torch.cat([sums, norm.to(sums)[None]]).tolist()
            names = self.objective.loss_names + self.objective.metric_names
            measured = {n: total / counts.rows for n, total in zip(names, totals, strict=True)}
            for name, value in measured.items():
                if not math.isfinite(value):
                    raise self._diverged(number, f"{name} is {value}")
            # 4. The optimizer.
            self._update(lr, norm, number)
            metrics |= measured | ({"gradient_norm": norm} if math.isfinite(norm) else {})
        return replace(state, step=number), metrics

    def _count(
        self,
        rollouts: Sequence[RolloutBatch],
        batches: Sequence[ClipBatch],
        state: TrainingState,
    ) -> tuple[BatchCounts, TrainingState]:
        """Totals over all processes; fails where too many clips were unreadable."""
        unreadable = [clip for batch in batches for clip in batch.unreadable]
        report_unreadable(unreadable, self.options.folder)
        own = BatchCounts.of(rollouts)
        num_seen = sum(len(batch) for batch in batches) + len(unreadable)
        totals = [own.rows, own.gazes, own.known, num_seen, len(unreadable)]
        if self.accelerator.num_processes > 1:
            numbers = torch.tensor(totals, device=self.accelerator.device)
            summed: Any = self.accelerator.reduce(numbers, reduction="sum")
            totals = summed.tolist()
        *totals, num_seen, num_unreadable = totals
        seen, missing = state.seen + num_seen, state.unreadable + num_unreadable
        planned = self.num_steps * self.options.batch_size
        check_unreadable(missing, seen, planned, self.max_unreadable)
        return BatchCounts(*totals), replace(state, seen=seen, unreadable=missing)

    def _backward(
        self, rollouts: Sequence[RolloutBatch], counts: BatchCounts
    ) -> Float[Tensor, " names"]:
        """Gradients of the mean loss over all rows of all processes; returns the sums over rows."""
        objective = self.objective
        names = objective.loss_names + objective.metric_names
        sums = torch.zeros(len(names), device=objective.device)
        for batch in rollouts:
            with self.accelerator.autocast():
                values = objective.values(batch, counts)
                total = torch.stack([part.sum() for part in values.losses.values()]).sum()
                total = total / counts.rows
            self.accelerator.backward(total)
            parts = [*values.losses.values(), *values.metrics.values()]
            sums += torch.stack([part.detach().sum().float() for part in parts])
        sum_gradients(self.parameters, self.accelerator)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")  # type: ignore[assignment]
        return sums

    def _clip(self) -> Float[Tensor, ""]:
        """Clip the gradients; returns their norm before that.

        It is not finite where fp16 overflowed: its scaler then skips the step.
        """
        most = self.options.max_grad_norm or float("inf")
        norm: Tensor = self.accelerator.clip_grad_norm_(self.parameters, most)  # type: ignore[arg-type, assignment]
        return norm

    def _update(self, lr: float, norm: float, number: int) -> None:
        """One step of the optimizer, with gradients of this norm."""
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and (scaler is None or scaler.get_scale() < MIN_LOSS_SCALE):
            raise self._diverged(number, f"gradient norm is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()

    def check_weights(self, step: int) -> None:
        """Raise TrainingError where weights are no longer finite."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise self._diverged(step, "weights are not finite")

    def _diverged(self, number: int, what: str) -> TrainingError:
        options = self.options
        other = "" if options.mixed_precision == "no" else ", or trainer.mixed_precision=no"
        return TrainingError(
            f"training diverged at step {number}: {what}. The last checkpoint is untouched; try a "
            f"lower trainer.lr (now {options.lr:g}) or trainer.max_grad_norm (now "
            f"{options.max_grad_norm}){other}"
        )


# Parameters, their optimizer, and their gradients over processes.


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def parameter_groups(model: AutoGaze, task: Task, options: TrainerOptions) -> list[dict[str, Any]]:
    """Parameter groups of the optimizer; `factor` scales a group's learning rate."""
    groups: list[dict[str, Any]] = []
    if options.train_gaze:
        stem = trained_parameters(model.gazing_model.vision_model)
        in_stem = {id(parameter) for parameter in stem}
        rest = [p for p in trained_parameters(model) if id(p) not in in_stem]
        groups.append({"params": stem, "factor": options.vision_lr_factor})
        groups.append({"params": rest, "factor": 1.0})
    if options.train_task:
        groups.append({"params": trained_parameters(task), "factor": 1.0})
    return groups


def make_optimizer(
    groups: Sequence[dict[str, Any]], options: TrainerOptions
) -> torch.optim.Optimizer:
    """Adam, AdamW (decoupled weight decay) or SGD."""
    betas = (options.betas[0], options.betas[1])
    common: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if all(parameter.is_cuda for group in groups for parameter in group["params"]):
        common["fused"] = True  # few launches; on a CPU old trainings go on with the same bits
    if options.optimizer == "sgd":
        return torch.optim.SGD(list(groups), momentum=options.momentum, **common)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(list(groups), betas=betas, **common)


def clear_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zero all gradients.

    They are never None, so that an unused parameter is treated alike by one process and by many.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


def sum_gradients(parameters: Sequence[nn.Parameter], accelerator: "Accelerator") -> None:
    """Sum the gradients of all processes, in one message.

    Each process's gradients are of a sum over its own rows divided by the rows of all, so
    their sum is the gradient of the mean.
    """
    if accelerator.num_processes == 1 or not parameters:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    summed: Tensor = accelerator.reduce(flat, reduction="sum")  # type: ignore[assignment]
    parts = summed.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
