"""Other names of options: those of the published package, and ours until release 0.1.

`with_our_names` rewrites a configuration that uses any of them; nothing behind it knows them.
The command line does the same in two steps: `for_hydra` lets Hydra accept options that no
configuration file has, and the composed configuration is rewritten as any other.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autogaze.errors import TrainingError, renaming
from autogaze.training.config import check_group

GROUPS = ("algorithm", "dataset", "model", "task", "trainer")
"""The groups of options of a training."""

log = logging.getLogger("autogaze.training")

Convert = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _schedule(mode: Any) -> Any:
    return "exponential" if mode == "exp" else mode


def _tracker(use_wandb: Any) -> str:
    return "wandb" if use_wandb else "none"


RENAMED: dict[str, tuple[str, Convert]] = {
    "trainer.logdir": ("trainer.exp_folder", _same),
    "trainer.use_wandb": ("trainer.tracker", _tracker),
    "trainer.temp_schedule_args.mode": ("trainer.temp_schedule_args.schedule", _schedule),
    "trainer.temp_schedule_args.exp.temp_start": ("trainer.temp_schedule_args.start", _same),
    "trainer.temp_schedule_args.exp.temp_end": ("trainer.temp_schedule_args.end", _same),
    "dataset.frame_sample_rate": ("dataset.stride", _same),
}
"""The published package's options: our name of each, and how its value is converted."""

FORMER = {
    "algorithm.own_gazes": "algorithm.on_policy",
    "algorithm.own_softness": "algorithm.on_policy_softness",
    "algorithm.hint_weight": "algorithm.auxiliary_weight",
    "dataset.clips_a_picture": "dataset.clips_per_picture",
}
"""Our own names until release 0.1; they are accepted for one release more, with a warning. Those of
a dataset are options of a mixture's parts as well."""

IGNORED = {
    "algorithm.scale_alpha": "it was removed",
    "dataset.video_ext": "videos of all known endings are read",
    "model.preprocessing": "frames are normalised as AutoGazeImageProcessor does by default",
    "task.attn_mode": "the fastest attention that runs is chosen",
}
"""Options that are dropped with a warning, and why."""

ALWAYS = tuple(
    f"task.recon_model_config.{name}" for name in ("scale_embed", "time_embed", "causal")
)
"""Properties that every VideoMAE here has: accepted where they are true."""

MERGED = (
    *("trainer.truncate_grads", "trainer.grad_norm", "dataset.train_data_aug"),
    *(f"task.recon_model_config.{term}_loss_config" for term in ("l1", "dinov2_reg", "siglip2")),
)
"""Published options that several lines of ours are made of (see the functions below)."""

TARGETS: dict[str, dict[str, str | None]] = {
    "algorithm": {"NTP": "ntp", "GRPO": "grpo", "Dummy": "dummy"},
    "dataset": {"VideoFolder": "video_folder"},
    "task": {
        "VideoMAEReconstruction": "video_mae_reconstruction",
        "SiglipVideoFeatureReconstruction": "siglip_video_feature_reconstruction",
    },
    "trainer": {"Trainer": None},
    "model": {"AutoGaze": None},
}
"""Classes below `autogaze` that published files name as a group's `_target_`: our `name`."""

OTHER_NAMES = (*RENAMED, *FORMER, *IGNORED, *ALWAYS, *MERGED)


def for_hydra(words: Sequence[str]) -> list[str]:
    """The words of a command line; options that only `with_our_names` knows are added by `++`."""
    found = []
    for word in words:
        name = word.partition("=")[0].lstrip("+")
        name = re.sub(r"^dataset\.parts\.[^.]+\.", "dataset.", name)
        if "=" in word and any(f"{name}.".startswith(f"{other}.") for other in OTHER_NAMES):
            word = "++" + word.lstrip("+")
        found.append(word)
    return found


