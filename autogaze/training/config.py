"""Options of training: the groups `trainer` and `algorithm`, and how any group is read.

Every group of options is a dataclass. OmegaConf checks names and types against it, the
dataclass itself checks values. `docs/training.md` says what every option means.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from autogaze.checks import describe_value
from autogaze.errors import TrainingError

Options = TypeVar("Options")

MAX_NUMBER = 2**53
"""The largest whole number of any option: floats hold those up to it."""

MAX_DEPTH = 20
"""How deeply options may be nested: deeper ones exhaust the stack of OmegaConf."""


@dataclass(frozen=True)
class TemperatureSchedule:
    """Sampling temperature while training (GRPO), from `start` to `end`."""

    schedule: str = "exponential"
    start: float = 3.0
    end: float = 0.3

    def __post_init__(self) -> None:
        group = "trainer.temp_schedule_args"
        check_choice(f"{group}.schedule", self.schedule, ("constant", "exponential", "linear"))
        if not (0 < self.start < math.inf and 0 < self.end < math.inf):
            raise TrainingError(
                f"{group}: temperatures must be above 0, got start={self.start}, end={self.end}"
            )

    def at(self, step: int, num_steps: int) -> float:
        """The temperature of step `step` in [0, num_steps).

        exponential:  start * (end / start) ^ done
        linear:       start + (end - start) * done
        constant:     start
        """
        done = min(1.0, step / max(1, num_steps - 1))
        if self.schedule == "constant":
            return self.start
        if self.schedule == "linear":
            return self.start + (self.end - self.start) * done
        return self.start * math.exp(done * math.log(self.end / self.start))


_MOST = {
    "batch_size": 2**20,
    "per_gpu_max_batch_size": 2**20,
    "num_workers": 1024,
    "n_epochs": 1e6,
    "max_steps": 2**40,
    "val_clips": 2**40,
}
"""The largest values of options by which work or memory grows."""


@dataclass(frozen=True)
class TrainerOptions:
    """How training runs: the group `trainer`."""

    # What learns, and from which weights.
    train_gaze: bool = True
    train_task: bool = False
    detach_task: bool = True
    gaze_weights: str | None = None
    shared_positions: bool = False
    task_weights: str | None = None

    # Optimisation.
    optimizer: str = "adam"
    lr: float = 5e-4
    min_lr: float = 1e-5
    lr_schedule: str = "linear"
    warmup_ratio: float = 0.05
    vision_lr_factor: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    momentum: float = 0.0
    max_grad_norm: float | None = 1.0
    mixed_precision: str = "no"

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
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", ("adam", "adamw", "sgd")),
            ("lr_schedule", ("constant", "linear", "linear_w_warmup")),
            ("mixed_precision", ("bf16", "fp16", "no")),
            ("device", ("auto", "cpu", "cuda")),
        ):
            check_choice(f"trainer.{name}", getattr(self, name), known)
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            listed = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(x) for x in listed if isinstance(x, float)):
                raise TrainingError(f"trainer.{one.name} must be finite, got {value}")
        for name, most in _MOST.items():
            if (getattr(self, name) or 0) > most:
                raise TrainingError(
                    f"trainer.{name} must be at most {most}, got {getattr(self, name)}"
                )
        positive = ("lr", "n_epochs", "batch_size", "per_gpu_max_batch_size", "val_clips")
        for name in (*positive, "log_nsteps", "max_steps", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise TrainingError(f"trainer.{name} must be above 0, got {value}")
        counts = ("min_lr", "num_workers", "save_nsteps", "val_nsteps", "val_pictures")
        for name in (*counts, "vision_lr_factor", "weight_decay", "momentum"):
            if getattr(self, name) < 0:
                raise TrainingError(f"trainer.{name} must be at least 0, got {getattr(self, name)}")
        if not all(0 < ratio <= 1 for ratio in self.val_ratios):
            raise TrainingError(f"trainer.val_ratios must lie in (0, 1], got {self.val_ratios}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError(f"trainer.betas must be two numbers in [0, 1), got {self.betas}")
        if not 0 <= self.warmup_ratio < 1:
            raise TrainingError(f"trainer.warmup_ratio must lie in [0, 1), got {self.warmup_ratio}")
        if not self.exp_name or self.exp_name.startswith("/") or ".." in self.exp_name.split("/"):
            raise TrainingError(
                f"trainer.exp_name must be a folder below exps/, got {self.exp_name!r}"
            )
        if not (self.train_gaze or self.train_task or self.val_only):
            raise TrainingError(
                "nothing to train: set trainer.train_gaze or trainer.train_task, "
                "or trainer.val_only to validate"
            )
        if self.train_task and self.detach_task:
            raise TrainingError(
                "trainer.train_task needs gradients through the task: set trainer.detach_task=False"
            )

    @property
    def folder(self) -> Path:
        """Where results are written."""
        return Path(self.exp_folder) / self.exp_name

    def clips_per_process(self, num_processes: int) -> int:
        """Clips of every batch that one process takes.

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
        """Steps of the whole training, on a dataset of so many clips."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, -(-int(self.n_epochs * num_clips) // self.batch_size))

    def learning_rate(self, step: int, num_steps: int) -> float:
        """Learning rate of step `step` in [0, num_steps).

        linear:           lr + (min_lr - lr) * step / (num_steps - 1)
        linear_w_warmup:  lr * (step + 1) / warmup, then linear over what is left
        constant:         lr
        """
        if self.lr_schedule == "constant":
            return self.lr
        warmup = 0
        if self.lr_schedule == "linear_w_warmup":
            warmup = max(1, round(self.warmup_ratio * num_steps))
            if step < warmup:
                return self.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, num_steps - warmup - 1)
        return self.lr + (self.min_lr - self.lr) * min(1.0, done)


@dataclass(frozen=True)
class AlgorithmOptions:
    """How a selector learns: the group `algorithm`.

    Args:
        name: one of `autogaze.training.algorithms.ALGORITHMS`.
        group_size: rollouts per clip, G (GRPO).
        discount_factor: of credit, per gaze (GRPO), in (0, 1].
        policy: whose log-probabilities GRPO takes: of the policy that `sampled` the gazes, or those
            `as_released`, at temperature 1 with nothing masked.
        optimize_task_loss_prediction: add the loss-prediction term.
        on_policy: share of the clips in [0, 1] that NTP trains on the model's own gazes in place
            of the labelled ones, with targets from the canvas search at every step (DAgger).
        on_policy_softness: of these targets; see `autogaze.labelling.search.CanvasSearcher`.
        auxiliary_weight: of the auxiliary loss of vision tokens (`autogaze.training.auxiliary`).
    """

    name: str = "ntp"
    group_size: int = 1
    discount_factor: float = 1.0
    policy: str = "sampled"
    optimize_task_loss_prediction: bool = True
    on_policy: float = 0.0
    on_policy_softness: float = 0.1
    auxiliary_weight: float = 0.0

    def __post_init__(self) -> None:
        check_choice("algorithm.policy", self.policy, ("as_released", "sampled"))
        for name, wanted, fits in (
            ("on_policy", "lie in [0, 1]", 0 <= self.on_policy <= 1),
            ("on_policy_softness", "be above 0", self.on_policy_softness > 0),
            ("auxiliary_weight", "be at least 0", self.auxiliary_weight >= 0),
            ("group_size", "be at least 1", self.group_size >= 1),
            ("discount_factor", "lie in (0, 1]", 0 < self.discount_factor <= 1),
        ):
            if not fits:
                raise TrainingError(f"algorithm.{name} must {wanted}, got {getattr(self, name)}")


# Reading a group of options, as configuration files and the command line give it.


def read(kind: type[Options], values: Any, group: str) -> Options:
    """The options of a group as a dataclass.

    Args:
        kind: a dataclass; fields that are dataclasses themselves are groups within the group.
        values: by name; missing ones keep their defaults.
        group: path of the group in messages: `trainer` for `trainer.lr`.

    Raises:
        TrainingError: an option that does not exist, or a value of another type.
    """
    check_group(values, group)
    check_depth(values, group)
    plain, read_groups = dict(values), {}
    for name, hint in get_type_hints(kind).items():
        inner: Any = next(filter(dataclasses.is_dataclass, (hint, *get_args(hint))), None)
        if inner is not None and plain.get(name) is not None:
            read_groups[name] = read(inner, plain.pop(name), f"{group}.{name}")
    # Here, so that a step of training can be had without it, as `make gpu-check` does.
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    try:
        merged: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(kind), plain))
        checked = {name: merged[name] for name in plain}
    except ConfigKeyError as error:
        names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
        raise TrainingError(unknown_option(group, str(error.key), names)) from error
    except OmegaConfBaseException as error:
        cause = str(error).splitlines()[0]
        raise TrainingError(f"{group}.{error.full_key or error.key}: {cause}") from error
    for name, value in checked.items():
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise TrainingError(f"{group}.{name} must be at most {MAX_NUMBER}, got {value}")
    lists = {name: tuple(value) for name, value in checked.items() if isinstance(value, list)}
    return kind(**(checked | lists | read_groups))


def check_group(values: Any, group: str) -> None:
    """Raise TrainingError unless this is a group of options."""
    if not isinstance(values, Mapping):
        raise TrainingError(f"{group} must be a group of options, got {describe_value(values)}")


def check_depth(values: Any, group: str) -> None:
    """Raise TrainingError where values are nested deeper than `MAX_DEPTH`."""
    level = [values]
    for _ in range(MAX_DEPTH):
        groups = (one.values() if isinstance(one, Mapping) else one for one in level)
        level = [x for group in groups for x in group if isinstance(x, Mapping | list | tuple)]
    if level:
        raise TrainingError(f"{group}: options are nested deeper than {MAX_DEPTH} groups")


def choose(known: Mapping[str, Any], name: Any, option: str) -> Any:
    """The entry of a name; TrainingError, with the known names, where there is none."""
    check_choice(option, name, known)
    return known[name]


def check_choice(option: str, value: Any, known: Iterable[str]) -> None:
    """Raise TrainingError unless a value is one of those known."""
    known = list(known)
    if value not in known:  # a list: the value may be one that no set can hold
        raise TrainingError(unknown(f"{option} {describe_value(value)}", str(value)[:80], known))


def unknown_option(group: str, name: str, known: Iterable[str]) -> str:
    """The message for an option that a group does not have."""
    return unknown(f"option {group}.{name}", name, known, f"{group}.")


def unknown(what: str, name: str, known: Iterable[str], group: str = "") -> str:
    """The message for an unknown name, with the known ones and the closest of them."""
    close = difflib.get_close_matches(name, known := sorted(known), 1)
    hint = f" (did you mean {group}{close[0]}?)" if close else ""
    return f"unknown {what}{hint}: known are {', '.join(known)}"


def flattened(options: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options, each with its whole path: `trainer.lr`."""
    if not (isinstance(options, Mapping) and options):
        yield path, options
        return
    for name, value in options.items():
        yield from flattened(value, f"{path}.{name}" if path else str(name))
