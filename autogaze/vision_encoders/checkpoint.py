"""Checkpoints of vision models, in a folder or on the hub: first the configuration, then weights."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autogaze.errors import CheckpointError, EncoderError, first_line
from autogaze.utils.checkpoints import describe_mismatch, misshapen_weights, unfit
from autogaze.utils.hub import HUB_OPTIONS, refuse_pickles
from autogaze.vision_encoders.adapter import trunk
from autogaze.vision_encoders.registry import model_class

CONFIG_OPTIONS = (*HUB_OPTIONS, "trust_remote_code")
"""Options of `from_pretrained` by which a checkpoint's configuration is found and read."""
SETTINGS_KEY = "autogaze"
"""Key of the gaze options in `config.json`."""
GAZED_OPTIONS = ("scales", "attn_type", "backend", "max_tokens", "empty_frames")
"""The options of `gazed` that `config.json` may hold under `SETTINGS_KEY`."""


@dataclass(frozen=True)
class Checkpoint:
    """A plain or gazed vision model, or an image-text model, whose configuration has been read.

    Attributes:
        name: folder or hub id.
        config: its transformers configuration.
        saved: options of `gazed` that were saved with it.
    """

    name: str
    config: Any
    saved: dict[str, Any]

    @classmethod
    def read(cls, name: str | Path, **options: Any) -> "Checkpoint":
        """Read the configuration alone, without weights.

        Args:
            name: folder or hub id.
            options: of transformers' `from_pretrained`, of which `CONFIG_OPTIONS` are used.

        Raises:
            EncoderError: there is none, no adapter knows its family, or options of `gazed`
                were saved in it that are not known.
        """
        from transformers import AutoConfig

        where = {key: options[key] for key in CONFIG_OPTIONS if key in options}
        try:
            config = AutoConfig.from_pretrained(str(name), **where)
        except (OSError, ValueError) as error:  # not there, or no JSON, or of no known family
            raise _unusable(str(name), error) from error
        model_class(config)
        saved = getattr(config, SETTINGS_KEY, None) or {}
        unknown = sorted(set(saved) - set(GAZED_OPTIONS))
        if unknown:
            raise EncoderError(
                f"{name}: unknown {SETTINGS_KEY} options in config.json: {', '.join(unknown)}; "
                f"known are {', '.join(GAZED_OPTIONS)}"
            )
        return cls(str(name), config, saved)

    def load(self, **options: Any) -> nn.Module:
        """The transformers model with its weights; without a pooler where it has none saved.

        Args:
            options: of transformers' `from_pretrained`.

        Raises:
            EncoderError: the weights are not there or damaged, some that a gazed model uses
                are missing, or some have other shapes than the configuration says.
        """
        from safetensors import SafetensorError

        # Wrong shapes are collected with what is missing and refused below.
        asked = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        asked["use_safetensors"] = True  # a pickle is a program
        try:
            refuse_pickles(self.name, options.get("subfolder"))
            model, info = model_class(self.config).from_pretrained(self.name, **asked)
        except CheckpointError as error:
            raise EncoderError(str(error)) from error
        except (OSError, ValueError, SafetensorError) as error:
            raise _unusable(self.name, error) from error
        misshapen = misshapen_weights(info)
        missing = set(info["missing_keys"]) - set(misshapen)
        if _is_poolerless(model, missing):
            model.pooler = None
            missing = {name for name in missing if not name.startswith(_POOLER)}
        problems = describe_mismatch(
            missing=_used(model, missing),
            unexpected=(),
            misshapen=[misshapen[name] for name in _used(model, misshapen)],
        )
        if problems:
            raise EncoderError(unfit(self.name, problems, info))
        return model


_POOLER = "pooler."


def _is_poolerless(model: nn.Module, missing: set[str]) -> bool:
    """Whether no weight of the pooler was saved, and the model can do without one.

    Models with heads (`ViTForImageClassification`) are made with `add_pooling_layer=False`,
    and their configuration does not say so.
    """
    names = {name for name, _ in model.named_parameters() if name.startswith(_POOLER)}
    optional = "add_pooling_layer" in inspect.signature(type(model)).parameters
    return optional and bool(names) and names <= missing


def _used(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Parameters that a gazed model uses: those of its trunk but for mask tokens."""
    inner = trunk(model)
    prefix = next(f"{name}." if name else "" for name, m in model.named_modules() if m is inner)
    return sorted(
        name for name in names if name.startswith(prefix) and not name.endswith("mask_token")
    )


def _unusable(name: str, error: Exception) -> EncoderError:
    return EncoderError(f"{name}: cannot be loaded as a vision encoder: {first_line(error)}")
