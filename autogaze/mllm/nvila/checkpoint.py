"""Files of published and own checkpoints: weights by their names and sizes, and the processor's arguments.

The roots of weights are `vision_tower.` (with `vision_model.` behind it or not), `mm_projector.` and
`llm.`. How the projector's layers are numbered is the checkpoint's affair: they are taken in their
order. Sizes are known before memory is taken for them.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from autogaze.checks import describe_value, whole
from autogaze.errors import AutoGazeError, CheckpointError, MLLMError, first_line
from autogaze.utils.checkpoints import read_json
from autogaze.utils.hub import HUB_OPTIONS

PROJECTOR, TOWER = "mm_projector.", "vision_tower."


@contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Errors of what is loaded inside name the checkpoint.

    Raises:
        CheckpointError: whatever else transformers raises.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # what transformers raises depends on what is wrong
        if not isinstance(error, AutoGazeError):
            raise CheckpointError(f"{name}: cannot be loaded: {first_line(error)}") from error
        if str(name) in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


def weight_names(name: str | Path, **options: Any) -> list[str]:
    """Names of a checkpoint's weights, read from its index or header; none if it has no safetensors.

    Args:
        name: folder or hub id.
        options: of `from_pretrained`, of which `HUB_OPTIONS` are used.
    """
    index = _file(name, SAFE_WEIGHTS_INDEX_NAME, options)
    if index is not None:
        return list(_weight_map(index))
    single = _file(name, SAFE_WEIGHTS_NAME, options)
    if single is None:
        return []
    with safe_open(single, framework="pt") as file:
        return list(file.keys())


def weight_bytes(name: str | Path, **options: Any) -> int:
    """Bytes of a checkpoint's weights; 0 if it has no safetensors. Arguments as of `weight_names`."""
    index = _file(name, SAFE_WEIGHTS_INDEX_NAME, options)
    shards = [SAFE_WEIGHTS_NAME] if index is None else sorted(set(_weight_map(index).values()))
    files = [_file(name, shard, options) for shard in shards]
    return sum(file.stat().st_size for file in files if file is not None)


def _file(name: str | Path, file: str, options: dict[str, Any]) -> Path | None:
    """The path of one of a checkpoint's files, fetched if it is on the hub; None without it."""
    where = {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}
    quiet = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    found = cached_file(str(name), file, **where, **quiet)
    return None if found is None else Path(found)


def _weight_map(index: Path) -> dict[str, str]:
    """The file of every weight, as an index names them."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(f"{index}: no index of weights: it has no weight_map of file names")
    return files


def renaming(names: list[str], projector: nn.Module) -> dict[str, str]:
    """Patterns of a checkpoint's names -> what they become, for transformers' `key_mapping`.

    Raises:
        CheckpointError: another number of projector layers with weights than there are; or names
            that this version of transformers would take back.
    """
    patterns = {}
    layers = {name.rpartition(".")[0] for name in names if name.startswith(PROJECTOR)}
    found = sorted(layers, key=_natural)
    own = [
        PROJECTOR + name for name, layer in projector.named_children() if list(layer.parameters())
    ]
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
        if takes_prefix_off():
            raise CheckpointError(
                "the vision tower's weights have names without 'vision_model.', which transformers "
                f"{transformers.__version__} cannot load here: take 5.9 or later (or one before 5.6)"
            )
        patterns[rf"^{re.escape(TOWER)}({'|'.join(parts)})\."] = rf"{TOWER}vision_model.\1."
    return patterns


def takes_prefix_off() -> bool:
    """Whether transformers takes `vision_model.` off names within any model, after all renaming.

    Its versions before 5.6 know no such change, those from 5.9 on make it for models of their own alone.
    """
    try:
        from transformers.core_model_loading import PrefixChange
    except ImportError:
        return False
    return not hasattr(PrefixChange, "scope_prefix")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by their value."""
    return [(int(part) if part.isdecimal() else -1, part) for part in name.split(".")]


Parts = TypeVar("Parts", bound=Iterable[nn.Module])

MOST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 512),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), 2**13),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 2**11),
}
"""The most parts of an LLM or a tower, by the names that configurations have for their numbers:
they are built one by one."""

