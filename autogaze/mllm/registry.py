"""Registry of adapters of multimodal LLMs, by the `model_type` of a model's configuration.

An adapter is imported when a model of its family is given.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import MLLMAdapter
from autogaze.mllm.processor_adapter import ProcessorAdapter
from autogaze.mllm.stock_processor import StockProcessor
from autogaze.vision_encoders.adapter import without_peft


@dataclass(frozen=True)
class Family:
    """A family of multimodal LLMs.

    Args:
        name: as people call it.
        adapter, processor: its two sides: classes, or "module:Class", imported when one is used.
        processor_class: name of the class of its stock processor, for those that are given as objects.
    """

    name: str
    adapter: type[MLLMAdapter] | str
    processor: type[ProcessorAdapter] | str | None = None
    processor_class: str | None = None


_QWEN3 = ("qwen3_vl:Qwen3VLAdapter", "qwen_processor:Qwen3VLProcessorAdapter")
_FAMILIES = {
    "qwen2_5_vl": Family(
        "Qwen2.5-VL",
        "qwen2_5_vl:Qwen25VLAdapter",
        "qwen_processor:Qwen25VLProcessorAdapter",
        "Qwen2_5_VLProcessor",
    ),
    "qwen3_vl": Family("Qwen3-VL", *_QWEN3, "Qwen3VLProcessor"),
    "qwen3_vl_moe": Family("Qwen3-VL, mixture of experts", *_QWEN3),
    "qwen3_5": Family("Qwen3.5", *_QWEN3),
    "qwen3_5_moe": Family("Qwen3.5, mixture of experts", *_QWEN3),
    "llava_onevision": Family(
        "LLaVA-OneVision",
        "llava_onevision:LlavaOnevisionAdapter",
        "llava_onevision:LlavaOnevisionProcessorAdapter",
        "LlavaOnevisionProcessor",
    ),
    "smolvlm": Family(
        "SmolVLM, SmolVLM2",
        "smolvlm:SmolVLMAdapter",
        "smolvlm:SmolVLMProcessorAdapter",
        "SmolVLMProcessor",
    ),
    "internvl": Family(
        "InternVL",
        "internvl:InternVLAdapter",
        "internvl:InternVLProcessorAdapter",
        "InternVLProcessor",
    ),
}
"""Families by the `model_type` of their models."""


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
    sides = (("adapter", adapter, MLLMAdapter), ("processor", processor, ProcessorAdapter))
    for side, given, base in sides:
        if given is None and side == "processor":
            continue
        if not (isinstance(given, type) and issubclass(given, base)):
            raise MLLMError(
                f"register_mllm({model_type!r}): the {side} must be a subclass of "
                f"{base.__module__}.{base.__name__} (the class itself), got {given!r}"
            )
    known = _FAMILIES.pop(model_type, Family("", adapter))
    _FAMILIES[model_type] = Family(
        adapter.__name__,
        adapter,
        processor or known.processor,
        (processor and processor_class) or known.processor_class,
    )


def list_mllms() -> dict[str, str]:
    """Families of multimodal LLMs that can be gazed, by `model_type`."""
    return {model_type: family.name for model_type, family in _FAMILIES.items()}


def adapter_of(model: nn.Module) -> MLLMAdapter:
    """The adapter of a model.

    Raises:
        MLLMError: there is none; the message lists those there are.
    """
    return adapter_class(getattr(model, "config", None))(without_peft(model))


def adapter_class(config: Any) -> type[MLLMAdapter]:
    """The class of the adapter of models of this configuration.

    Raises:
        MLLMError: there is none; the message lists those there are.
    """
    # Of the class, where it has one: some configurations of transformers 4.57 that are read from a
    # file answer with their text model's.
    model_type: Any = getattr(type(config), "model_type", None) or getattr(
        config, "model_type", None
    )
    if model_type not in _FAMILIES:
        raise MLLMError(
            f"no adapter for multimodal LLMs of type {model_type!r}; there are adapters for "
            f"{', '.join(sorted(_FAMILIES))}. Adding one takes one file: autogaze.register_mllm, "
            "see docs/mllm.md"
        )
    return _resolved(_FAMILIES[model_type].adapter)  # type: ignore[no-any-return]


def processor_adapter_of(stock: StockProcessor) -> ProcessorAdapter:
    """The processor's side of a family.

    Raises:
        MLLMError: there is none; the message lists those there are.
    """
    if stock.model_type is not None:
        family = _FAMILIES.get(stock.model_type)
    else:  # the last one that was registered with this class
        named = (one for one in reversed(_FAMILIES.values()) if one.processor_class is not None)
        family = next((one for one in named if one.processor_class == stock.processor_class), None)
    if family is None or family.processor is None:
        known = sorted(name for name, one in _FAMILIES.items() if one.processor is not None)
        raise MLLMError(
            f"no adapter for processors of {stock.model_type or stock.processor_class!r}; there are "
            f"adapters for models of type {', '.join(known)}. Adding one takes one class: "
            "autogaze.register_mllm(..., processor=), see docs/mllm.md"
        )
    return _resolved(family.processor)(stock)  # type: ignore[no-any-return]


def _resolved(adapter: type | str) -> Any:
    """The class of an adapter, imported if it is named."""
    if not isinstance(adapter, str):
        return adapter
    module, _, name = adapter.partition(":")
    return getattr(importlib.import_module(f"autogaze.mllm.{module}"), name)
