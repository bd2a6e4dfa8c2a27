"""Checkpoints by path or Hugging Face hub id. Importable without PyTorch."""

import os
import re
from pathlib import Path
from typing import Any

from autogaze.checks import as_path, why_absent
from autogaze.errors import CheckpointError, first_line

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SAFE = (WEIGHTS, "model-*-of-*.safetensors")
"""Patterns of safetensors weights, whole or in shards."""
PICKLED = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")
"""Patterns of pickled weights, which are not read: a pickle is a program."""

HUB_OPTIONS = (
    "subfolder",
    "revision",
    "token",
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
)
"""Options of transformers' `from_pretrained` that say where a checkpoint is."""

_HUB_ID = re.compile(r"[^./~][^/]*/[^/]+(?<!\.pt)(?<!\.pth)(?<!\.bin)(?<!\.safetensors)")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, "owner/name"."""
    return _HUB_ID.fullmatch(name) is not None


def find_checkpoint(source: str | Path) -> Path:
    """The folder or file of a checkpoint; a hub id is downloaded unless it is in the cache.

    Args:
        source: a folder, a file, or a Hugging Face hub id ("owner/name").

    Raises:
        CheckpointError: there is none, or the hub cannot be reached.
    """
    path = as_path(source, CheckpointError)
    if os.path.exists(path):
        return path
    if os.path.islink(path) or not is_hub_id(str(source)):
        raise CheckpointError(f"{source}: {why_absent(path, 'checkpoint file or folder')}")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(source), allow_patterns=["*.json", *SAFE]))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these
        raise CheckpointError(
            f"{source}: there is no such folder here, and it cannot be fetched from the Hugging "
            f"Face hub ({first_line(error)}); give the path of a checkpoint folder or file"
        ) from error
    return folder


def load_pretrained(kind: Any, name: str, hint: str, **options: Any) -> Any:
    """A transformers model of class `kind`, from a folder or the hub; `hint` is advice for errors.

    Options are those of its `from_pretrained`. Pickled weights are read only if it is given
    `use_safetensors=False`.

    Raises:
        CheckpointError: there is none, or it cannot be fetched or read.
    """
    from safetensors import SafetensorError

    if not os.path.isdir(name) and not is_hub_id(name):
        raise CheckpointError(f"{name}: {why_absent(name, 'checkpoint folder')}; {hint}")
    options.setdefault("use_safetensors", True)
    if options["use_safetensors"]:
        refuse_pickles(name, options.get("subfolder"))
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{name}: {kind.__name__} can be neither read here nor fetched from the Hugging Face hub "
            f"({first_line(error)}); {hint}"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights, whole or in shards; none where there are none."""
    for pattern in SAFE:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def no_weights(folder: Path) -> CheckpointError:
    """The error of a folder without safetensors weights."""
    pickled = [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]
    if not pickled:
        return CheckpointError(f"{folder}: holds no weights ({WEIGHTS})")
    return CheckpointError(f"{folder}: its weights are in {pickled[0]}. {CONVERT}")


def refuse_pickles(source: Any, subfolder: str | None = None) -> None:
    """Raise `CheckpointError` where a checkpoint's folder has pickled weights and no others."""
    if not isinstance(source, str | Path) or not os.path.isdir(source):
        return
    folder = Path(source) / (subfolder or "")
    if not weight_files(folder) and any(any(folder.glob(pattern)) for pattern in PICKLED):
        raise no_weights(folder)


CONVERT = (
    "Files of this kind are pickles, which are not read: convert them where you trust them, with "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)
