"""SigLIP's vision configuration with AutoGaze's four keys."""

from typing import Any

from transformers import SiglipVisionConfig as DenseConfig

from autogaze.errors import EncoderError
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.adapter import side_of
from autogaze.vision_encoders.layout import check_attention_type


class SiglipVisionConfig(DenseConfig):
    """What transformers' SigLIP takes, and how it sees gazes.

    Args:
        scales: sides in pixels as AutoGaze writes them, "32+64+112+224"; None: one
            scale, the image size.
        attn_type: "block_causal", "causal" or "bidirectional".
        frame_independent_encoding: a token sees its own frame only, whatever `attn_type`.
        max_embed_batch_size: frames resized together while patches are cut; None: 64.
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
        """Raise EncoderError for values that no model can have.

        Called again where the model is used: transformers sets the keys that
        `from_pretrained` was given without asking.
        """
        check_attention_type(self.attn_type)
        at_once = self.max_embed_batch_size
        if at_once is not None and at_once < 1:
            raise EncoderError(f"max_embed_batch_size must be at least 1 frame, got {at_once}")

    @property
    def pyramid(self) -> PatchPyramid:
        """The patches that the model is gazed through."""
        scales = self.scales if self.scales is not None else side_of(self.image_size)
        return PatchPyramid.parse(scales, side_of(self.patch_size), crop=True)
