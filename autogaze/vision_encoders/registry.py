"""Registry of encoder adapters, by the `model_type` of a model's configuration.

Adapters are imported when a model of theirs comes: listing them costs nothing.
"""

import importlib
from typing import Any, NamedTuple

from torch import nn

from autogaze.errors import EncoderError
from autogaze.vision_encoders.adapter import EncoderAdapter


class _Entry(NamedTuple):
    module: str
    class_name: str
    model_class: str
    description: str


def _entry(module: str, class_name: str, model_class: str, description: str) -> _Entry:
    return _Entry(f"autogaze.vision_encoders.{module}", class_name, model_class, description)


_SIGLIP = _entry(
    "siglip.adapter", "SiglipAdapter", "SiglipVisionModel", "SigLIP, fixed-resolution SigLIP2"
)
_SIGLIP2 = _entry("siglip.adapter", "Siglip2Adapter", "Siglip2VisionModel", "SigLIP2 NaFlex")
_CLIP = _entry("clip", "ClipAdapter", "CLIPVisionModel", "CLIP")
_ENTRIES: dict[str, _Entry] = {
    "siglip_vision_model": _SIGLIP,
    "siglip": _SIGLIP,
    "siglip2_vision_model": _SIGLIP2,
    "siglip2": _SIGLIP2,
    "dinov2": _entry("dinov2", "Dinov2Adapter", "Dinov2Model", "DINOv2"),
    "dinov2_with_registers": _entry(
        "dinov2", "Dinov2Adapter", "Dinov2WithRegistersModel", "DINOv2 with registers"
    ),
    "dinov3_vit": _entry("dinov3", "Dinov3Adapter", "DINOv3ViTModel", "DINOv3"),
    "clip_vision_model": _CLIP,
    "clip": _CLIP,
    "vit": _entry("vit", "ViTAdapter", "ViTModel", "ViT"),
}
_REGISTERED: dict[str, tuple[type[EncoderAdapter], type[nn.Module] | None]] = {}


def register_encoder(
    model_type: str,
    adapter: type[EncoderAdapter],
    model_class: type[nn.Module] | None = None,
) -> None:
    """Add a family of models to `autogaze.gazed`.

    Args:
        model_type: `model.config.model_type` of the family; a known one is replaced.
        adapter: of the family.
        model_class: that `GazedVisionModel.from_pretrained` loads; None: `AutoModel`.

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
    _REGISTERED[model_type] = (adapter, model_class)


def list_encoders() -> dict[str, str]:
    """Families that can be gazed, by `model_type`."""
    known = {model_type: entry.description for model_type, entry in _ENTRIES.items()}
    return known | {name: adapter.__name__ for name, (adapter, _) in _REGISTERED.items()}


def is_registered(config: Any) -> bool:
    """Whether a model's adapter was added by `register_encoder`."""
    return getattr(config, "model_type", None) in _REGISTERED


def adapter_class(config: Any) -> type[EncoderAdapter]:
    """The adapter of a model's configuration.

    Raises:
        EncoderError: there is none; the message lists those there are.
    """
    model_type = _known_type(config)
    if model_type in _REGISTERED:
        return _REGISTERED[model_type][0]
    entry = _ENTRIES[model_type]
    return getattr(importlib.import_module(entry.module), entry.class_name)


def model_class(config: Any) -> Any:
    """The transformers class that loads a vision model of this configuration."""
    import transformers

    model_type = _known_type(config)
    if model_type in _REGISTERED:
        return _REGISTERED[model_type][1] or transformers.AutoModel
    return getattr(transformers, _ENTRIES[model_type].model_class)


def _known_type(config: Any) -> str:
    model_type = getattr(config, "model_type", None)
    if model_type in _REGISTERED or model_type in _ENTRIES:
        return model_type
    raise EncoderError(
        f"no adapter for models of type {model_type!r}; there are adapters for "
        f"{', '.join(sorted(list_encoders()))}. Adding one takes one file: "
        "autogaze.register_encoder, see docs/encoders.md"
    )
