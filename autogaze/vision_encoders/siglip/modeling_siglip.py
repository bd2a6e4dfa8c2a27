"""SigLIP with AutoGaze's interface, `siglip(video, gazing_info=gaze)`.

The modules and the names of parameters are those of the published checkpoints,
`vision_model.encoder...`, with every version of transformers; with a gaze the gazed patches only
are encoded. The padded dict of AutoGaze's users is read as its encoder reads it: slots, not sets of
patches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.siglip.modeling_siglip import (
    SiglipEncoder,
    SiglipMultiheadAttentionPoolingHead,
    SiglipPreTrainedModel,
    SiglipVisionEmbeddings,
)

from autogaze.checks import describe_value, is_dense, whole
from autogaze.clips import FramesLike
from autogaze.errors import EncoderError, GeometryError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.utils.checkpoints import check_loaded, misshapen_weights
from autogaze.utils.device import sent
from autogaze.utils.hub import refuse_pickles
from autogaze.vision_encoders import blocks
from autogaze.vision_encoders.encode import encode, encode_patches
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.packed import (
    GazedSettings,
    PackedPatches,
    other_scales,
    padded_pyramid,
)
from autogaze.vision_encoders.siglip.adapter import SiglipAdapter, pool_frames
from autogaze.vision_encoders.siglip.configuration_siglip import SiglipVisionConfig

__all__ = ["SiglipPreTrainedModel", "SiglipVisionModel", "SiglipVisionTransformer"]


@dataclass
class SiglipGazedOutput(BaseModelOutputWithPooling):
    """Features of a padded gaze's slots.

    Attributes:
        last_hidden_state: (B, slots, C), zero where padded.
        pooler_output: (B, C), the attention head over all gazed patches of a clip; zero where
            a clip has none, None without a head.
        hidden_states: (B, slots, C) each, zero where padded, when asked for.
        frame_pooler_output: (B, T, C), the head over every frame's patches; zero where a
            frame has none.
    """

    frame_pooler_output: Float[Tensor, "B T C"] | None = None


class SiglipVisionTransformer(nn.Module):
    """The modules of a SigLIP vision model, and its passes: gazed, and over whole images."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = SiglipVisionEmbeddings(config)
        self.embeddings.register_load_state_dict_post_hook(_renew_numbers)
        self.encoder = SiglipEncoder(config)  # type: ignore[arg-type]
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.use_head = bool(getattr(config, "vision_use_head", True))
        if self.use_head:
            self.head = SiglipMultiheadAttentionPoolingHead(config)

    def forward(
        self,
        pixel_values: Float[Tensor, "B T 3 H W"] | Float[Tensor, "B 3 S S"] | FramesLike,
        gazing_info: Gaze | Mapping[str, Any] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Features of gazed patches or whole images; see `SiglipVisionModel.forward`."""
        # A model that this one is part of may have chosen another one for all its parts.
        self.config._attn_implementation = blocks.registered()
        options["output_attentions"] = output_attentions
        # What is off asks for nothing.
        unknown = [n for n, value in options.items() if value is not None and value is not False]
        if unknown:
            raise EncoderError(f"gazed encoding does not know {', '.join(unknown)}")
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        pixels: Any = pixel_values
        takes_any = isinstance(gazing_info, Gaze)  # frames in any form, as gazed models do
        is_right = isinstance(pixels, Tensor) if gazing_info is None else is_dense(pixels)
        if not (takes_any or is_right):
            raise EncoderError(
                "pixel_values must be a dense tensor, as image processors make it with "
                f"return_tensors='pt', got {describe_value(pixel_values)}"
            )
        if gazing_info is None and pixels.ndim != 4:
            raise EncoderError(
                "without gazing_info images (B, 3, H, W) are expected, "
                f"got {tuple(pixels.shape)}; give the gaze of a video with it"
            )
        out: Any
        if gazing_info is None:
            out = self._dense(pixels, interpolate_pos_encoding, output_hidden_states)
        elif isinstance(gazing_info, Gaze):
            out = encode(
                SiglipAdapter(self),
                pixel_values,
                gazing_info,
                self._settings("error"),
                output_hidden_states=output_hidden_states,
            )
        else:
            out = self._padded(pixels, gazing_info, output_hidden_states)
        if return_dict is None:
            return_dict = bool(getattr(self.config, "return_dict", True))
        if return_dict:
            return out
        values = out.to_tuple()
        # The known tuple has no feature per frame, which stands last.
        return values[:-1] if getattr(out, "frame_pooler_output", None) is not None else values

    def _dense(
        self, images: Float[Tensor, "B 3 S S"], interpolate: bool, output_hidden_states: bool
    ) -> BaseModelOutputWithPooling:
        x = self.embeddings(images, interpolate_pos_encoding=interpolate)
        states = [x]
        for layer in self.encoder.layers:
            out = layer(x, None)
            x = out[0] if isinstance(out, tuple) else out  # transformers 4 returns tuples
            states.append(x)
        x = self.post_layernorm(x)
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=self.head(x) if self.use_head else None,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def _padded(
        self,
        video: Float[Tensor, "B T 3 H W"],
        padded: Mapping[str, Any],
        output_hidden_states: bool,
    ) -> SiglipGazedOutput:
        patches, is_padding = read_padded(padded, self.config.pyramid, video.device)
        out = encode_patches(
            SiglipAdapter(self),
            video,
            patches,
            self._settings("zero"),
            output_hidden_states=output_hidden_states,
        )
        return SiglipGazedOutput(
            last_hidden_state=_unpacked(out.patches, is_padding),
            pooler_output=self._pooled(out.patches, is_padding) if self.use_head else None,
            hidden_states=tuple(_unpacked(state, is_padding) for state in out.layers) or None,
            frame_pooler_output=out.pooled,
        )

    def _pooled(
        self, packed: Float[Tensor, "N C"], is_padding: Bool[Tensor, "B slots"]
    ) -> Float[Tensor, "B C"]:
        """The head over all patches of every clip."""
        counts = (~is_padding).sum(1).tolist()
        clips = TokenLayout(tuple((count,) for count in counts), "bidirectional", packed.device)
        is_empty = sent(torch.tensor([count == 0 for count in counts]), packed.device)
        return pool_frames(self.head, packed, clips).masked_fill(is_empty[:, None], 0.0)

    def _settings(self, empty_frames: str) -> GazedSettings:
        config = self.config
        config.check()
        return GazedSettings(
            config.pyramid,
            "frame_independent" if config.frame_independent_encoding else config.attn_type,  # type: ignore[arg-type]
            frames_at_once=whole(config.max_embed_batch_size) or 64,
            empty_frames=empty_frames,
            resize_frames=True,
        )


class AutoGazeSiglipVisionModel(SiglipPreTrainedModel):
    """transformers' `SiglipVisionModel` that can be given a gaze.

    Every `attn_implementation` is accepted and ignored: gazed attention chooses by the device
    (see `vision_encoders.attention`).
    """

    config_class = SiglipVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    config: SiglipVisionConfig  # type: ignore[assignment]

    def __init__(self, config: SiglipVisionConfig) -> None:
        # Before transformers asks whether the wanted one is installed, and after it has chosen.
        config._attn_implementation = blocks.registered()
        super().__init__(config)
        config.check()
        self.scales = list(config.pyramid.scales)
        self.vision_model = SiglipVisionTransformer(config)
        self.config._attn_implementation = blocks.registered()
        self.register_load_state_dict_pre_hook(_add_prefix)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any = None, *args: Any, **options: Any
    ) -> Any:
        """As transformers does; also takes the configuration's keys, such as `scales`.

        Raises:
            CheckpointError: weights in pickles, which are not read; or some are missing, others than
                those of the head.
        """
        wants_info = options.pop("output_loading_info", False)
        options.pop("attn_implementation", None)
        options.setdefault("use_safetensors", True)
        if options["use_safetensors"]:
            refuse_pickles(pretrained_model_name_or_path, options.get("subfolder"))
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **options
        )
        info, may_differ = loaded[1], options.get("ignore_mismatched_sizes")
        missing = set(info["missing_keys"]) - misshapen_weights(info).keys()
        if all(name.startswith("vision_model.head.") for name in missing):
            missing = set()  # only `pooler_output` needs it: transformers' warning says enough
        found = {
            "missing_keys": missing,
            # As the file has them: transformers 5 has put `vision_model.` before (`_register_names`).
            "unexpected_keys": [n.removeprefix("vision_model.") for n in info["unexpected_keys"]],
            "mismatched_keys": [] if may_differ else info["mismatched_keys"],
        }
        check_loaded(pretrained_model_name_or_path, found)
        return loaded if wants_info else loaded[0]

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.embeddings.patch_embedding

    def forward(
        self,
        pixel_values: Float[Tensor, "B T 3 H W"] | Float[Tensor, "B 3 S S"] | FramesLike,
        gazing_info: Gaze | Mapping[str, Any] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Features of the gazed patches, or of the whole image where no gaze is given.

        Args:
            pixel_values: with a gaze (B, T, 3, H, W) of any size: they are resized to every
                scale (bicubic, not antialiased); else images. With a `Gaze` in any form that
                `autogaze.clips.as_frames` takes, else a tensor.
            gazing_info: the padded dict that AutoGaze returns, or a `Gaze`. Of the dict
                `gazing_pos` (B, slots), `if_padded_gazing` (B, slots) and
                `num_gazing_each_frame` (T,) or (B, T) are read; ids may stand in any order and
                repeatedly, and frames may be padded wholly.

        Returns:
            For a padded dict `SiglipGazedOutput`: features are (B, slots, C), `pooler_output`
            is (B, C). For a `Gaze` a `GazedOutput`: features are (N, C) in its order,
            `pooler_output` is (B, T, C). For images as transformers does.

        Raises:
            EncoderError: video, gaze and model do not fit together.
            GeometryError: a padded dict whose parts disagree.
        """
        return self.vision_model(
            pixel_values,
            gazing_info,
            output_attentions,
            output_hidden_states,
            interpolate_pos_encoding,
            return_dict,
            **options,
        )


SiglipVisionModel = AutoGazeSiglipVisionModel
"""The known name. The class has one of its own, since transformers 5 looks up by a class's name how
the parameters of a checkpoint are renamed, and those of its `SiglipVisionModel` are other ones."""

_PARTS = ("embeddings", "encoder", "post_layernorm", "head")


def _add_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load hook for names without `vision_model.`, which transformers 5's own model has."""
    for name in [name for name in state if name.startswith(prefix)]:
        inner = name.removeprefix(prefix)
        if inner.partition(".")[0] in _PARTS:
            state[f"{prefix}vision_model.{inner}"] = state.pop(name)


def _renew_numbers(embeddings: Any, _: Any) -> None:
    """Load hook: positions' numbers, which no state dict has, lie where the weights do.

    A model that was made on the meta device, and its weights assigned, would read them from nowhere.
    """
    weight, numbers = embeddings.position_embedding.weight, embeddings.position_ids
    if numbers.device != weight.device:
        embeddings.position_ids = torch.arange(len(weight), device=weight.device).expand(1, -1)


def _register_names() -> None:
    """The same for `from_pretrained` of a model that has this one as a part, from transformers 5.9 on.

    Earlier ones look for names of the whole model only.
    """
    try:
        from transformers.conversion_mapping import register_checkpoint_conversion_mapping
        from transformers.core_model_loading import PrefixChange
    except ImportError:
        return

    class AddPrefix(PrefixChange):
        """On loading only: checkpoints are saved under the published names."""

        def reverse_transform(self) -> PrefixChange:
            return self

    register_checkpoint_conversion_mapping(
        AutoGazeSiglipVisionModel.__name__,
        [AddPrefix(prefix_to_add="vision_model")],
        overwrite=True,
    )


_register_names()


def _unpacked(
    packed: Float[Tensor, "N C"], is_padding: Bool[Tensor, "B slots"]
) -> Float[Tensor, "B slots C"]:
    """Features of the slots that are not padding, zeros in the others."""
    rows = packed.new_zeros(*is_padding.shape, packed.shape[-1])
    return rows.masked_scatter(~is_padding[..., None], packed) if rows.numel() else rows


KEYS = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame")


def read_padded(
    padded: Mapping[str, Any], pyramid: PatchPyramid, device: torch.device
) -> tuple[PackedPatches, Bool[Tensor, "B slots"]]:
    """The patches of a padded dict, and which of its slots are padding.

    A slot shows the patch of its id, wherever in the clip that is, and belongs to the frame that
    `num_gazing_each_frame` puts it in. Padded slots may hold any id.

    Raises:
        EncoderError: no such dict, or one for other scales.
        GeometryError: shapes that disagree, or ids out of range.
    """
    _check(padded, pyramid)
    positions, is_padding, counts = (torch.as_tensor(padded[key]) for key in KEYS)
    positions, is_padding = positions.to(device), is_padding.to(device).bool()
    counts = counts.long().cpu()
    if positions.ndim != 2 or positions.shape != is_padding.shape or counts.ndim not in (1, 2):
        raise _disagreeing(positions, is_padding, counts)
    clips, slots = positions.shape
    if counts.ndim == 1:  # the same for all clips
        counts = counts.expand(clips, -1)
    if len(counts) != clips or (counts < 0).any() or (counts.sum(1) != slots).any():
        raise _disagreeing(positions, is_padding, counts)
    frames = counts.shape[1]
    every_frame = torch.arange(frames).repeat(clips)
    # Frame that each slot belongs to, (clips, slots), and number of real slots of every frame.
    frame = every_frame.repeat_interleave(counts.flatten()).view(clips, slots).to(device)
    kept = ~is_padding
    lengths = torch.zeros(clips, frames, dtype=torch.long, device=device)
    lengths.scatter_add_(1, frame, kept.long())
    chosen = positions[kept].long()
    clip = torch.arange(clips, device=device)[:, None].expand(clips, slots)[kept]
    vocabulary = pyramid.num_patches
    if chosen.numel() and not (chosen.min() >= 0 and chosen.max() < frames * vocabulary):
        raise GeometryError(
            f"patch ids of {frames} frames must lie in [0, {frames * vocabulary}), those of the "
            f"first frame in [0, {vocabulary}), got ids from {int(chosen.min())} to "
            f"{int(chosen.max())}"
        )
    cut_from = clip * frames + chosen // vocabulary
    return PackedPatches(pyramid, chosen % vocabulary, cut_from, lengths.cpu()), is_padding


def _check(padded: Mapping[str, Any], pyramid: PatchPyramid) -> None:
    made = padded_pyramid(padded, pyramid.patch_size)
    missing = [key for key in KEYS if key not in padded]
    if missing:
        raise GeometryError(
            f"the gaze has no {', '.join(missing)}; expected {', '.join(KEYS)}, got {sorted(padded)}"
        )
    count = padded.get("num_vision_tokens_each_frame")
    if count is not None and int(count) != pyramid.num_patches:
        raise EncoderError(
            f"the gaze has {int(count)} patches per frame, this encoder was set up for {pyramid} "
            f"(scales / patch size), which has {pyramid.num_patches}; select with that pyramid"
        )
    if made is None or made == pyramid:
        return
    # Two pyramids of as many patches number them differently. Scales of another number of patches
    # are those that the selector looked at, before its ids were fitted to the encoder's grid.
    if count is None or made.num_patches == int(count):
        raise other_scales(made, pyramid)


def _disagreeing(positions: Tensor, is_padding: Tensor, counts: Tensor) -> GeometryError:
    return GeometryError(
        f"gazing_pos is {tuple(positions.shape)}, if_padded_gazing {tuple(is_padding.shape)} and "
        f"num_gazing_each_frame {tuple(counts.shape)} with {counts.sum(-1).tolist()} slots in all; "
        "expected (clips, slots) twice and the slots of every frame, (frames,) or (clips, frames)"
    )
