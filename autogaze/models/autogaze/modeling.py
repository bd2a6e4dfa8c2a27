"""AutoGaze as a transformers model: checkpoints, Auto classes, and AutoGaze's call."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from autogaze.clips import FramesLike, frame_caps
from autogaze.errors import AutoGazeError, CheckpointError, SelectorError, first_line
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.gaze_model import Connector
from autogaze.models.autogaze.gazing import Gazing
from autogaze.models.autogaze.grid_adaptation import GridAdaptation
from autogaze.models.autogaze.output import AutoGazeOutput, PastGaze, resume
from autogaze.models.autogaze.published import (
    PublishedAttributes,
    PublishedGazeModel,
    as_table,
    complete,
    per_row,
    read_gazing_info,
    read_ratio,
    read_requirement,
    read_sampling,
    read_video,
)
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.scoring import Scores, score
from autogaze.utils.checkpoints import (
    check_finite,
    check_shapes,
    describe_mismatch,
    read_config,
    safetensors_shapes,
    shapes,
    under_prefix,
    wrapper_prefix,
)
from autogaze.utils.hub import no_weights, weight_files


class AutoGaze(PublishedAttributes, Gazing, PreTrainedModel):
    """The learned selector (AutoGaze, section 3).

    Videos are (B, T, 3, H, W), normalised by `AutoGazeImageProcessor`; frames of
    another size are resized (bicubic). `autogaze.load` wraps it as a selector that
    takes plain RGB and returns a `Gaze`.

    Attributes, besides those of `Gazing`:
        gazing_model: the network; its `hook` can rule what is chosen (`autogaze.models.autogaze.hook`).
    """

    config_class = AutoGazeConfig
    base_model_prefix = "autogaze"
    main_input_name = "video"
    _supports_sdpa = True
    config: AutoGazeConfig

    def __init__(self, config: AutoGazeConfig) -> None:
        # One attention for all, whatever a checkpoint or a call asks for: flash-attn is not needed.
        if isinstance(config, AutoGazeConfig):  # else transformers says what it takes
            config._attn_implementation = "sdpa"
        super().__init__(config)
        self.gazing_model = PublishedGazeModel(config)
        self.post_init()

    @classmethod
    def of(cls, plain: Gazing) -> "AutoGaze":
        """The model with the network, the settings and the state of one without transformers."""
        with torch.device("meta"):  # weights that are replaced at once
            model = cls(plain.config)
        model.gazing_model = plain.gazing_model
        model.memory_budget, model.static_shapes = plain.memory_budget, plain.static_shapes
        return model.train(plain.training)

    @property
    def compiled(self) -> bool:
        """Whether the steps of gazing with fixed shapes go through `torch.compile`.

        Off unless it is set. It saves launches, and the first call of every shape takes minutes.
        """
        return self.gazing_model.static_states.compiled

    @compiled.setter
    def compiled(self, value: bool) -> None:
        self.gazing_model.static_states.compiled = value

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a folder or a hub id, as in transformers.

        Raises:
            CheckpointError: weights that do not fit the architecture; nothing is
                silently initialised at random. Or an option that cannot be used, as the
                configuration names it.
        """
        name = str(pretrained_model_name_or_path)
        if os.path.isfile(name):
            raise CheckpointError(
                f"{name}: is a file; give the folder with config.json and weights"
            )
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.pop("attn_implementation", None)
        # Wrong shapes are collected with the other problems and refused below.
        kwargs["ignore_mismatched_sizes"] = True
        kwargs.setdefault("use_safetensors", True)  # pickles are not read
        try:
            checked = not {"config", "state_dict", "subfolder", "key_mapping"} & kwargs.keys()
            if checked:
                kwargs["key_mapping"] = cls._check_shapes(name)
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except OSError:  # not there, or not to be fetched: transformers' own words
            raise
        except Exception as error:  # what else transformers raises depends on what is wrong
            if isinstance(error, AutoGazeError) and (
                name in str(error) or _fits_without_options(name, kwargs)
            ):
                raise
            kind = type(error) if isinstance(error, AutoGazeError) else CheckpointError
            raise kind(f"{name}: cannot be loaded: {first_line(error)}") from error
        model, info = loaded
        if checked:  # transformers 5 would give a wrapper's names back on saving
            vars(model).pop("_weight_conversions", None)
        problems = describe_mismatch(
            missing=info.get("missing_keys", ()),
            unexpected=info.get("unexpected_keys", ()),
            misshapen=map(str, info.get("mismatched_keys", ())),
        )
        if problems:
            raise CheckpointError(
                f"{name}: this checkpoint does not fit its config.json: {problems}"
            )
        check_finite(dict(model.named_parameters()), name)
        return (model, info) if wants_info else model

    @classmethod
    def _check_shapes(cls, name: str) -> dict[str, str] | None:
        """Raise CheckpointError where a folder's weights do not fit its configuration.

        Only the file's header is read, and nothing is allocated: a config.json may ask for any
        sizes.

        Returns:
            How transformers is to rename them, where they were saved inside of a wrapper.
        """
        if not os.path.isdir(name):
            return None
        folder = Path(name)
        files = weight_files(folder)
        if not files:
            raise no_weights(folder)
        config = AutoGazeConfig.from_dict(read_config(folder))
        with torch.device("meta"):
            own = shapes(cls(config).state_dict())
        found = {key: shape for file in files for key, shape in safetensors_shapes(file).items()}
        prefix = wrapper_prefix(found, own.__contains__)
        hint = "They must be those of its config.json"
        check_shapes(own, under_prefix(found, prefix), name, hint=hint)
        return {f"^{re.escape(prefix)}": ""} if prefix else None

    def _init_weights(self, module: nn.Module) -> None:
        deviation = self.config.gaze_model_config.gaze_decoder_config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv3d):
            nn.init.normal_(module.weight, std=deviation)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Connector):
            nn.init.normal_(module.pos_embed, std=deviation)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)

    def score(
        self,
        video: Float[Tensor, "B T 3 H W"] | FramesLike,
        gaze: Mapping[str, Any] | GazeRows | Gaze,
    ) -> Scores:
        """Log-probability of given gazes and the losses predicted after them; differentiable.

        Args:
            gaze: a gaze, or its padded dict.
        """
        if isinstance(gaze, Gaze):
            gaze = GazeRows.of_gaze(gaze)
        elif not isinstance(gaze, GazeRows):
            gaze = GazeRows.of_padded(gaze, self.pyramid)
        tokens, _ = self.gazing_model.vision_tokens(read_video(video))
        return score(self.gazing_model.gaze_decoder, tokens, gaze)

    def forward(
        self,
        inputs: Mapping[str, Any] | Tensor | None = None,
        target_scales: list[int] | str | None = None,
        target_patch_size: int | None = None,
        gazing_info: Any = None,
        temperature: Any = 1.0,
        gazing_ratio: Any = None,
        task_loss_requirement: Any = None,
        generate_only: bool = False,
        use_cache: bool = False,
        past_key_values: PastGaze | None = None,
        past_inputs_embeds: Any = None,
        past_attention_mask: Any = None,
        past_conv_values: Any = None,
        *,
        video: Shaped[Tensor, "B T 3 H W"] | None = None,
        generator: torch.Generator | None = None,
    ) -> AutoGazeOutput:
        """Gaze at a video, or score given gazes.

        Args:
            inputs: {"video": (B, T, 3, H, W)}, normalised; or the video itself.
            gazing_info: gazes to score instead of gazing; an empty dict is none.
            gazing_ratio: cap as a share of all patches, a number or one per frame; without a
                threshold every frame takes exactly that share, one patch at least. Above 1 means
                all.
            task_loss_requirement: predicted loss at which a frame stops, a number or (B, T).
            target_scales, target_patch_size: gaze for an encoder with this grid.
            generate_only: leave the scores out.
            use_cache: return the caches that gazing at the next frames needs.
            past_key_values: cache to continue. The three other caches are views of it, which
                AutoGaze's users pass on.
            temperature: of sampling while the model trains. In evaluation the likeliest patches
                are taken, unless a generator is given; so they are at 0.
            generator: draws the samples, on the CPU, and what the config leaves open.

        Returns:
            The published keys, None where a call has no such value: caches without `use_cache`,
            scores with `generate_only`, `task_loss_requirement` (B, T) without one. `scales` are
            the model's own for other encoders' grids too, whose masks and ids the rest speaks of.

        Raises:
            SelectorError: no video, NaN frames, a negative ratio, an outdated past.
            GeometryError: target scales that do not fit.
        """
        video = _video(inputs, video)
        adaptation = self._adaptation(target_scales, target_patch_size)
        clips = video if adaptation is None else adaptation.cut(video)
        given = read_gazing_info(gazing_info, video.device)
        if given is not None:
            scores = self.score(clips, given)
            gaze = Gaze.from_padded(given, self.pyramid)
            return AutoGazeOutput(complete(given, gaze), gaze, lambda: scores)

        B, T = video.shape[:2]
        samples = self.training or generator is not None
        sampling = read_sampling(temperature if samples else 0.0, generator)
        ratio, requirement = gazing_ratio, task_loss_requirement
        if ratio is None and requirement is None:
            # By the published arguments alone, where that is enough: these methods may be replaced.
            seeded: Any = {} if generator is None else {"generator": generator}
            requirement = self.get_task_loss_requirement(video, **seeded)
            ratio = self.get_gazing_ratio_each_frame(
                inputs, video, self.get_gazing_ratio(**seeded), T, temperature, use_cache, **seeded
            )
        ratio, threshold = read_ratio(ratio), read_requirement(requirement, B, T)
        stream = resume(
            past_key_values, (past_inputs_embeds, past_attention_mask, past_conv_values)
        )
        if stream is None and use_cache:
            stream = self.stream(len(clips), num_frames=max(T, self.config.max_num_frames))
        rows = self.generate(
            clips,
            caps=frame_caps(ratio, T, self.pyramid.num_patches),
            threshold=per_row(threshold, len(clips) // B),
            sampling=sampling,
            stream=stream,
        )
        gaze = rows.to_gaze()
        if adaptation is not None:
            gaze = adaptation.stitch(gaze)
            values = {**gaze.padded(), "scales": self.scales}
        else:
            values = rows.to_padded()
        values["has_task_loss_requirement"] = threshold is not None
        values["task_loss_requirement"] = as_table(threshold, video)
        if use_cache and stream is not None:
            values |= PastGaze(stream, stream.num_frames).views()
        if generate_only or adaptation is not None or past_key_values is not None:
            return AutoGazeOutput(values, gaze)
        output = AutoGazeOutput(values, gaze, lambda: self.score(video, rows))
        if self.training and torch.is_grad_enabled():
            output.settle()
        return output

    def _adaptation(
        self, scales: list[int] | str | None, patch_size: int | None
    ) -> GridAdaptation | None:
        if scales is None and patch_size is None:
            return None
        if scales is None or patch_size is None:
            raise SelectorError(
                "target_scales and target_patch_size belong together, "
                f"got {scales} and {patch_size}"
            )
        return GridAdaptation(self.pyramid, PatchPyramid.parse(scales, patch_size, crop=True))


def _fits_without_options(name: str, given: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's configuration is sound without the options given for it."""
    own = AutoGazeConfig.options(given)
    if not own:
        return False
    rest = {key: value for key, value in given.items() if key not in own}
    try:
        AutoGazeConfig.from_pretrained(name, **rest)
    except Exception:  # whatever is wrong with it
        return False
    return True


def _video(inputs: Mapping[str, Any] | Tensor | None, video: Tensor | None) -> Tensor:
    if isinstance(inputs, Mapping):
        video = inputs.get("video", video)
    elif inputs is not None:
        video = inputs
    if video is None:
        raise SelectorError('no video: call model({"video": video}) with (B, T, 3, H, W)')
    return read_video(video)


AutoConfig.register("autogaze", AutoGazeConfig, exist_ok=True)
AutoModel.register(AutoGazeConfig, AutoGaze, exist_ok=True)
