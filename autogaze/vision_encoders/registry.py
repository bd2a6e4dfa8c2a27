"""Registry of encoder adapters, by the `model_type` of a model's configuration.

An adapter is imported when a model of its family is given.
"""

import importlib
from typing import Any, NamedTuple

from torch import nn

from autogaze.errors import EncoderError
from autogaze.vision_encoders.adapter import EncoderAdapter


class _Family(NamedTuple):
    """A family of models; its classes may be given by names, which are imported when needed."""

    description: str
    adapter: type[EncoderAdapter] | str  # "module:class" in this package
    model_class: Any  # of transformers


_SIGLIP = _Family(
    "SigLIP, fixed-resolution SigLIP2", "siglip.adapter:SiglipAdapter", "SiglipVisionModel"
)
_SIGLIP2 = _Family("SigLIP2 NaFlex", "siglip.adapter:Siglip2Adapter", "Siglip2VisionModel")
_CLIP = _Family("CLIP", "clip:ClipAdapter", "CLIPVisionModel")
_FAMILIES = {
    "siglip_vision_model": _SIGLIP,
    "siglip": _SIGLIP,
    "siglip2_vision_model": _SIGLIP2,
    "siglip2": _SIGLIP2,
    "dinov2": _Family("DINOv2", "dinov2:Dinov2Adapter", "Dinov2Model"),
    "dinov2_with_registers": _Family(
        "DINOv2 with registers", "dinov2:Dinov2Adapter", "Dinov2WithRegistersModel"
    ),
    "dinov3_vit": _Family("DINOv3", "dinov3:Dinov3Adapter", "DINOv3ViTModel"),
    "clip_vision_model": _CLIP,
    "clip": _CLIP,
    "vit": _Family("ViT", "vit:ViTAdapter", "ViTModel"),
    "smolvlm_vision": _Family(
        "vision encoder of SmolVLM", "smolvlm:SmolVLMVisionAdapter", "SmolVLMVisionTransformer"
    ),
    "internvl_vision": _Family(
        "vision encoder of InternVL", "internvl:InternVLVisionAdapter", "InternVLVisionModel"
    ),
}


def register_encoder(
    model_type: str, adapter: type[EncoderAdapter], model_class: type[nn.Module] | None = None
) -> None:
    """Add a family of models to `autogaze.gazed`.

    Args:
        model_type: `model.config.model_type` of the family; a known one is replaced.
        model_class: the class that `GazedVisionModel.from_pretrained` loads; None: `AutoModel`.

    Raises:
        EncoderError: `adapter` is no subclass of `EncoderAdapter`, or `model_class` is no
            class with `from_pretrained`.
    """
    if not (isinstance(adapter, type) and issubclass(adapter, EncoderAdapter)):
        raise EncoderError(
            f"register_encoder({model_type!r}): the adapter must be a subclass of "
            f"autogaze.vision_encoders.EncoderAdapter (the class itself), got {adapter!r}"
        )
    if model_class is not None and not hasattr(model_class, "from_pretrained"):
        raise EncoderError(
            f"register_encoder({model_type!r}): model_class must be a transformers class, "
            f"which has from_pretrained, got {model_class!r}"
        )
    _FAMILIES[model_type] = _Family(adapter.__name__, adapter, model_class)


def list_encoders() -> dict[str, str]:
    """Families that can be gazed, by `model_type`."""
    return {model_type: family.description for model_type, family in _FAMILIES.items()}


def is_registered(config: Any) -> bool:
    """Whether a model's adapter was added by `register_encoder`."""
    family = _FAMILIES.get(getattr(config, "model_type", ""))
    return family is not None and not isinstance(family.adapter, str)


def adapter_class(config: Any) -> type[EncoderAdapter]:
    """The adapter of a model's configuration.

    Raises:
        EncoderError: there is none; the message lists those there are.
    """
    adapter = _family(config).adapter
    if not isinstance(adapter, str):
        return adapter
    module, _, name = adapter.partition(":")
    return getattr(importlib.import_module(f"autogaze.vision_encoders.{module}"), name)


def model_class(config: Any) -> Any:
    """The transformers class that loads a vision model of this configuration."""
    import transformers

    found = _family(config).model_class or "AutoModel"
    return getattr(transformers, found) if isinstance(found, str) else found


def _family(config: Any) -> _Family:
    model_type = getattr(config, "model_type", None)
    if model_type in _FAMILIES:
        return _FAMILIES[model_type]
    raise EncoderError(
        f"no adapter for models of type {model_type!r}; there are adapters for "
        f"{', '.join(sorted(_FAMILIES))}. Adding one takes one file: "
        "autogaze.register_encoder, see docs/encoders.md"
    )
