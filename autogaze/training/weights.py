"""Weights into and out of models, with errors that say what does not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from autogaze.errors import CheckpointError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import AutoGazeImageProcessor
from autogaze.reconstruction.video_mae.checkpoint import find_checkpoint, read_state
from autogaze.registry import LEARNED
from autogaze.tasks.base import Task
from autogaze.weights import SELECTOR


def save_gaze(model: AutoGaze, folder: Path) -> None:
    """A folder for `from_pretrained`, the image processor included."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    _save(model.state_dict(), folder)
    side = int(model.config.gaze_model_config.input_img_size)
    AutoGazeImageProcessor(size=side).save_pretrained(folder)


def load_gaze(model: AutoGaze, source: str | Path) -> None:
    """A selector's weights from such a folder, a hub id, or a state dict's file.

    "learned" is the package's own, as it is for `autogaze.load`.

    Raises:
        CheckpointError: none there, or of another architecture.
    """
    place = SELECTOR if str(source) == LEARNED else find_checkpoint(source)
    fill(model, read_state(place), place, "model")


def save_task(task: Task, folder: Path) -> None:
    """A task's own weights: as the task itself writes them, or else a state dict."""
    own_way: Any = getattr(task, "save_pretrained", None)
    if own_way is not None:
        own_way(folder)
        return
    folder.mkdir(exist_ok=True)
    state = task.state_dict()
    _save({name: state[name] for name in own_names(task)}, folder)


def _save(state: Mapping[str, Tensor], folder: Path) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_task(task: Task, source: str | Path) -> None:
    """What `save_task` wrote, or what the task itself can read.

    Raises:
        CheckpointError: none there, or of another architecture.
    """
    place = find_checkpoint(source)
    own_way: Any = getattr(task, "load_weights", None)
    if own_way is not None:
        own_way(place)
    else:
        fill(task, read_state(place), place, "task", own_names(task))


def own_names(task: Task) -> list[str]:
    """Parameters that are the task's own: frozen networks that it only looks through are not."""
    learning = {
        name
        for name, part in task.named_children()
        if any(p.requires_grad for p in part.parameters())
    }
    return [name for name in task.state_dict() if name.split(".")[0] in learning]


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    group: str,
    names: list[str] | None = None,
) -> None:
    """Load weights; all of them must fit.

    Args:
        source, group: of the checkpoint, and of the options that shaped `module`.
        names: weights that are expected; all of the module's by default.

    Raises:
        CheckpointError: names or shapes that differ.
    """
    all_own: dict[str, Tensor] = module.state_dict()
    own = all_own if names is None else {name: all_own[name] for name in names}
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    wrong = [
        f"{name} is {tuple(state[name].shape)} there and {tuple(own[name].shape)} here"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        f"{kind}{', '.join(found[:3])}" + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        for kind, found in (("missing ", missing), ("not wanted ", unexpected), ("", wrong))
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{source}: a checkpoint of another architecture than the {group} options describe: "
            + "; ".join(problems)
        )
    module.load_state_dict(dict(state), strict=names is None)
