"""Sizes of an NVILA model, known before memory is taken for them."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from autogaze.checks import describe_value, whole
from autogaze.errors import AutoGazeError, CheckpointError, MLLMError, first_line

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
