"""A vision model in a folder or on the hub: its configuration first, then its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autogaze.errors import EncoderError
from autogaze.vision_encoders.registry import model_class

HUB_OPTIONS = (
    "subfolder",
    "revision",
    "token",
    "cache_dir",
    "force_download",
    "local_files_only",
    "trust_remote_code",
)
"""What says where a checkpoint is, so that its configuration is looked for there as well."""
SETTINGS_KEY = "autogaze"
"""Where `config.json` keeps how the model sees gazes."""
GAZED_OPTIONS = ("scales", "attn_type", "backend", "max_tokens", "empty_frames")
"""The options of `gazed`, which may stand there."""


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
        """Read the configuration alone, which is quick.

        Args:
            name: folder or hub id.
            options: of transformers' `from_pretrained`; `HUB_OPTIONS` count here.

        Raises:
            EncoderError: there is none, no adapter knows its family, or options of `gazed`
                were saved in it that are not known.
        """
        from transformers import AutoConfig

        where = {key: options[key] for key in HUB_OPTIONS if key in options}
        try:
            config = AutoConfig.from_pretrained(str(name), **where)
        except (OSError, ValueError) as error:  # not there, or no JSON, or of no known family
            raise _unusable(str(name), error) from error
        model_class(config)
        saved = getattr(config, SETTINGS_KEY, None) or {}
        unknown = sorted(set(saved) - set(GAZED_OPTIONS))
        if unknown:
            raise EncoderError(
                f"{name}: config.json says {SETTINGS_KEY}: {', '.join(unknown)}, which is not "
                f"known; known are {', '.join(GAZED_OPTIONS)}"
            )
        return cls(str(name), config, saved)

    def load(self, **options: Any) -> nn.Module:
        """The transformers model with its weights.

        Args:
            options: of transformers' `from_pretrained`.

        Raises:
            EncoderError: the weights are not there, or damaged.
        """
        from safetensors import SafetensorError

        try:
            return model_class(self.config).from_pretrained(self.name, **options)
        except (OSError, ValueError, SafetensorError) as error:
            raise _unusable(self.name, error) from error


def _unusable(name: str, error: Exception) -> EncoderError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return EncoderError(f"{name}: cannot be loaded as a vision encoder: {first}")
