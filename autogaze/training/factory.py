"""Factory: makes a trainer from options, and refuses options that cannot work together."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PretrainedConfig

from autogaze.datasets.clip import NamedClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.mixture import MixedClips
from autogaze.errors import AutoGazeError, TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.limits import draw_settings
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.trainer import Trainer
from autogaze.training.algorithms import read_algorithm
from autogaze.training.auxiliary import share_positions
from autogaze.training.checkpoints import Checkpoints, load_gaze, load_task
from autogaze.training.config import (
    AlgorithmOptions,
    TrainerOptions,
    check_depth,
    check_group,
    read,
    unknown,
    unknown_option,
)
from autogaze.training.datasets import DatasetConfig
from autogaze.training.loader import StepContext, TrainingData
from autogaze.training.mixture import read_dataset
from autogaze.training.option_names import GROUPS, with_our_names
from autogaze.training.plugins import call, find
from autogaze.training.rollouts import drawn_gaze, group_settings
from autogaze.training.tasks import read_task
from autogaze.utils.seeding import seed_weights

AUTOGAZE = "autogaze"
"""Name of the model that comes with the package."""


def build_trainer(config: Mapping[str, Any]) -> Trainer:
    """The trainer that a configuration describes.

    Args:
        config: the groups `algorithm`, `dataset`, `model`, `task`, `trainer`.

    Raises:
        TrainingError, CheckpointError: what cannot work, with the options' names.
        MissingExtraError: the extra `train` is not installed.
    """
    for name in config:
        if name not in GROUPS:
            raise TrainingError(unknown(f"group of options {name!r}", name, GROUPS))
    config = with_our_names(config)
    groups = {name: _group(config, name) for name in GROUPS}
    options = read(TrainerOptions, groups["trainer"], "trainer")
    algorithm = read_algorithm(groups["algorithm"])
    algorithm_options = algorithm.options
    dataset, task_options = read_dataset(groups["dataset"]), read_task(groups["task"])
    uses_labels = algorithm.needs_labels and options.train_gaze and not options.val_only
    if uses_labels and not dataset.labelled():
        raise TrainingError(
            f"algorithm {algorithm.name} needs gaze labels: set dataset.gt_gazing_pos_paths.train "
            "to a file made by `autogaze label`, or dataset.greedy_labels={}"
        )
    seed_weights(options.seed)  # alike in all processes
    model = build_model(groups["model"])
    if model.config.max_num_frames < dataset.clip_len:
        model.config.max_num_frames = dataset.clip_len
    if not algorithm.trains_selector:
        validates = bool(options.val_only or options.val_nsteps)
        for training, wanted in ((True, not options.val_only), (False, validates)):
            if wanted:  # lengths must not depend on a selector
                context = StepContext(options.seed, 0, training=training)
                drawn_gaze(model.config, (0,), dataset.clip_len, context)
    try:
        task = task_options.build(model.pyramid)
    except AutoGazeError as error:
        if "task" in str(error):
            raise
        raise type(error)(f"task: {error}") from error
    dataset = dataset.with_task_transform(getattr(task, "transform", None))
    _check_task(task, dataset, algorithm_options)
    if options.shared_positions:
        share_positions(model, options.seed)
    if options.gaze_weights is not None:
        load_gaze(model, options.gaze_weights)
    if options.task_weights is not None:
        load_task(task, options.task_weights)
    val = None  # without a `val` split nothing is validated
    if options.val_only or (options.val_nsteps and dataset.has_split("val")):
        val = dataset.clips("val", model.pyramid, options.seed)
    train = val
    if train is None or not options.val_only:
        train = dataset.clips("train", model.pyramid, options.seed)
    data = TrainingData(train, val, dataset.max_unreadable)
    if uses_labels and algorithm_options.optimize_task_loss_prediction:
        _check_label_losses(data.train)
    random = algorithm.trains_selector and options.gaze_weights is None
    if options.val_only and random and not Checkpoints(options.folder).find(options.resume):
        raise TrainingError(
            "trainer.val_only would validate a selector of random weights: set "
            "trainer.gaze_weights, or trainer.resume to a training that has checkpoints"
        )
    return Trainer(model, task, algorithm, data, options, groups)


def _group(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options of a group; none where it is missing or null."""
    values = config.get(name)
    if values is None:
        return {}
    check_group(values, name)
    check_depth(values, name)
    return dict(values)


