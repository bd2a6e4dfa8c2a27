"""Files of a processor: its own and the published checkpoint's, in a folder or on the hub."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from autogaze.errors import CheckpointError, MLLMError, first_line
from autogaze.utils.checkpoints import read_json
from autogaze.utils.hub import HUB_OPTIONS

log = logging.getLogger("autogaze.mllm")

CONFIG, IMAGES = "processor_config.json", "preprocessor_config.json"
"""Files of the arguments, and of the published checkpoint's image processor."""

WRONG_PATCH, MEANT_PATCH = 16, 14
"""The published configuration stores a patch size that does not divide its own scales."""

_SERVICE = {"config", "trust_remote_code", "code_revision", "use_fast", "backend", "dtype"}
"""Options that transformers hands on, and that say nothing to this processor."""


def arguments(
    options: Mapping[str, Any], known: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of `from_pretrained`: the processor's arguments, and where its files are.

    Raises:
        MLLMError: an option that is neither.
    """
    hub = {key: value for key, value in options.items() if key in HUB_OPTIONS}
    changes = {
        key: value
        for key, value in options.items()
        if key not in HUB_OPTIONS and key not in _SERVICE and not key.startswith("_")
    }
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise MLLMError(f"unknown argument {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return changes, hub


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
