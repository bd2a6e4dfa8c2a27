"""Registry of adapters of multimodal LLMs, by the `model_type` of a model's configuration.

An adapter is imported when a model of its family is given.
"""

import importlib
from typing import Any

from torch import nn

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import MLLMAdapter
from autogaze.mllm.processor_adapter import ProcessorAdapter
from autogaze.mllm.stock_processor import StockProcessor

_ADAPTERS: dict[str, tuple[str, type[MLLMAdapter] | str]] = {
    "qwen2_5_vl": ("Qwen2.5-VL", "qwen2_5_vl:Qwen25VLAdapter"),
    "qwen3_vl": ("Qwen3-VL", "qwen3_vl:Qwen3VLAdapter"),
    "qwen3_vl_moe": ("Qwen3-VL, mixture of experts", "qwen3_vl:Qwen3VLAdapter"),
    "qwen3_5": ("Qwen3.5", "qwen3_vl:Qwen3VLAdapter"),
    "qwen3_5_moe": ("Qwen3.5, mixture of experts", "qwen3_vl:Qwen3VLAdapter"),
    "llava_onevision": ("LLaVA-OneVision", "llava_onevision:LlavaOnevisionAdapter"),
    "smolvlm": ("SmolVLM, SmolVLM2", "smolvlm:SmolVLMAdapter"),
    "internvl": ("InternVL", "internvl:InternVLAdapter"),
}

_PROCESSORS: dict[str, type[ProcessorAdapter] | str] = {
    "qwen2_5_vl": "qwen_processor:Qwen25VLProcessorAdapter",
    "qwen3_vl": "qwen_processor:Qwen3VLProcessorAdapter",
    "qwen3_vl_moe": "qwen_processor:Qwen3VLProcessorAdapter",
    "qwen3_5": "qwen_processor:Qwen3VLProcessorAdapter",
    "qwen3_5_moe": "qwen_processor:Qwen3VLProcessorAdapter",
    "llava_onevision": "llava_processor:LlavaOnevisionProcessorAdapter",
    "smolvlm": "smolvlm_processor:SmolVLMProcessorAdapter",
    "internvl": "internvl_processor:InternVLProcessorAdapter",
}

_STOCK_PROCESSORS = {
    "Qwen2_5_VLProcessor": "qwen2_5_vl",
    "Qwen3VLProcessor": "qwen3_vl",
    "LlavaOnevisionProcessor": "llava_onevision",
    "SmolVLMProcessor": "smolvlm",
    "InternVLProcessor": "internvl",
}
"""Classes of stock processors: one of the model types that have them."""


def register_mllm(
    model_type: str,
    adapter: type[MLLMAdapter],
    processor: type[ProcessorAdapter] | None = None,
    processor_class: str | None = None,
) -> None:
    """Add a family of multimodal LLMs to `autogaze.gazed_mllm`.

    Args:
        model_type: `model.config.model_type` of the family; a known one is replaced.
        adapter: of the family.
        processor: the processor's side of it, for `autogaze.GazedProcessor`.
        processor_class: name of the class of the family's stock processor.

    Raises:
        MLLMError: `adapter` is no subclass of `MLLMAdapter`, or `processor` none of
            `ProcessorAdapter`.
    """
    if not (isinstance(adapter, type) and issubclass(adapter, MLLMAdapter)):
        raise MLLMError(
            f"register_mllm({model_type!r}): the adapter must be a subclass of "
            f"autogaze.mllm.adapter.MLLMAdapter (the class itself), got {adapter!r}"
        )
    if processor is not None:
        if not (isinstance(processor, type) and issubclass(processor, ProcessorAdapter)):
            raise MLLMError(
                f"register_mllm({model_type!r}): the processor must be a subclass of "
                "autogaze.mllm.processor_adapter.ProcessorAdapter (the class itself), got "
                f"{processor!r}"
            )
        _PROCESSORS[model_type] = processor
        if processor_class is not None:
            _STOCK_PROCESSORS[processor_class] = model_type
    _ADAPTERS[model_type] = (adapter.__name__, adapter)


def list_mllms() -> dict[str, str]:
    """Families of multimodal LLMs that can be gazed, by `model_type`."""
    return {model_type: name for model_type, (name, _) in _ADAPTERS.items()}


def adapter_of(model: nn.Module) -> MLLMAdapter:
    """The adapter of a model.

    Raises:
        MLLMError: there is none; the message lists those there are.
    """
    return adapter_class(getattr(model, "config", None))(model)


def adapter_class(config: Any) -> type[MLLMAdapter]:
    """The class of the adapter of models of this configuration.

    Raises:
        MLLMError: there is none; the message lists those there are.
    """
    model_type: Any = getattr(config, "model_type", None)
    if model_type not in _ADAPTERS:
        raise MLLMError(
            f"no adapter for multimodal LLMs of type {model_type!r}; there are adapters for "
            f"{', '.join(sorted(_ADAPTERS))}. Adding one takes one file: autogaze.register_mllm, "
            "see docs/mllm.md"
        )
    return _resolved(_ADAPTERS[model_type][1])  # type: ignore[no-any-return]


def processor_adapter_of(stock: StockProcessor) -> ProcessorAdapter:
    """The processor's side of a family.

    Raises:
        MLLMError: there is none; the message lists those there are.
    """
    model_type = stock.model_type
    if model_type is None:
        model_type = _STOCK_PROCESSORS.get(stock.processor_class or "")
    if model_type not in _PROCESSORS:
        named = stock.model_type or stock.processor_class
        raise MLLMError(
            f"no adapter for processors of {named!r}; there are adapters for models of type "
            f"{', '.join(sorted(_PROCESSORS))}. Adding one takes one class: "
            "autogaze.register_mllm(..., processor=), see docs/mllm.md"
        )
    return _resolved(_PROCESSORS[model_type])(stock)  # type: ignore[no-any-return]


def _resolved(adapter: type | str) -> Any:
    """The class of an adapter, imported if it is named."""
    if not isinstance(adapter, str):
        return adapter
    module, _, name = adapter.partition(":")
    return getattr(importlib.import_module(f"autogaze.mllm.{module}"), name)