def with_our_names(config: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """The same groups of options under our names.

    Where both names of an option are given, the other one wins: ours may be a file's default.

    Raises:
        TrainingError: a published option whose value has no counterpart here.
    """
    groups = _copied(config)
    for group, known in TARGETS.items():
        _name_targets(groups.get(group), known)
    # Options of tasks and datasets from outside are theirs, whatever their names.
    own = {name: groups[name] for name in ("task", "dataset") if _is_outside(groups.get(name))}
    groups |= {name: {} for name in own}
    if "trainer" in groups:
        _convert_trainer(groups["trainer"], warn)
    if "dataset" in groups:
        _convert_augmentation(groups["dataset"])
    if "task" in groups:
        _convert_loss_networks(groups["task"])
    for option, why in IGNORED.items():
        if _pop(groups, option, missing := object()) is not missing and warn:
            log.warning("option %s has no effect: %s", option, why)
    for option in ALWAYS:
        if (value := _pop(groups, option)) not in (None, True):
            raise TrainingError(f"{option} must be true, got {value!r}: no VideoMAE is without")
    for old, new in FORMER.items():
        for holder in (groups, *_parts(groups.get("dataset"))):
            if (value := _pop(holder, old)) is not None:
                _set(holder, new, value)
                if warn:
                    log.warning("option %s", renaming(old, new))
    for published, (ours, convert) in RENAMED.items():
        if (value := _pop(groups, published)) is not None:
            _set(groups, ours, convert(value))
    return groups | own


def _convert_trainer(trainer: Any, warn: bool) -> None:
    """`truncate_grads` and `grad_norm` as `max_grad_norm`; `resume=auto` as true; the folder that
    `checkpoint_latest_task.pt` is here.
    """
    if not isinstance(trainer, dict):
        return
    truncates, norm = trainer.pop("truncate_grads", None), trainer.pop("grad_norm", None)
    if truncates is not None:
        trainer["max_grad_norm"] = (1.0 if norm is None else norm) if truncates else None
    elif norm is not None and warn:
        log.warning("option trainer.grad_norm has no effect without trainer.truncate_grads")
    if trainer.get("resume") == "auto":
        trainer["resume"] = True
    weights = Path(str(trainer.get("task_weights") or ""))
    if weights.suffix == ".pt" and not weights.exists() and weights.with_suffix("").is_dir():
        trainer["task_weights"] = str(weights.with_suffix(""))
    if "exp_name" in trainer and trainer["exp_name"] is None:
        del trainer["exp_name"]


def _convert_augmentation(dataset: Any) -> None:
    """`train_data_aug` as `augmentation`: a resized crop alone, or none."""
    if not isinstance(dataset, dict) or "train_data_aug" not in dataset:
        return
    given = dataset.pop("train_data_aug")
    if given is not None:
        check_group(given, "dataset.train_data_aug")
    kind = (given or {}).get("aug_type")
    if kind in (None, ""):
        return
    if kind != "random_resized_crop":
        raise TrainingError(
            f"dataset.train_data_aug.aug_type {kind!r}: known is random_resized_crop; others are "
            "options of dataset.augmentation"
        )
    none = {"min_crop": 1.0, "flip": False, "reverse": False, "brightness": 0.0, "contrast": 0.0}
    crop = dict((given or {}).get("random_resized_crop") or {})
    dataset["augmentation"] = {**none, "resized_crop": crop}


def _convert_loss_networks(task: Any) -> None:
    """`siglip2_loss_config.model` and the like as `loss_networks.siglip2`."""
    config = task.get("recon_model_config") if isinstance(task, dict) else None
    if not isinstance(config, dict):
        return
    for name in [name for name in config if name.endswith("_loss_config")]:
        given, path = config.pop(name), f"task.recon_model_config.{name}"
        if given is not None:
            check_group(given, path)
        for option, value in (given or {}).items():
            if option != "model":
                raise TrainingError(f"unknown option {path}.{option}: known is model")
            if value is not None:
                networks = config["loss_networks"] = dict(config.get("loss_networks") or {})
                networks[name.removesuffix("_loss_config")] = value


def _name_targets(options: Any, known: Mapping[str, str | None]) -> None:
    """The `name` of a class of the published package in place of its `_target_`."""
    target = options.get("_target_") if isinstance(options, dict) else None
    if not isinstance(target, str) or not target.startswith("autogaze."):
        return
    kind = target.rpartition(".")[2]
    if kind in known:
        del options["_target_"]
        if (name := known[kind]) is not None:
            options["name"] = name


def _parts(dataset: Any) -> list[dict[str, Any]]:
    """The parts of a mixture, each as the group `dataset` that it could be alone."""
    parts = dataset.get("parts") if isinstance(dataset, dict) else None
    options = parts.values() if isinstance(parts, dict) else ()
    return [{"dataset": part} for part in options if not _is_outside(part)]


def _is_outside(options: Any) -> bool:
    return isinstance(options, dict) and "_target_" in options


def _copied(value: Any) -> Any:
    """Nested options as dicts of their own."""
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _pop(groups: dict[str, Any], path: str, default: Any = None) -> Any:
    """Remove an option by its path, and the groups that are empty without it."""
    *parents, name = path.split(".")
    trail, inner = [], groups
    for parent in parents:
        trail.append((inner, parent))
        inner = inner.get(parent) if isinstance(inner.get(parent), dict) else {}  # type: ignore[assignment]
    if name not in inner:
        return default
    value = inner.pop(name)
    for outer, parent in reversed(trail[1:]):
        if not outer[parent]:
            del outer[parent]
    return value


def _set(groups: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if not isinstance(groups.get(parent), dict):
            groups[parent] = {}
        groups = groups[parent]
    groups[name] = value