LEAST_BYTES = 0.25
"""A parameter takes at least a quarter of a byte in a file, however it is quantised."""


def check_counts(values: Mapping[str, Any], name: str) -> None:
    """Raise MLLMError for a configuration of more layers, heads or experts than any model has."""
    for key, most in MOST.items():
        value = values.get(key)
        if value is None:
            continue
        number = whole(value)
        if number is None or not 0 <= number <= most:
            raise MLLMError(
                f"{name}.{key} must be a whole number of at most {most:,}, got "
                f"{describe_value(value)}"
            )


def built_on_meta(build: Callable[[], Parts]) -> Parts:
    """Modules without memory for their weights: whether they can be built, and how large they are.

    Raises:
        MLLMError: a configuration of which no model can be built.
    """
    try:
        with torch.device("meta"):
            return build()
    except (AutoGazeError, ImportError):
        raise
    except Exception as error:  # whatever the classes of any LLM do with wrong sizes
        raise MLLMError(
            f"no model can be built of this configuration: {first_line(error)}; correct its sizes"
        ) from error


def check_memory(modules: Iterable[nn.Module]) -> None:
    """Raise MLLMError where weights take more memory than the machine has."""
    needed = sum(
        tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise MLLMError(
            f"a model of these sizes has {needed / 1e9:,.1f} GB of weights, this machine "
            f"{there / 1e9:,.1f} GB of memory; correct the sizes in the configuration, or load a "
            "checkpoint in a smaller dtype"
        )


def check_stored(source: Any, modules: Iterable[nn.Module], num_bytes: int) -> None:
    """Raise CheckpointError where modules have more weights than files of so many bytes can hold."""
    parameters = sum(tensor.numel() for module in modules for tensor in module.parameters())
    if parameters * LEAST_BYTES > num_bytes:
        raise CheckpointError(
            f"{source}: the weights do not fit config.json, which describes {parameters:,} "
            f"parameters, but the files hold {num_bytes:,} bytes; correct config.json or take a "
            "whole checkpoint"
        )


log = logging.getLogger("autogaze.mllm")

CONFIG, IMAGES = "processor_config.json", "preprocessor_config.json"
"""Files of the arguments, and of the published checkpoint's image processor."""

WRONG_PATCH, MEANT_PATCH = 16, 14
"""The published configuration stores a patch size that does not divide its own scales."""


def read_arguments(name: str, known: Collection[str], hub: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are stored in a folder or on the hub.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    own, images = (_read(name, file, hub) for file in (CONFIG, IMAGES))
    if own is None and images is None:
        raise CheckpointError(
            f"{name}: has no processor ({CONFIG}); make one of the LLM's tokenizer, "
            "AutoGazeMLLMProcessor(tokenizer), and save it there with save_pretrained"
        )
    # Pixel statistics stand in the image processor's file of published checkpoints.
    stored = {
        key: value
        for key, value in (images or {}).items()
        if key in ("image_mean", "image_std") and value is not None
    }
    stored |= {key: value for key, value in (own or {}).items() if key in known}
    scales, patch = stored.get("target_scales"), stored.get("target_patch_size")
    if scales and patch == WRONG_PATCH and any(scale % WRONG_PATCH for scale in scales):
        log.warning(
            "%s: target_patch_size %s does not divide the scales %s; taking %s",
            *(name, patch, scales, MEANT_PATCH),
        )
        stored["target_patch_size"] = MEANT_PATCH
    return stored


def read_tokenizer(name: str, hub: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or on the hub.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(name, **hub)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{name}: has no tokenizer that can be read ({first_line(error)}); save the processor "
            "there with processor.save_pretrained(folder)"
        ) from error


def _read(name: str, file: str, hub: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of a JSON file; None where it is not there."""
    try:
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)
    except (OSError, ValueError) as error:  # no folder, no hub id, no connection
        raise CheckpointError(
            f"{name}: there is no such folder here, and it cannot be fetched from the Hugging Face "
            f"hub ({first_line(error)})"
        ) from error
    return None if path is None else read_json(Path(path))
