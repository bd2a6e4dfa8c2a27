"""Registry of adapters of multimodal LLMs, by the `model_type` of a model's configuration.

An adapter is imported when a model of its family is given.
"""

import importlib
from typing import Any

from torch import nn

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import MLLMAdapter

_ADAPTERS: dict[str, tuple[str, type[MLLMAdapter] | str]] = {
    "qwen2_5_vl": ("Qwen2.5-VL", "qwen2_5_vl:Qwen25VLAdapter"),
    "qwen3_vl": ("Qwen3-VL", "qwen3_vl:Qwen3VLAdapter"),
    "qwen3_vl_moe": ("Qwen3-VL, mixture of experts", "qwen3_vl:Qwen3VLAdapter"),
    "qwen3_5": ("Qwen3.5", "qwen3_vl:Qwen3VLAdapter"),
    "qwen3_5_moe": ("Qwen3.5, mixture of experts", "qwen3_vl:Qwen3VLAdapter"),
}


def register_mllm(model_type: str, adapter: type[MLLMAdapter]) -> None:
    """Add a family of multimodal LLMs to `autogaze.gazed_mllm`.

    Args:
        model_type: `model.config.model_type` of the family; a known one is replaced.
        adapter: of the family.

    Raises:
        MLLMError: `adapter` is no subclass of `MLLMAdapter`.
    """
    if not (isinstance(adapter, type) and issubclass(adapter, MLLMAdapter)):
        raise MLLMError(
            f"register_mllm({model_type!r}): the adapter must be a subclass of "
            f"autogaze.mllm.adapter.MLLMAdapter (the class itself), got {adapter!r}"
        )
    _ADAPTERS[model_type] = (adapter.__name__, adapter)


def list_mllms() -> dict[str, str]:
    """Families of multimodal LLMs that can be gazed, by `model_type`."""
    return {model_type: name for model_type, (name, _) in _ADAPTERS.items()}


def adapter_of(model: nn.Module) -> MLLMAdapter:
    """The adapter of a model.

    Raises:
        MLLMError: there is none; the message lists those there are.
    """
    model_type: Any = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in _ADAPTERS:
        raise MLLMError(
            f"no adapter for multimodal LLMs of type {model_type!r} ({type(model).__name__}); "
            f"there are adapters for {', '.join(sorted(_ADAPTERS))}. Adding one takes one file: "
            "autogaze.register_mllm, see docs/mllm.md"
        )
    adapter = _ADAPTERS[model_type][1]
    if isinstance(adapter, str):
        module, _, name = adapter.partition(":")
        adapter = getattr(importlib.import_module(f"autogaze.mllm.{module}"), name)
    return adapter(model)  # type: ignore[operator]
