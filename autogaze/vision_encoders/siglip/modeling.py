"""SigLIP with AutoGaze's interface, `siglip(video, gazing_info=gaze)`.

transformers' model with its own parameters; with a gaze it encodes the gazed patches only.
"""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import SiglipVisionConfig as DenseConfig
from transformers import SiglipVisionModel as DenseModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders import attention
from autogaze.vision_encoders.adapter import side_of
from autogaze.vision_encoders.encode import GazedSettings, encode
from autogaze.vision_encoders.gazed import as_gaze
from autogaze.vision_encoders.layout import check_attention_type
from autogaze.vision_encoders.siglip.adapter import SiglipAdapter


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
        """Raise EncoderError for an unknown `attn_type` or a `max_embed_batch_size` below 1.

        Called again where the model is used, since transformers sets the keys given to
        `from_pretrained` afterwards.
        """
        check_attention_type(self.attn_type)
        frames = self.max_embed_batch_size
        if frames is not None and frames < 1:
            raise EncoderError(f"max_embed_batch_size must be at least 1 frame, got {frames}")

    @property
    def pyramid(self) -> PatchPyramid:
        """Patches of its gazes."""
        scales = self.scales if self.scales is not None else side_of(self.image_size)
        return PatchPyramid.parse(scales, side_of(self.patch_size), crop=True)


class SiglipVisionModel(DenseModel):
    """transformers' `SiglipVisionModel` that can be given a gaze.

    Every `attn_implementation` is accepted and ignored: gazed attention chooses by the device
    (see `vision_encoders.attention`).
    """

    config_class = SiglipVisionConfig
    config: SiglipVisionConfig

    def __init__(self, config: SiglipVisionConfig) -> None:
        # Before transformers asks whether the wanted one is installed, and after it has chosen.
        config._attn_implementation = attention.NAME
        super().__init__(config)
        config.check()
        self._use_gazed_attention()
        self.register_load_state_dict_pre_hook(_rename_published)

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> "SiglipVisionModel":
        """As transformers does; also takes the configuration's keys, such as `scales`."""
        options.pop("attn_implementation", None)
        return super().from_pretrained(*args, **options)

    def forward(
        self,
        pixel_values: Float[Tensor, "B T 3 S S"] | Float[Tensor, "B 3 S S"],
        gazing_info: Gaze | dict[str, Any] | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Features of the gazed patches, or of the whole image where no gaze is given.

        Args:
            pixel_values: with a gaze (B, T, 3, S, S), S the largest scale; else images.
            gazing_info: the padded dict that AutoGaze returns, or a `Gaze`.

        Returns:
            `last_hidden_state` and `hidden_states` of a padded dict are (B, slots, C),
            zero where padded; of a `Gaze` they are (N, C) in its order. `pooler_output`
            is (B, T, C).
        """
        self._use_gazed_attention()
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        if gazing_info is None:
            if pixel_values.ndim != 4:
                raise EncoderError(
                    "without gazing_info images (B, 3, H, W) are expected, "
                    f"got {tuple(pixel_values.shape)}; give the gaze of a video with it"
                )
            return super().forward(
                pixel_values,
                interpolate_pos_encoding=interpolate_pos_encoding,
                output_hidden_states=output_hidden_states,
                **({} if return_dict is None else {"return_dict": return_dict}),
                **options,
            )
        unknown = [name for name, value in options.items() if value]
        if unknown:
            raise EncoderError(f"gazed encoding does not know {', '.join(unknown)}")
        pyramid = self.config.pyramid
        gaze = as_gaze(gazing_info, pyramid.patch_size, pyramid)
        out = encode(
            SiglipAdapter(self),
            pixel_values,
            gaze,
            self._settings(),
            output_hidden_states=output_hidden_states,
        )
        if isinstance(gazing_info, Gaze):
            return out if return_dict in (None, True) else out.to_tuple()
        is_padding = gazing_info["if_padded_gazing"].bool().to(pixel_values.device)
        padded = BaseModelOutputWithPooling(
            last_hidden_state=_unpacked(out.last_hidden_state, is_padding),
            pooler_output=out.pooler_output,
            hidden_states=tuple(_unpacked(state, is_padding) for state in out.hidden_states or ())
            or None,
        )
        return padded if return_dict in (None, True) else padded.to_tuple()

    def _settings(self) -> GazedSettings:
        config = self.config
        config.check()
        return GazedSettings(
            config.pyramid,
            "frame_independent" if config.frame_independent_encoding else config.attn_type,  # type: ignore[arg-type]
            frames_at_once=config.max_embed_batch_size or 64,
        )

    def _use_gazed_attention(self) -> None:
        # Without a gaze it is SDPA over the whole image.
        if self.config._attn_implementation != attention.NAME:
            self.config._attn_implementation = attention.NAME


def _rename_published(module: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    """Load hook for published names, which start with `vision_model.`; transformers 5's do not.

    `from_pretrained` handles both by itself.
    """
    prefix = "vision_model."
    if not hasattr(module, "vision_model"):
        for name in [name for name in state if name.startswith(prefix)]:
            state[name.removeprefix(prefix)] = state.pop(name)


def _unpacked(
    packed: Float[Tensor, "N C"], is_padding: Bool[Tensor, "B slots"]
) -> Float[Tensor, "B slots C"]:
    """Features of the slots that are not padding, zeros in the others."""
    rows = packed.new_zeros(*is_padding.shape, packed.shape[-1])
    return rows.masked_scatter(~is_padding[..., None], packed) if rows.numel() else rows
