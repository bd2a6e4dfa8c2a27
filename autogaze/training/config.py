"""The options that a training runs with, kept in its checkpoints.

So that going on from one can say what is different now, and knows which algorithm made it.
"""

import dataclasses
import difflib
import inspect
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from autogaze.errors import CheckpointError, TrainingError
from autogaze.models.autogaze.configuration import (
    AutoGazeConfig,
    ConnectorConfig,
    GazeDecoderConfig,
    GazeModelConfig,
    VisionModelConfig,
)

# From plain dicts, as configuration files give them, to typed frozen options.

Options = TypeVar("Options")

OTHER_WORDS = {
    "lr": ("learning_rate", "lr_rate"),
    "min_lr": ("min_learning_rate", "end_lr", "final_lr"),
    "lr_schedule": ("scheduler", "lr_scheduler", "lr_scheduler_type", "schedule"),
    "warmup_ratio": ("warmup", "warmup_steps"),
    "weight_decay": ("wd", "decay"),
    "max_grad_norm": ("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val"),
    "mixed_precision": ("precision", "dtype", "amp", "bf16", "fp16"),
    "n_epochs": ("epochs", "num_epochs", "max_epochs", "num_train_epochs"),
    "max_steps": ("steps", "n_steps", "num_steps", "max_iters", "iterations"),
    "batch_size": ("bs", "train_batch_size", "global_batch_size"),
    "per_gpu_max_batch_size": ("micro_batch_size", "per_device_train_batch_size"),
    "num_workers": ("workers", "dataloader_num_workers"),
    "exp_name": ("name", "run_name", "experiment"),
    "exp_folder": ("output_dir", "out_dir", "save_dir", "folder"),
    "resume": ("resume_from", "resume_from_checkpoint"),
    "save_nsteps": ("save_steps", "save_every", "save_interval"),
    "val_nsteps": ("eval_steps", "val_every", "val_interval"),
    "log_nsteps": ("logging_steps", "log_every", "log_interval"),
    "tracker": ("logger", "report_to", "log_with"),
    "val_only": ("eval_only", "validate_only"),
    "gaze_weights": ("weights", "checkpoint", "init_from"),
    "group_size": ("num_generations", "num_samples"),
    "discount_factor": ("gamma", "discount"),
    "root": ("path", "folder", "data_root", "data_dir", "roots"),
    "clip_len": ("num_frames", "frames", "clip_frames"),
    "gt_gazing_pos_paths": ("labels", "label_file", "gaze_labels"),
}
"""What options are called elsewhere."""


def read(kind: type[Options], values: Mapping[str, Any], group: str) -> Options:
    """Options of a dataclass from a dict.

    Args:
        kind: a frozen dataclass; its annotations say what is accepted.
        values: by name; what is missing keeps its default.
        group: what messages call it: `trainer` for `trainer.lr`.

    Raises:
        TrainingError: an option that does not exist, or a value of another kind.
    """
    hints = get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise TrainingError(unknown_option(group, name, fields))
        given[name] = _read_value(hints[name], value, f"{group}.{name}")
    return kind(**given)


def choose(known: Mapping[str, Any], name: object, option: str) -> Any:
    """The entry of a name.

    Raises:
        TrainingError: there is none; the known ones are listed.
    """
    if not isinstance(name, str) or name not in known:
        raise TrainingError(unknown(f"{option} {name!r}", str(name), known))
    return known[name]


def unknown(what: str, name: str, known: Iterable[str], group: str = "") -> str:
    """The message for a name that means nothing.

    Args:
        what: what it was to be, and the name.
        known: names that mean something.
        group: what stands before the name that is proposed: `trainer.`
    """
    known = sorted(known)
    close = [word for word in known if name in OTHER_WORDS.get(word, ())]
    close = close or difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean {group}{close[0]}?)" if close else ""
    return f"unknown {what}{hint}: known are {', '.join(known)}"


def unknown_option(group: str, name: str, known: Iterable[str]) -> str:
    """The message for an option that a group does not have."""
    return unknown(f"option {group}.{name}", name, known, f"{group}.")


def _read_value(hint: Any, value: Any, option: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(hint), value, option)
    if origin is Literal:
        choose({str(known): known for known in get_args(hint)}, value, option)
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(option, "a group of options", value)
        return read(hint, value, option)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise _wrong(option, "a list", value)
        return tuple(_read_value(get_args(hint)[0], item, option) for item in value)
    if hint is Any or origin in (dict, Mapping) or hint in (dict, Mapping):
        if hint is not Any and not isinstance(value, Mapping):
            raise _wrong(option, "a group of options", value)
        return value
    return _read_plain(hint, value, option)


def _read_union(choices: tuple[Any, ...], value: Any, option: str) -> Any:
    if value is None and type(None) in choices:
        return None
    *others, last = (choice for choice in choices if choice is not type(None))
    for choice in others:
        try:
            return _read_value(choice, value, option)
        except TrainingError:
            continue
    return _read_value(last, value, option)


