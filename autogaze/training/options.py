"""The options of training itself: the groups `trainer` and `algorithm`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autogaze.errors import TrainingError


@dataclass(frozen=True)
class TemperatureSchedule:
    """At what temperature gazes are sampled while training (GRPO), from `start` to `end`."""

    schedule: Literal["exponential", "linear", "constant"] = "exponential"
    start: float = 3.0
    end: float = 0.3

    def __post_init__(self) -> None:
        if min(self.start, self.end) <= 0:
            raise TrainingError(
                "trainer.temp_schedule_args: sampling needs temperatures above 0, "
                f"got start={self.start} and end={self.end}"
            )


@dataclass(frozen=True)
class TrainerOptions:
    """How training runs; `docs/training.md` says what every option means."""

    # What learns, and from where.
    train_gaze: bool = True
    train_task: bool = False
    detach_task: bool = True
    gaze_weights: str | None = None
    shared_positions: bool = False
    task_weights: str | None = None

    # Optimisation.
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 5e-4
    min_lr: float = 1e-5
    lr_schedule: Literal["linear", "linear_w_warmup", "constant"] = "linear"
    warmup_ratio: float = 0.05
    vision_lr_factor: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    momentum: float = 0.0
    max_grad_norm: float | None = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"

    # Length and size.
    n_epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    per_gpu_max_batch_size: int = 16
    num_workers: int = 2
    temp_schedule_args: TemperatureSchedule = field(default_factory=TemperatureSchedule)

    # What is written, and when.
    exp_name: str = "default"
    exp_folder: str = "exps"
    resume: bool | str = False
    save_nsteps: int = 500
    val_nsteps: int = 500
    val_clips: int = 64
    val_ratios: tuple[float, ...] = ()
    val_pictures: int = 4
    val_only: bool = False
    log_nsteps: int = 10
    tracker: str = "none"
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        positive = ("lr", "n_epochs", "batch_size", "per_gpu_max_batch_size", "val_clips")
        for name in positive:
            if getattr(self, name) <= 0:
                raise TrainingError(f"trainer.{name} must be above 0, got {getattr(self, name)}")
        counts = ("min_lr", "num_workers", "save_nsteps", "val_nsteps", "val_pictures")
        for name in (*counts, "vision_lr_factor", "weight_decay", "momentum"):
            if getattr(self, name) < 0:
                raise TrainingError(f"trainer.{name} must not be negative")
        if self.log_nsteps < 1 or (self.max_steps is not None and self.max_steps < 1):
            raise TrainingError("trainer.log_nsteps and trainer.max_steps must be at least 1")
        if not all(0 < ratio <= 1 for ratio in self.val_ratios):
            raise TrainingError(f"trainer.val_ratios must lie in (0, 1], got {self.val_ratios}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError(f"trainer.betas must be two numbers in [0, 1), got {self.betas}")
        if not 0 <= self.warmup_ratio < 1:
            raise TrainingError(f"trainer.warmup_ratio must lie in [0, 1), got {self.warmup_ratio}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise TrainingError("trainer.max_grad_norm must be above 0, or null for no clipping")
        if not self.exp_name or self.exp_name.startswith("/") or ".." in self.exp_name.split("/"):
            raise TrainingError(
                f"trainer.exp_name names a folder below exps/, got {self.exp_name!r}"
            )
        if not (self.train_gaze or self.train_task or self.val_only):
            raise TrainingError(
                "nothing to train: set trainer.train_gaze or trainer.train_task, "
                "or trainer.val_only to measure"
            )
        if self.train_task and self.detach_task:
            raise TrainingError(
                "trainer.train_task needs gradients through the task: set trainer.detach_task=False"
            )

    def slice_of(self, num_processes: int) -> int:
        """Clips of every batch that one process looks at.

        Raises:
            TrainingError: the batch cannot be divided.
        """
        if self.batch_size % num_processes:
            raise TrainingError(
                f"trainer.batch_size={self.batch_size} clips cannot be divided among "
                f"{num_processes} processes; use a multiple of {num_processes}"
            )
        return self.batch_size // num_processes

    def num_steps(self, num_clips: int) -> int:
        """Steps of the whole training, over a dataset of so many clips."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, -(-int(self.n_epochs * num_clips) // self.batch_size))


@dataclass(frozen=True)
class AlgorithmOptions:
    """How a selector learns.

    Args:
        name: one of `autogaze.training.recipes.RECIPES`.
        group_size: gazes at every clip, G (GRPO).
        discount_factor: of credit, a gaze (GRPO), in (0, 1].
        optimize_task_loss_prediction: teach the model to predict the task's loss, too.
        own_gazes: share of clips (NTP) whose gazes are not the labels but the model's own, of
            the labels' lengths, in [0, 1]. Targets then say, at each of them, what the canvas
            search would have taken there: how to go on from its own mistakes.
        own_softness: of these targets; see `autogaze.labelling.canvas.CanvasSearcher`.
        hint_weight: of what vision tokens are asked for besides (`autogaze.training.hints`).
        scale_alpha: concentration of the shares that the scales have of a clip's random
            gazes (dummy), above 0; null draws all patches alike, nearly all of them fine.
    """

    name: str = "ntp"
    group_size: int = 1
    discount_factor: float = 1.0
    optimize_task_loss_prediction: bool = True
    own_gazes: float = 0.0
    own_softness: float = 0.1
    hint_weight: float = 0.0
    scale_alpha: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.own_gazes <= 1:
            raise TrainingError(f"algorithm.own_gazes must lie in [0, 1], got {self.own_gazes}")
        if not self.own_softness > 0:
            raise TrainingError(f"algorithm.own_softness must be above 0, got {self.own_softness}")
        if not self.hint_weight >= 0:
            raise TrainingError(f"algorithm.hint_weight must be at least 0, got {self.hint_weight}")
        if self.scale_alpha is not None and not self.scale_alpha > 0:
            raise TrainingError(f"algorithm.scale_alpha must be above 0, got {self.scale_alpha}")
        if self.group_size < 1:
            raise TrainingError(f"algorithm.group_size must be at least 1, got {self.group_size}")
        if not 0 < self.discount_factor <= 1:
            raise TrainingError(
                f"algorithm.discount_factor must lie in (0, 1], got {self.discount_factor}"
            )


@dataclass(frozen=True)
class TrainingOptions:
    """Everything a training is made from, group by group."""

    trainer: TrainerOptions
    algorithm: AlgorithmOptions
    dataset: Mapping[str, Any]
    model: Mapping[str, Any]
    task: Mapping[str, Any]
