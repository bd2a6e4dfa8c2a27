"""SigLIP's configurations with AutoGaze's keys."""

from typing import Any

from transformers import SiglipConfig as DenseSiglipConfig
from transformers import SiglipTextConfig
from transformers import SiglipVisionConfig as DenseConfig

from autogaze.checks import describe_value, whole
from autogaze.errors import EncoderError
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.adapter import side_of
from autogaze.vision_encoders.layout import check_attention_type

__all__ = ["SiglipConfig", "SiglipTextConfig", "SiglipVisionConfig"]


class SiglipVisionConfig(DenseConfig):
    """transformers' SigLIP configuration with AutoGaze's four keys.

    Args:
        scales: sides in pixels as AutoGaze writes them, "32+64+112+224"; None: one
            scale, the image size.
        attn_type: "block_causal", "causal" or "bidirectional".
        frame_independent_encoding: a token sees its own frame only, whatever `attn_type` is.
        max_embed_batch_size: frames resized together while patches are cut; None: 64.

    Raises:
        EncoderError: see `check`.
    """

    def __init__(
        self,
        scales: str | int | None = None,
        attn_type: str = "block_causal",
        frame_independent_encoding: bool = False,
        max_embed_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.scales = scales
        self.attn_type = attn_type
        self.frame_independent_encoding = frame_independent_encoding
        self.max_embed_batch_size = max_embed_batch_size
        self.check()

    def check(self) -> None:
        """Raise EncoderError for values of AutoGaze's keys that there cannot be.

        Called again where the model is used, since transformers sets the keys given to
        `from_pretrained` afterwards.
        """
        check_attention_type(self.attn_type)
        frames = self.max_embed_batch_size
        count = whole(frames)
        if frames is not None and (count is None or count < 1):
            raise EncoderError(
                f"max_embed_batch_size must be at least 1 frame, got {describe_value(frames)}"
            )
        if not isinstance(self.frame_independent_encoding, bool):
            raise EncoderError(
                "frame_independent_encoding must be true or false, got "
                f"{describe_value(self.frame_independent_encoding)}"
            )

    @property
    def pyramid(self) -> PatchPyramid:
        """Patches of its gazes."""
        scales = self.scales if self.scales is not None else side_of(self.image_size)
        return PatchPyramid.parse(scales, side_of(self.patch_size), crop=True)


class SiglipConfig(DenseSiglipConfig):
    """transformers' configuration of both towers; its `vision_config` is a `SiglipVisionConfig`."""

    sub_configs = {  # noqa: RUF012 - as transformers declares it
        "text_config": SiglipTextConfig,
        "vision_config": SiglipVisionConfig,
    }

    def __init__(
        self,
        text_config: dict[str, Any] | SiglipTextConfig | None = None,
        vision_config: dict[str, Any] | SiglipVisionConfig | None = None,
        **options: Any,
    ) -> None:
        text, vision = _values(text_config), _values(vision_config)
        # transformers knows the keys of its own class only.
        own = ("scales", "attn_type", "frame_independent_encoding", "max_embed_batch_size")
        dense = {key: value for key, value in vision.items() if key not in own}
        super().__init__(text_config=text, vision_config=dense, **options)
        self.vision_config = SiglipVisionConfig(**vision)


def _values(config: Any) -> dict[str, Any]:
    return dict(config or {}) if isinstance(config, dict | None) else config.to_dict()
