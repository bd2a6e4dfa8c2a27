"""From options to a trainer: everything that cannot work is found out here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from autogaze.datasets.clip import NamedClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.mixture import MixedClips
from autogaze.errors import AutoGazeError, TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.limits import draw_settings
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.trainer import Trainer
from autogaze.training.algorithms import RECIPES, Recipe, drawn_gaze
from autogaze.training.auxiliary import share_positions
from autogaze.training.checkpoints import Checkpoints, load_gaze, load_task
from autogaze.training.clip_sources import ClipSource, read_source
from autogaze.training.config import (
    AlgorithmOptions,
    TrainerOptions,
    check_model_options,
    choose,
    read,
    unknown,
)
from autogaze.training.loader import Moment, TrainingData
from autogaze.training.rollouts import lengths_settings
from autogaze.training.task_config import read_task

GROUPS = ("algorithm", "dataset", "model", "task", "trainer")


def build_trainer(config: Mapping[str, Any]) -> Trainer:
    """The trainer that a configuration describes.

    Args:
        config: the groups `algorithm`, `dataset`, `model`, `task`, `trainer`.

    Raises:
        TrainingError, CheckpointError: what cannot work, in the options' own names.
        MissingExtraError: the extra `train` is not installed.
    """
    for name in config:
        if name not in GROUPS:
            raise TrainingError(unknown(f"group of options {name!r}", name, GROUPS))
    groups = {name: dict(config.get(name) or {}) for name in GROUPS}
    options = read(TrainerOptions, groups["trainer"], "trainer")
    algorithm = read(AlgorithmOptions, groups["algorithm"], "algorithm")
    kind: type[Recipe] = choose(RECIPES, algorithm.name, "algorithm.name")
    recipe = kind(algorithm)
    source, judge = read_source(groups["dataset"]), read_task(groups["task"])
    learns_labels = recipe.needs_labels and options.train_gaze and not options.val_only
    if learns_labels and not source.labelled():
        raise TrainingError(
            f"algorithm {recipe.name} learns from gaze labels: name a file that `autogaze label` "
            "made in dataset.gt_gazing_pos_paths.train, or set dataset.greedy_labels={}"
        )
    torch.manual_seed(options.seed)  # of the weights that start at random, alike everywhere
    model = build_model(groups["model"])
    if model.config.max_num_frames < source.clip_len:
        model.config.max_num_frames = source.clip_len
    if not recipe.teaches:
        _check_random_gazes(model, source.clip_len, options)
    task = judge.build(model.pyramid)
    most = judge.max_num_frames(task)
    if most is not None and source.clip_len > most:
        raise TrainingError(
            f"dataset.clip_len={source.clip_len}: this judge knows {most} frames, not more; use "
            f"dataset.clip_len={most} or a judge of longer clips (one from nothing: "
            "task.recon_model_config.max_num_frames)"
        )
    measured = algorithm.own_gazes and algorithm.optimize_task_loss_prediction
    if measured and not isinstance(task, CanvasReconstruction):
        raise TrainingError(
            f"algorithm.own_gazes={algorithm.own_gazes}: the losses of its own gazes are the canvas's, "
            f"and the selector would learn to predict them beside those of {task.metric}; set "
            "task=canvas_reconstruction, or algorithm.optimize_task_loss_prediction=False"
        )
    if options.shared_positions:
        share_positions(model, options.seed)
    if options.gaze_weights is not None:
        load_gaze(model, options.gaze_weights)
    if options.task_weights is not None:
        load_task(task, options.task_weights)
    data = read_data(source, model.pyramid, options)
    if learns_labels and algorithm.optimize_task_loss_prediction:
        _check_task_losses(data.train)
    if options.val_only and recipe.teaches and options.gaze_weights is None:
        folder = Path(options.exp_folder) / options.exp_name
        if not Checkpoints(folder).find(options.resume):
            raise TrainingError(
                "trainer.val_only would measure a selector of random weights: name one in "
                "trainer.gaze_weights, or set trainer.resume to a training that has checkpoints"
            )
    return Trainer(model, task, recipe, data, options, {name: groups[name] for name in GROUPS})


def read_data(source: ClipSource, pyramid: PatchPyramid, options: TrainerOptions) -> TrainingData:
    """Training and validation clips; without a `val` split nothing is validated."""
    val = None
    wanted = options.val_only or options.val_nsteps
    if wanted and (options.val_only or source.has_split("val")):
        val = source.clips("val", pyramid, options.seed)
    train = val if options.val_only and val is not None else None
    if train is None:
        train = source.clips("train", pyramid, options.seed)
    return TrainingData(train, val, source.max_unreadable)


def build_model(options: Mapping[str, Any]) -> AutoGaze:
    """A selector that the options describe, with weights drawn at random.

    Numbers that follow from the scales may be left null.

    Raises:
        TrainingError: an option that does not exist, or a value that does not fit.
    """
    check_model_options(options)
    values = dict(options)
    inner = {
        name: dict(part) if isinstance(part, Mapping) else part
        for name, part in dict(values.get("gaze_model_config") or {}).items()
    }
    stem = inner.get("vision_model_config") or {}
    try:
        patch_size = int(stem.get("kernel_size") or 16)
        pyramid = PatchPyramid.parse(values.get("scales", "32+64+112+224"), patch_size)
        side = inner.setdefault("input_img_size", pyramid.side) or pyramid.side
        inner["input_img_size"] = side
        counted = pyramid.num_patches
        _fill(values, "num_vision_tokens_each_frame", counted)
        _fill(inner, "num_vision_tokens_each_frame", counted)
        _fill(inner.setdefault("gaze_decoder_config", {}), "vocab_size", counted + 1)
        cells = (side // patch_size) ** 2
        _fill(inner.setdefault("connector_config", {}), "num_tokens", cells)
        config = AutoGazeConfig(**{**values, "gaze_model_config": inner})
        generator = torch.Generator()  # what is unknown or cannot be shows when it is drawn
        lengths_settings(config, 2, generator)
        draw_settings(config, 2, training=False, generator=generator)
    except AutoGazeError as error:
        raise TrainingError(f"model: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"model: an option is missing or of another kind: {error!r}") from error
    return AutoGaze(config)


def _check_random_gazes(model: AutoGaze, num_frames: int, options: TrainerOptions) -> None:
    """Raise TrainingError where only a selector could say how many patches are gazed at."""
    phases = {True: not options.val_only, False: options.val_only or options.val_nsteps}
    for training, wanted in phases.items():
        if wanted:
            drawn_gaze(model.config, (0,), num_frames, Moment(options.seed, 0, training=training))


def _check_task_losses(clips: Dataset) -> None:
    """Raise TrainingError where a clip's labels say nothing of the task's loss."""
    for part in clips.datasets if isinstance(clips, MixedClips) else (clips,):
        labels: LabelFile | None = getattr(part, "labels", None)
        if labels is None or not isinstance(part, NamedClips):
            continue
        for number in range(len(part)):
            name = part.name(number)
            if not labels[name].losses:
                raise TrainingError(
                    f"{labels.path}: the labels of {name} have no task_losses to learn the loss "
                    "prediction from; label again with `autogaze label`, or set "
                    "algorithm.optimize_task_loss_prediction=False"
                )


def _fill(values: dict[str, Any], name: str, number: int) -> None:
    if values.get(name) is None:
        values[name] = number