def _check_task(task: Task, dataset: DatasetConfig, algorithm: AlgorithmOptions) -> None:
    """Raise TrainingError where a task does not fit the clips or the algorithm."""
    most = task.mae.config.max_num_frames if isinstance(task, VideoMAETask) else None
    if most is not None and dataset.clip_len > most:
        raise TrainingError(
            f"dataset.clip_len={dataset.clip_len}: the reconstruction model takes at most {most} "
            f"frames; use dataset.clip_len={most}, or a model of longer clips (random weights: "
            "task.recon_model_config.max_num_frames)"
        )
    predicts = algorithm.on_policy and algorithm.optimize_task_loss_prediction
    if predicts and not isinstance(task, CanvasReconstruction):
        raise TrainingError(
            f"algorithm.on_policy={algorithm.on_policy}: losses of on-policy gazes are of the "
            f"canvas, and the loss prediction would mix them with those of {task.metric}; set "
            "task=canvas_reconstruction, or algorithm.optimize_task_loss_prediction=False"
        )


def _check_label_losses(clips: Dataset) -> None:
    """Raise TrainingError where a clip's labels have no losses."""
    for part in clips.datasets if isinstance(clips, MixedClips) else (clips,):
        labels: LabelFile | None = getattr(part, "labels", None)
        if labels is None or not isinstance(part, NamedClips):
            continue
        for name in map(part.name, range(len(part))):
            if not labels[name].losses:
                raise TrainingError(
                    f"{labels.path}: the labels of {name} have no task_losses for the loss "
                    "prediction; label again with `autogaze label`, or set "
                    "algorithm.optimize_task_loss_prediction=False"
                )


# The group `model`.


def build_model(options: Mapping[str, Any]) -> AutoGaze:
    """A selector that the options describe, with random weights.

    Numbers that follow from the scales may be left null. A subclass of `AutoGaze` from outside
    has the same options; anything else from outside makes a model of its own options.

    Raises:
        TrainingError: an option that does not exist, or a value that does not fit.
    """
    kind, options = find("model", options, {AUTOGAZE: AutoGaze}, default=AUTOGAZE)
    if not (isinstance(kind, type) and issubclass(kind, AutoGaze)):
        model = call(kind, options, {}, "model")
        if not isinstance(model, AutoGaze):
            raise TrainingError(
                f"model: {kind.__qualname__} made {type(model).__name__}, which is no AutoGaze"
            )
        return model
    _check_names(options, _option_names(AutoGazeConfig()), "model")
    values = dict(options)
    inner: dict[str, Any] = {
        name: dict(part) if isinstance(part, Mapping) else part
        for name, part in dict(values.get("gaze_model_config") or {}).items()
    }
    stem = inner.get("vision_model_config") or {}
    try:
        patch_size = int(stem.get("kernel_size") or 16)
        pyramid = PatchPyramid.parse(values.get("scales", "32+64+112+224"), patch_size)
        if inner.get("input_img_size") is None:
            inner["input_img_size"] = pyramid.side
        side = int(inner["input_img_size"])
        for group, name, number in (
            (values, "num_vision_tokens_each_frame", pyramid.num_patches),
            (inner, "num_vision_tokens_each_frame", pyramid.num_patches),
            (inner.setdefault("gaze_decoder_config", {}), "vocab_size", pyramid.num_patches + 1),
            (inner.setdefault("connector_config", {}), "num_tokens", (side // patch_size) ** 2),
        ):
            if group.get(name) is None:
                group[name] = number
        config = AutoGazeConfig(**{**values, "gaze_model_config": inner})
        generator = torch.Generator()  # unknown strategies are found by drawing
        group_settings(config, 2, generator)
        draw_settings(config, 2, training=False, generator=generator)
    except AutoGazeError as error:
        raise TrainingError(f"model: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"model: an option is missing or of another type: {error!r}") from error
    return kind(config)


def _check_names(options: Mapping[str, Any], known: Mapping[str, Any], group: str) -> None:
    """Raise TrainingError for options that do not exist, at any depth.

    A checkpoint's config.json may hold names that have no meaning here; a user's options may not.
    """
    for name, value in options.items():
        if name not in known:
            raise TrainingError(unknown_option(group, str(name), known))
        if known[name] is None or value is None:
            continue
        check_group(value, f"{group}.{name}")
        _check_names(value, known[name], f"{group}.{name}")


def _option_names(config: Any) -> dict[str, Any]:
    """Names of a configuration's options; those of a group with what is in it, others with None."""
    if isinstance(config, PretrainedConfig):
        taken = inspect.signature(type(config)).parameters.values()
        names = [one.name for one in taken if one.kind is not inspect.Parameter.VAR_KEYWORD]
        config = {name: getattr(config, name, None) for name in names}
    return {
        name: _option_names(value) if isinstance(value, dict | PretrainedConfig) else None
        for name, value in config.items()
    }