def _read_plain(kind: type, value: Any, option: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML reads 5e-4 as text
        try:
            return float(value)
        except ValueError:
            raise _wrong(option, "a number", value) from None
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise _wrong(option, names.get(kind, kind.__name__), value)
    return value


def _wrong(option: str, wanted: str, value: Any) -> TrainingError:
    return TrainingError(f"{option} must be {wanted}, got {value!r}")


# The options of training itself: the groups `trainer` and `algorithm`.


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
        name: one of `autogaze.training.algorithms.RECIPES`.
        group_size: gazes at every clip, G (GRPO).
        discount_factor: of credit, a gaze (GRPO), in (0, 1].
        optimize_task_loss_prediction: teach the model to predict the task's loss, too.
        own_gazes: share of clips (NTP) whose gazes are not the labels but the model's own, of
            the labels' lengths, in [0, 1]. Targets then say, at each of them, what the canvas
            search would have taken there: how to go on from its own mistakes.
        own_softness: of these targets; see `autogaze.labelling.search.CanvasSearcher`.
        hint_weight: of what vision tokens are asked for besides (`autogaze.training.auxiliary`).
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


# What the `model` group can hold, part by part.

Known = Mapping[str, "Known | None"]
"""Names of options; those of a group with what is in it, any other with None."""


def check_model_options(options: Mapping[str, Any]) -> None:
    """Refuse options of the group `model` that mean nothing.

    Config files of checkpoints may hold names that mean nothing here; what a user writes
    may not, at any depth.

    Raises:
        TrainingError: an option that does not exist, or a value where a group must be.
    """
    _check(options, KNOWN, "model")


def _check(options: Mapping[str, Any], known: Known, group: str) -> None:
    for name, value in options.items():
        if name not in known:
            raise TrainingError(unknown_option(group, str(name), known))
        inner = known[name]
        if inner is None or value is None:
            continue
        if not isinstance(value, Mapping):
            raise TrainingError(f"{group}.{name} must be a group of options, got {value!r}")
        _check(value, inner, f"{group}.{name}")


def _plain(*names: str) -> dict[str, Known | None]:
    return dict.fromkeys(names)


def _arguments(kind: type) -> dict[str, Known | None]:
    """Of a configuration's class, but for what it takes and ignores."""
    taken = inspect.signature(kind).parameters.values()
    return _plain(*(one.name for one in taken if one.kind is not inspect.Parameter.VAR_KEYWORD))


_STRATEGIES = _plain("sample_strategy_during_training", "sample_strategy_during_inference")
_RATIO_ENDS = ("gazing_ratio_min", "gazing_ratio_max")
_LOSS_ENDS = ("task_loss_requirement_min", "task_loss_requirement_max")

KNOWN: Known = {
    **_arguments(AutoGazeConfig),
    "gazing_ratio_config": {
        **_STRATEGIES,
        "fixed": _plain("gazing_ratio"),
        "uniform": _plain(*_RATIO_ENDS),
        "exponential": _plain(*_RATIO_ENDS, "lambda"),
    },
    "gazing_ratio_each_frame_config": {
        **_STRATEGIES,
        "uniform": {},
        "dirichlet": _plain("alpha"),
        "self": {},
    },
    "task_loss_requirement_config": {
        **_STRATEGIES,
        "fixed": _plain("task_loss_requirement"),
        "uniform": _plain(*_LOSS_ENDS),
    },
    "gaze_model_config": {
        **_arguments(GazeModelConfig),
        "vision_model_config": _arguments(VisionModelConfig),
        "connector_config": _arguments(ConnectorConfig),
        "gaze_decoder_config": _arguments(GazeDecoderConfig),
    },
}
"""All of it."""

FILE = "options.json"

OF_THE_LAUNCH = {
    "trainer": (
        *("exp_name", "exp_folder", "resume", "val_only", "num_workers", "device", "tracker"),
        *("log_nsteps", "save_nsteps", "val_nsteps", "val_clips", "val_ratios", "val_pictures"),
        *("gaze_weights", "task_weights", "shared_positions"),  # a checkpoint's are taken
    )
}
"""Options that change nothing in a training that goes on, group by group."""


@dataclass(frozen=True)
class Settings:
    """What a training was set up with.

    Attributes:
        groups: options by group (`trainer`, `algorithm`, and where they are known `dataset`,
            `model` and `task`), as JSON has them.
    """

    groups: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        trainer: TrainerOptions,
        algorithm: AlgorithmOptions,
        config: Mapping[str, Any] | None = None,
    ) -> "Settings":
        """Those of a training; of the other groups, what its configuration says."""
        own = {"trainer": asdict(trainer), "algorithm": asdict(algorithm)}
        return cls(json.loads(json.dumps({**(config or {}), **own}, default=str)))

    @classmethod
    def load(cls, checkpoint: Path) -> "Settings | None":
        """What a checkpoint was made with; None where it does not say.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = checkpoint / FILE
        if not path.is_file():
            return None
        try:
            settings = cls(json.loads(path.read_text()))
            _ = settings.algorithm, settings.teaches
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"{path}: not the options of a training: {error!r}") from error
        return settings

    def save(self, checkpoint: Path) -> None:
        """Write them into a checkpoint's folder."""
        (checkpoint / FILE).write_text(json.dumps(self.groups, indent=2) + "\n")

    @property
    def algorithm(self) -> str:
        """Its name."""
        return str(self.groups["algorithm"]["name"])

    @property
    def teaches(self) -> bool:
        """Whether a selector learns."""
        return bool(self.groups["trainer"]["train_gaze"])

    def differences(self, earlier: "Settings") -> list[str]:
        """What is set otherwise than it was: `trainer.lr=0.1 (was 0.5)`."""
        found = []
        for group in self.groups.keys() & earlier.groups.keys():
            now, was = (dict(_flat(one.groups[group], group)) for one in (self, earlier))
            left_out = {f"{group}.{name}" for name in OF_THE_LAUNCH.get(group, ())}
            # These two always have all options: what is missing was unknown to a program then.
            complete = group in ("trainer", "algorithm")
            names = now.keys() & was.keys() if complete else now.keys() | was.keys()
            for name in names - left_out:
                if now.get(name) != was.get(name):
                    found.append(f"{name}={_said(now.get(name))} (was {_said(was.get(name))})")
        return sorted(found)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Options with their whole names."""
    if isinstance(value, Mapping) and value:
        for inner, part in value.items():
            yield from _flat(part, f"{name}.{inner}")
    else:
        yield name, value


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
