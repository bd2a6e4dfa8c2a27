"""Weights of published and own checkpoints: how their names fit, and that none is missing.

The roots are `vision_tower.` (with `vision_model.` behind it or not), `mm_projector.` and `llm.`.
How the projector's layers are numbered is the checkpoint's affair: they are taken in their order.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from autogaze.errors import CheckpointError
from autogaze.utils.hub import HUB_OPTIONS

PROJECTOR, TOWER = "mm_projector.", "vision_tower."


def weight_names(name: str | Path, **options: Any) -> list[str]:
    """Names of a checkpoint's weights, read from its index or header; none if it has no safetensors.

    Args:
        name: folder or hub id.
        options: of `from_pretrained`, of which `HUB_OPTIONS` are used.
    """
    where = {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}
    quiet = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    index = cached_file(str(name), SAFE_WEIGHTS_INDEX_NAME, **where, **quiet)
    if index is not None:
        return list(json.loads(Path(index).read_text()).get("weight_map", ()))
    single = cached_file(str(name), SAFE_WEIGHTS_NAME, **where, **quiet)
    if single is None:
        return []
    with safe_open(single, framework="pt") as file:
        return list(file.keys())


def renaming(names: list[str], projector: nn.Module) -> dict[str, str]:
    """Patterns of a checkpoint's names -> what they become, for transformers' `key_mapping`.

    Raises:
        CheckpointError: another number of projector layers with weights than there are.
    """
    patterns = {}
    found = sorted({_layer(name) for name in names if name.startswith(PROJECTOR)}, key=_natural)
    own = [PROJECTOR + name for name, layer in projector.named_children() if _has_weights(layer)]
    if found and found != own:
        if len(found) != len(own):
            raise CheckpointError(
                f"the projector has {len(own)} layers with weights ({', '.join(own)}), the "
                f"checkpoint {len(found)} ({', '.join(found)})"
            )
        for theirs, ours in zip(found, own, strict=True):
            patterns[rf"^{re.escape(theirs)}\.(weight|bias)$"] = rf"{ours}.\1"
    parts = ("embeddings", "encoder", "post_layernorm", "head")
    if any(name.startswith(tuple(f"{TOWER}{part}." for part in parts)) for name in names):
        patterns[rf"^{re.escape(TOWER)}({'|'.join(parts)})\."] = rf"{TOWER}vision_model.\1."
    return patterns


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by their value."""
    return [(int(part) if part.isdecimal() else -1, part) for part in name.split(".")]


def _has_weights(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters())
