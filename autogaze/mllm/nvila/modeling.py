"""NVILA-HD-Video: SigLIP on gazed patches of tiles and thumbnails, a projector, and a causal LLM."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)

from autogaze.checks import whole
from autogaze.errors import MLLMError
from autogaze.mllm.adapter import VisualFeatures
from autogaze.mllm.checks import check_prompt
from autogaze.mllm.embeddings import PromptEmbeddings
from autogaze.mllm.nvila.checkpoint import (
    PROJECTOR,
    built_on_meta,
    check_counts,
    check_memory,
    check_stored,
    naming,
    renaming,
    weight_bytes,
    weight_names,
)
from autogaze.mllm.nvila.configuration import AutoGazeMLLMConfig, NVILAConfig
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo, as_gazed_videos
from autogaze.mllm.nvila.prompts import as_token, check_ids, check_text, videos_of_rows
from autogaze.mllm.nvila.published import KEYS, from_published
from autogaze.mllm.nvila.token_budget import check_length
from autogaze.utils.checkpoints import check_loaded
from autogaze.utils.device import sent
from autogaze.utils.hub import refuse_pickles
from autogaze.vision_encoders import blocks
from autogaze.vision_encoders.layout import AttentionType, token_layout
from autogaze.vision_encoders.positions import PositionTables
from autogaze.vision_encoders.siglip.adapter import SiglipAdapter
from autogaze.vision_encoders.siglip.modeling_siglip import SiglipVisionModel


def encode(tower: SiglipVisionModel, clips: GazedClips, clips_at_once: int) -> Float[Tensor, "N C"]:
    """Second-to-last hidden states of gazed patches, in the order of the gaze.

    They are those of `tower(frames, gazing_info=gaze, output_hidden_states=True)`; the last layer
    and the final norm, which nobody reads, are not computed.

    Raises:
        MLLMError: a gaze of another grid than the tower's.
    """
    config = tower.config
    pyramid = config.pyramid
    if clips.gaze.pyramid != pyramid:
        raise MLLMError(
            f"the gaze was made for {clips.gaze.pyramid} (scales / patch size), the vision tower "
            f"takes {pyramid}; give the processor target_scales={list(pyramid.scales)} and "
            f"target_patch_size={pyramid.patch_size}"
        )
    # A model that this one is part of may have chosen another one for all its parts.
    config._attn_implementation = blocks.registered()
    attn_type: AttentionType = (
        "frame_independent" if config.frame_independent_encoding else config.attn_type  # type: ignore[assignment]
    )
    adapter = SiglipAdapter(tower)
    device = adapter.projection.weight.device
    table = PositionTables.of(adapter, pyramid).positions
    if table is None:  # SigLIP has one
        raise MLLMError("the vision tower has no position embeddings")
    layers = list(adapter.layers)[:-1]
    states = []
    for part in clips.split(clips_at_once):
        pixels = sent(part.pixels, device).to(adapter.dtype)
        x = (adapter.project(pixels) + table[sent(part.gaze.ids, device)])[None]
        lengths = tuple(tuple(clip) for clip in part.gaze.lengths.tolist())
        if attn_type == "frame_independent":
            lengths = tuple((count,) for clip in lengths for count in clip)
        layout = token_layout(lengths, attn_type, device)
        for layer in layers if x.numel() else ():
            x = adapter.run(layer, x, layout, None)
        states.append(x[0])
    return torch.cat(states)


class Projector(nn.Sequential):
    """LayerNorm, Linear, GELU, LayerNorm, Linear, GELU, Linear.

    Args:
        inner: channels of the patches of one token, side by side.
        hidden: channels between the layers.
        outer: channels of the LLM's embeddings.
    """

    def __init__(self, inner: int, hidden: int, outer: int) -> None:
        super().__init__(
            nn.LayerNorm(inner),
            nn.Linear(inner, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, outer),
        )

    def forward(self, tokens: Float[Tensor, "N inner"]) -> Float[Tensor, "N outer"]:
        return super().forward(tokens)


class AutoGazeMLLM(PreTrainedModel, GenerationMixin):
    """A multimodal LLM that sees gazed patches of a video.

    Every tile frame and every thumbnail becomes ceil(patches / 9) tokens: second-to-last states of
    the tower, nine patches of a frame side by side, projected to the LLM's width and written over
    the video's placeholders. What follows is the plain LLM.

    Weights have the published names: `vision_tower.vision_model.`, `mm_projector.`, `llm.`.
    """

    config_class = AutoGazeMLLMConfig
    config: AutoGazeMLLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: AutoGazeMLLMConfig) -> None:
        super().__init__(config)
        config.check()
        check_counts(config.text_config.to_dict(), "text_config")
        check_counts(config.vision_config.to_dict(), "vision_config")
        parts = built_on_meta(lambda: _parts(config))
        # "meta" where weights are loaded into it. (Asking for the default device is no use: in
        # PyTorch 2.6 that is not what a `with` block says.)
        if torch.empty(0).device.type != "meta":
            check_memory(parts)
            parts = _parts(config)
        self.vision_tower, self.mm_projector, self.llm = parts
        kept_whole = getattr(self.llm, "_no_split_modules", None) or []
        self._no_split_modules = [*kept_whole, SiglipVisionModel.__name__]
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override] # the base lists its options
        cls, pretrained_model_name_or_path: str | Path | None, *args: Any, **options: Any
    ) -> Any:
        """As transformers does; also takes the configuration's keys, such as `max_batch_size_siglip`.

        Raises:
            CheckpointError: weights are missing or have other shapes; they are named. Or they are
                in pickles, which are not read.
        """
        name = pretrained_model_name_or_path
        if name is None or options.get("state_dict") is not None:
            return super().from_pretrained(name, *args, **options)
        wants_info = options.pop("output_loading_info", False)
        options.setdefault("ignore_mismatched_sizes", True)  # they are refused below
        options.setdefault("use_safetensors", True)
        with naming(name):
            if options["use_safetensors"]:
                refuse_pickles(name, options.get("subfolder"))
            if options.get("key_mapping") is None:
                with torch.device("meta"):
                    own = Projector(1, 1, 1)
                options["key_mapping"] = renaming(weight_names(name, **options), own) or None
            cls._check_stored(name, options)
            options["output_loading_info"] = True
            loaded: Any = super().from_pretrained(name, *args, **options)
        model, info = loaded
        check_loaded(name, info, own=PROJECTOR)
        # It is saved under its own names, which are those of the published checkpoint.
        model._weight_conversions = None
        return (model, info) if wants_info else model

    @classmethod
    def _check_stored(cls, name: str | Path, options: dict[str, Any]) -> None:
        """Raise CheckpointError where a checkpoint holds less than its config.json describes.

        A config.json may ask for any sizes, and what is missing would be made at random.
        """
        config: Any = options.get("config")
        if not isinstance(config, PretrainedConfig):
            others = {key: value for key, value in options.items() if key != "config"}
            config = cls.config_class.from_pretrained(config or name, **others)
        if stored := weight_bytes(name, **options):
            check_stored(name, built_on_meta(lambda: [cls(config)]), stored)

    def get_input_embeddings(self) -> nn.Module:
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.llm.set_output_embeddings(new_embeddings)

    def encode_videos(self, videos: Sequence[GazedVideo]) -> list[Float[Tensor, "tokens D"]]:
        """Tokens of every video: tile frames first, then thumbnails.

        Raises:
            MLLMError: a gaze of another grid than the tower's.
        """
        self.config.check()
        shuffle = self.config.mm_projector_shuffle_num
        like = next(self.mm_projector.parameters())
        every = []
        for video in videos:
            tokens = []
            for part in video.parts:
                features = encode(self.vision_tower, part, self.config.max_batch_size_siglip)
                rows = part.token_rows(shuffle).to(features.device)
                tokens.append(self.mm_projector(features[rows].flatten(1).to(like)))
            every.append(torch.cat(tokens))
        return every

    def forward(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Tensor | None = None,
        gazed_videos: Sequence[GazedVideo] | None = None,
        video_token_id: int | None = None,
        inputs_embeds: Float[Tensor, "B L D"] | None = None,
        **options: Any,
    ) -> Any:
        """The LLM's output for prompts with videos.

        Args:
            input_ids: prompts, padded on the left; the places of videos hold `video_token_id`.
            attention_mask: 1 where there is no padding; None: nowhere.
            gazed_videos: in reading order over the batch, as the processor returns them. Or the
                published dict's keys, among `options`.
            video_token_id: None: the configuration's.
            inputs_embeds: instead of `input_ids`.
            options: of the LLM's own forward, such as `labels`, and keys of the published dict.

        Raises:
            MLLMError: videos and placeholders do not fit, or the context is too long.
        """
        published = {key: options.pop(key) for key in KEYS if key in options}
        if inputs_embeds is None:
            if input_ids is None:
                raise MLLMError("give input_ids, as the processor makes them, or inputs_embeds")
            videos = self._videos(gazed_videos, published)
            self._check_prompt(input_ids, attention_mask, videos)
            if videos:
                self._check_rows(input_ids, attention_mask, videos, video_token_id, new=0)
                inputs_embeds = self._embed(input_ids, videos, video_token_id)
        given = (
            {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        )
        if attention_mask is not None and self._counts_positions(attention_mask, options):
            # As in `generate`: text begins at 0 behind padding.
            options["position_ids"] = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return self.llm(**given, attention_mask=attention_mask, **options)

    @torch.no_grad()
    def generate(  # type: ignore[override] # the base's first argument has another name
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Tensor | None = None,
        gazed_videos: Sequence[GazedVideo] | None = None,
        video_token_id: int | None = None,
        **options: Any,
    ) -> Any:
        """Generate with the LLM; arguments as of `forward`, options as of transformers' `generate`.

        Returns:
            What the LLM's `generate` returns: ids of prompt and answer, (B, L + new).

        Raises:
            MLLMError: see `forward`.
        """
        published = {key: options.pop(key) for key in KEYS if key in options}
        if input_ids is None:
            raise MLLMError("generate needs input_ids; make them with the processor")
        videos = self._videos(gazed_videos, published)
        self._check_prompt(input_ids, attention_mask, videos)
        # This model's, which was saved with it, and not the one that the LLM was made with.
        self.llm.generation_config = self.generation_config
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        input_ids, attention_mask = input_ids.to(self.device), attention_mask.to(self.device)
        if videos:
            asked = options.get("generation_config") or self.generation_config
            new = options.get("max_new_tokens") or asked.max_new_tokens or 1
            self._check_rows(input_ids, attention_mask, videos, video_token_id, new=new)
            options["inputs_embeds"] = self._embed(input_ids, videos, video_token_id)
        return self.llm.generate(input_ids=input_ids, attention_mask=attention_mask, **options)

    @torch.no_grad()
    def prompt_embeddings(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        gazed_videos: Sequence[GazedVideo] | None = None,
        video_token_id: int | None = None,
        **published: Any,
    ) -> PromptEmbeddings:
        """Prompts as embeddings for the LLM alone, served elsewhere; arguments as of `forward`.

        Raises:
            MLLMError: see `forward`.
        """
        videos = self._videos(gazed_videos, published)
        check_prompt(input_ids, attention_mask)
        input_ids = input_ids.to(self.device)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = mask.to(self.device)
        is_video = torch.zeros_like(input_ids, dtype=torch.bool)
        features: list[Float[Tensor, "tokens D"]] = []
        if videos:
            self._check_rows(input_ids, mask, videos, video_token_id, new=0)
            is_video = self._is_video(input_ids, video_token_id)
            whole = self._embed(input_ids, videos, video_token_id)
            counts = [video.num_tokens(self.config.mm_projector_shuffle_num) for video in videos]
            features = list(whole[is_video].split(counts))
        else:
            whole = self.get_input_embeddings()(input_ids)
        return PromptEmbeddings(
            input_ids=input_ids,
            inputs_embeds=whole,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[None],
            next_position=mask.sum(1)[None],
            visual_mask=is_video,
            visuals=tuple(VisualFeatures(rows) for rows in features),
        )

    def _counts_positions(self, attention_mask: Tensor, options: dict[str, Any]) -> bool:
        """Whether positions of padded prompts are to be given to the LLM."""
        cache = options.get("past_key_values")
        return (
            attention_mask.ndim == 2
            and options.get("position_ids") is None
            and (cache is None or not cache.get_seq_length())
            and "position_ids" in inspect.signature(self.llm.forward).parameters
        )

    def _videos(
        self, videos: Sequence[GazedVideo] | None, published: dict[str, Any]
    ) -> list[GazedVideo]:
        given = {key: value for key, value in published.items() if value is not None}
        own = as_gazed_videos(videos)
        if given and own:
            raise MLLMError(f"give gazed_videos or the published dict ({', '.join(given)})")
        if given:
            return from_published(given, self.config.vision_config.pyramid)
        return own

    def _check_prompt(
        self, input_ids: Any, attention_mask: Any, videos: Sequence[GazedVideo]
    ) -> None:
        """Raise MLLMError for ids and a mask that cannot be a prompt's."""
        if videos:
            check_prompt(input_ids, attention_mask)
            return
        check_text(input_ids, attention_mask)
        if not input_ids.is_cuda:  # which would have to be waited for
            check_ids(input_ids, self._vocabulary)

    @property
    def _vocabulary(self) -> int:
        """Ids that have an embedding."""
        weight = getattr(self.get_input_embeddings(), "weight", None)
        return 2**63 if weight is None else len(weight)

    def _is_video(
        self, input_ids: Int[Tensor, "B L"], video_token_id: int | None
    ) -> Bool[Tensor, "B L"]:
        return input_ids == as_token(video_token_id, self.config.video_token_id)

    def _embed(
        self, input_ids: Int[Tensor, "B L"], videos: list[GazedVideo], video_token_id: int | None
    ) -> Float[Tensor, "B L D"]:
        """Embeddings of prompts, videos written over their placeholders."""
        is_video = self._is_video(input_ids, video_token_id)
        # The placeholder may lie beyond the LLM's vocabulary.
        text = input_ids.masked_fill(is_video, 0)
        check_ids(text, self._vocabulary)
        embeds = self.get_input_embeddings()(text)
        features = torch.cat(self.encode_videos(videos)).to(embeds)
        return embeds.masked_scatter(is_video[..., None].to(embeds.device), features)

    def _check_rows(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Tensor | None,
        videos: list[GazedVideo],
        video_token_id: int | None,
        new: int,
    ) -> None:
        """Raise MLLMError for a row whose videos do not fill its placeholders, or that with `new`
        more tokens exceeds the LLM's context.
        """
        limit = whole(getattr(self.config.text_config, "max_position_embeddings", None))
        shuffle = self.config.mm_projector_shuffle_num
        is_video = self._is_video(input_ids, video_token_id)
        lengths = [input_ids.shape[1]] * len(input_ids)
        if attention_mask is not None and attention_mask.ndim == 2:
            lengths = attention_mask.sum(1).tolist()
        rows = videos_of_rows(is_video.sum(1).tolist(), videos, shuffle)
        for length, own in zip(lengths, rows, strict=True):
            check_length(int(length) + new, limit, own, shuffle)


def _parts(config: AutoGazeMLLMConfig) -> tuple[SiglipVisionModel, Projector, Any]:
    """Tower, projector and LLM."""
    return (
        SiglipVisionModel(config.vision_config),
        Projector(*config.projector_widths),
        AutoModelForCausalLM.from_config(config.text_config),
    )


class NVILAForConditionalGeneration(AutoGazeMLLM):
    """The same for checkpoints whose `model_type` is "nvila"."""

    config_class = NVILAConfig
    config: NVILAConfig
