"""Configuration of AutoGaze, in the form of its published checkpoints.

`config.json` nests the parts of the model: `gaze_model_config` holds
`vision_model_config`, `connector_config` and `gaze_decoder_config`. Published
files carry transformers' base keys in every part; unknown keys are ignored when
read and not written again.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from autogaze.checks import describe_value, is_finite, whole
from autogaze.errors import CheckpointError, GeometryError
from autogaze.geometry import PatchPyramid

ROPE_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


MAX_LAYERS, MAX_PARAMETERS = 256, 2**30
"""The most layers and parameters of a selector: more than any that is worth having before a ViT."""


class VisionModelConfig(PretrainedConfig):
    """Configuration of the vision stem: 16-pixel patches, then causal 3-D convolutions."""

    model_type = "autogaze_vision"

    def __init__(
        self,
        hidden_dim: int = 192,
        out_dim: int = 192,
        depth: int = 1,
        kernel_size: int = 16,
        temporal_patch_size: int = 1,
        trunk_temporal_kernel_size: int = 3,
        trunk_spatial_kernel_size: int = 3,
        **ignored: Any,
    ) -> None:
        super().__init__()
        _check_counts(
            "vision_model_config",
            hidden_dim=hidden_dim,
            out_dim=out_dim,
            kernel_size=kernel_size,
            trunk_temporal_kernel_size=trunk_temporal_kernel_size,
            trunk_spatial_kernel_size=trunk_spatial_kernel_size,
        )
        _check_counts("vision_model_config", least=0, most=MAX_LAYERS, depth=depth)
        if trunk_spatial_kernel_size % 2 == 0:
            raise CheckpointError(
                "vision_model_config.trunk_spatial_kernel_size must be odd, got "
                f"{trunk_spatial_kernel_size}"
            )
        if temporal_patch_size != 1:
            raise CheckpointError(
                f"temporal_patch_size must be 1 (gazing goes frame by frame), got {temporal_patch_size}"
            )
        self.hidden_dim = hidden_dim
        self.out_dim = out_dim
        self.depth = depth
        self.kernel_size = kernel_size
        self.temporal_patch_size = temporal_patch_size
        self.trunk_temporal_kernel_size = trunk_temporal_kernel_size
        self.trunk_spatial_kernel_size = trunk_spatial_kernel_size


class ConnectorConfig(PretrainedConfig):
    """Configuration of the position embedding between vision stem and decoder."""

    model_type = "autogaze_connector"

    def __init__(self, hidden_dim: int = 192, num_tokens: int = 196, **ignored: Any) -> None:
        super().__init__()
        _check_counts("connector_config", hidden_dim=hidden_dim)
        _check_counts("connector_config", most=2**22, num_tokens=num_tokens)
        self.hidden_dim = hidden_dim
        self.num_tokens = num_tokens


class GazeDecoderConfig(PretrainedConfig):
    """Configuration of the gaze decoder, a small Llama; `rope_parameters` holds RoPE's theta and scaling."""

    model_type = "autogaze_decoder"

    def __init__(
        self,
        vocab_size: int = 266,
        hidden_size: int = 192,
        intermediate_size: int = 384,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 6,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        num_multi_token_pred: int = 10,
        rms_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        max_position_embeddings: int = 131072,
        rope_parameters: dict[str, Any] | None = None,
        rope_theta: float | None = None,
        rope_scaling: dict[str, Any] | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        group = "gaze_decoder_config"
        _check_counts(
            group,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads or num_attention_heads,
            head_dim=head_dim or 2,
            num_multi_token_pred=num_multi_token_pred,
        )
        _check_counts(group, most=2**31, max_position_embeddings=max_position_embeddings)
        _check_counts(group, most=2**23, vocab_size=vocab_size)
        _check_counts(group, most=MAX_LAYERS, num_hidden_layers=num_hidden_layers)
        _check_numbers(group, rms_norm_eps=rms_norm_eps, initializer_range=initializer_range)
        _check_group(f"{group}.rope_scaling", rope_scaling)
        _check_group(f"{group}.rope_parameters", rope_parameters)
        if rope_parameters is None and (rope_theta is not None or rope_scaling is not None):
            # transformers 4 kept theta beside the scaling.
            rope_parameters = {"rope_type": "default", **(rope_scaling or {})}
            rope_parameters.setdefault("rope_theta", 10000.0 if rope_theta is None else rope_theta)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.num_multi_token_pred = num_multi_token_pred
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.max_position_embeddings = max_position_embeddings
        if head_dim is None and hidden_size % num_attention_heads:
            raise CheckpointError(
                f"{group}.hidden_size {hidden_size} is no multiple of {num_attention_heads} heads"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"{group}.head_dim must be even, got {self.head_dim}")
        self.rope_parameters = dict(rope_parameters or ROPE_LLAMA3)
        _check_rope(f"{group}.rope_parameters", self.rope_parameters)


class GazeModelConfig(PretrainedConfig):
    """Configuration of the modules that carry weights, and the size of their frames."""

    model_type = "autogaze_gaze_model"

    def __init__(
        self,
        vision_model_config: dict[str, Any] | VisionModelConfig | None = None,
        connector_config: dict[str, Any] | ConnectorConfig | None = None,
        gaze_decoder_config: dict[str, Any] | GazeDecoderConfig | None = None,
        input_img_size: int = 224,
        num_vision_tokens_each_frame: int = 265,
        **ignored: Any,
    ) -> None:
        super().__init__()
        _check_counts("gaze_model_config", input_img_size=input_img_size)
        self.vision_model_config = _part(
            VisionModelConfig, vision_model_config, "vision_model_config"
        )
        self.connector_config = _part(ConnectorConfig, connector_config, "connector_config")
        self.gaze_decoder_config = _part(
            GazeDecoderConfig, gaze_decoder_config, "gaze_decoder_config"
        )
        self.input_img_size = input_img_size
        self.num_vision_tokens_each_frame = num_vision_tokens_each_frame


class AutoGazeConfig(PretrainedConfig):
    """Configuration of an AutoGaze selector.

    Args:
        scales: sides of the patch pyramid, as "32+64+112+224".
        num_vision_tokens_each_frame: patches per frame, V; must fit `scales`.
        max_num_frames: frames of the clips it was trained on.
        gazing_ratio_config, gazing_ratio_each_frame_config,
        task_loss_requirement_config, has_task_loss_requirement_during_training,
        has_task_loss_requirement_during_inference: how ratio and loss threshold are
            drawn when a call gives neither (see `autogaze.models.autogaze.limits`).
        decode_positions: position ids of the tokens of a freshly fed block while
            gazing. "as_released": the last k ids of that frame's prefill, as the
            published weights are run. "sequential": the ids that follow, so that
            decoding and teacher-forced scoring agree.
        inhibition_of_return: a mean difference of pixel values, above 0: the probability that
            a patch is gazed at again grows with how much it has changed since, up to this much
            (`autogaze.models.autogaze.inhibition`). None, as the published weights are run:
            no inhibition.
        gaze_model_config: the modules with weights.

    Raises:
        GeometryError: scales that do not fit the patches or the vocabulary.
        CheckpointError: an unknown option, or a value of another type or out of range; names
            the option.
    """

    model_type = "autogaze"

    def __init__(
        self,
        scales: str = "32+64+112+224",
        num_vision_tokens_each_frame: int = 265,
        max_num_frames: int = 16,
        max_batch_size: int | None = None,
        attn_mode: str = "sdpa",
        use_flash_attn: bool = False,
        gazing_ratio_config: Mapping[str, Any] | None = None,
        gazing_ratio_each_frame_config: Mapping[str, Any] | None = None,
        task_loss_requirement_config: Mapping[str, Any] | None = None,
        has_task_loss_requirement_during_training: bool = False,
        has_task_loss_requirement_during_inference: bool = False,
        decode_positions: str = "as_released",
        inhibition_of_return: float | None = None,
        gaze_model_config: Mapping[str, Any] | GazeModelConfig | None = None,
        **kwargs: Any,
    ) -> None:
        _check_group("gazing_ratio_config", gazing_ratio_config)
        _check_group("gazing_ratio_each_frame_config", gazing_ratio_each_frame_config)
        _check_group("task_loss_requirement_config", task_loss_requirement_config)
        flags = {
            "training": has_task_loss_requirement_during_training,
            "inference": has_task_loss_requirement_during_inference,
        }
        for phase, flag in flags.items():
            if not isinstance(flag, bool):
                raise CheckpointError(
                    f"has_task_loss_requirement_during_{phase} must be true or false, got "
                    f"{describe_value(flag)}"
                )
        most_clips = 1 if max_batch_size is None else max_batch_size
        _check_counts("", most=2**31, max_num_frames=max_num_frames, max_batch_size=most_clips)
        self.scales = scales if isinstance(scales, str) else "+".join(map(str, _listed(scales)))
        self.num_vision_tokens_each_frame = num_vision_tokens_each_frame
        self.max_num_frames = max_num_frames
        self.max_batch_size = max_batch_size
        self.attn_mode = attn_mode
        self.use_flash_attn = use_flash_attn
        self.gazing_ratio_config = _plain(gazing_ratio_config) or {
            "sample_strategy_during_training": "fixed",
            "sample_strategy_during_inference": "fixed",
            "fixed": {"gazing_ratio": 0.5},
            "uniform": {"gazing_ratio_min": 0, "gazing_ratio_max": 1},
            "exponential": {"gazing_ratio_min": 0, "gazing_ratio_max": 1, "lambda": 10},
        }
        self.gazing_ratio_each_frame_config = _plain(gazing_ratio_each_frame_config) or {
            "sample_strategy_during_training": "uniform",
            "sample_strategy_during_inference": "uniform",
            "uniform": None,
            "dirichlet": {"alpha": 0.5},
            "self": None,
        }
        self.task_loss_requirement_config = _plain(task_loss_requirement_config) or {
            "sample_strategy_during_training": "fixed",
            "sample_strategy_during_inference": "fixed",
            "fixed": {"task_loss_requirement": 0.7},
            "uniform": {"task_loss_requirement_min": 0.6, "task_loss_requirement_max": 0.9},
        }
        self.has_task_loss_requirement_during_training = has_task_loss_requirement_during_training
        self.has_task_loss_requirement_during_inference = has_task_loss_requirement_during_inference
        if decode_positions not in ("as_released", "sequential"):
            raise CheckpointError(
                f"decode_positions must be 'as_released' or 'sequential', got {describe_value(decode_positions)}"
            )
        self.decode_positions = decode_positions
        check_inhibition(inhibition_of_return)
        self.inhibition_of_return = inhibition_of_return
        self.gaze_model_config = _part(GazeModelConfig, gaze_model_config, "gaze_model_config")
        super().__init__(**kwargs)
        self._check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration of saved values, some of them replaced by keyword arguments.

        Those are checked with the others; transformers would set them afterwards.
        """
        given = {name: kwargs.pop(name) for name in cls.options(kwargs)}
        name = "gaze_model_config"
        if isinstance(given.get(name), Mapping):  # the parts that it names
            given[name] = {**(config_dict.get(name) or {}), **given[name]}
        return super().from_dict({**config_dict, **given}, **kwargs)

    @classmethod
    def options(cls, given: Mapping[str, Any]) -> set[str]:
        """Those of some keyword arguments that are options of a configuration."""
        return inspect.signature(cls.__init__).parameters.keys() & given.keys() - {"kwargs"}

    @property
    def pyramid(self) -> PatchPyramid:
        """The patch pyramid that the model chooses from."""
        return PatchPyramid.parse(
            self.scales, self.gaze_model_config.vision_model_config.kernel_size
        )

    def _check(self) -> None:
        model = self.gaze_model_config
        pyramid, decoder = self.pyramid, model.gaze_decoder_config
        expected = {
            "num_vision_tokens_each_frame": (
                self.num_vision_tokens_each_frame,
                pyramid.num_patches,
            ),
            "gaze_decoder_config.vocab_size": (decoder.vocab_size, pyramid.num_patches + 1),
            "connector_config.num_tokens": (
                model.connector_config.num_tokens,
                (model.input_img_size // pyramid.patch_size) ** 2,
            ),
        }
        for name, (got, want) in expected.items():
            if got != want:
                raise GeometryError(
                    f"{name} is {got}, but scales {self.scales} with {pyramid.patch_size}-pixel "
                    f"patches and {model.input_img_size}-pixel frames make it {want}"
                )
        if decoder.num_attention_heads % decoder.num_key_value_heads:
            raise CheckpointError(
                f"{decoder.num_attention_heads} attention heads cannot share "
                f"{decoder.num_key_value_heads} key-value heads"
            )
        stem, width = model.vision_model_config, decoder.hidden_size
        if not stem.out_dim == model.connector_config.hidden_dim == width:
            raise CheckpointError(
                f"vision_model_config.out_dim ({stem.out_dim}), connector_config.hidden_dim "
                f"({model.connector_config.hidden_dim}) and gaze_decoder_config.hidden_size ({width}) "
                "must be equal"
            )
        if model.input_img_size % pyramid.patch_size:
            raise CheckpointError(
                f"input_img_size {model.input_img_size} is no multiple of the {pyramid.patch_size} "
                "pixels of a patch"
            )
        if (count := self._num_parameters()) > MAX_PARAMETERS:
            raise CheckpointError(
                f"a model of these sizes has {count:,} parameters; at most {MAX_PARAMETERS:,} are "
                "possible"
            )

    def _num_parameters(self) -> int:
        """Number of weights but for biases and norms."""
        model = self.gaze_model_config
        stem, decoder = model.vision_model_config, model.gaze_decoder_config
        kernel = stem.trunk_temporal_kernel_size * stem.trunk_spatial_kernel_size**2
        width, heads = decoder.hidden_size, decoder.num_attention_heads
        attention = 2 * width * decoder.head_dim * (heads + decoder.num_key_value_heads)
        return (
            3 * stem.kernel_size**2 * stem.hidden_dim
            + stem.depth * kernel * stem.hidden_dim**2
            + stem.hidden_dim * stem.out_dim
            + model.connector_config.num_tokens * width
            + decoder.num_hidden_layers * (attention + 3 * width * decoder.intermediate_size)
            + decoder.vocab_size * width * (1 + decoder.num_multi_token_pred)
        )


def _part(kind: type[PretrainedConfig], value: Any, name: str) -> Any:
    if isinstance(value, kind):
        return value
    _check_group(name, value)
    return kind(**{str(key): item for key, item in _plain(value or {}).items()})


def _plain(options: Any) -> Any:
    """Options in dicts and lists, as they are saved, whatever kind of mapping they came in."""
    if isinstance(options, Mapping):
        return {key: _plain(value) for key, value in options.items()}
    is_list = isinstance(options, Sequence) and not isinstance(options, str)
    return [_plain(value) for value in options] if is_list else options


def _check_group(name: str, value: Any) -> None:
    """Raise CheckpointError unless this is None or a group of options."""
    if not isinstance(value, Mapping | None):
        raise CheckpointError(f"{name} must be a group of options, got {describe_value(value)}")


def _check_counts(group: str, *, least: int = 1, most: int = 2**16, **counts: Any) -> None:
    """Raise CheckpointError unless these are integers in [least, most]."""
    for name, value in counts.items():
        count = None if isinstance(value, float) else whole(value)
        if count is None or not least <= count <= most:
            raise CheckpointError(
                f"{group}{'.' if group else ''}{name} must be a whole number from {least} to {most}, "
                f"got {describe_value(value)}"
            )


def _check_numbers(group: str, **numbers: Any) -> None:
    """Raise CheckpointError unless these are finite numbers of at least 0."""
    for name, value in numbers.items():
        if not (is_finite(value) and value >= 0):
            raise CheckpointError(
                f"{group}.{name} must be a finite number of at least 0, got {describe_value(value)}"
            )


def _check_rope(group: str, values: Mapping[str, Any]) -> None:
    """Raise CheckpointError for RoPE's options that cannot be used."""
    kind = values.get("rope_type", values.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise CheckpointError(
            f"{group}: rope_type must be 'default' or 'llama3', got {describe_value(kind)}"
        )
    names = ["rope_theta"]
    if kind == "llama3":
        names += ["factor", "low_freq_factor", "high_freq_factor"]
        names += ["original_max_position_embeddings"]
    for name in names:
        if not (is_finite(values.get(name)) and values[name] > 0):
            raise CheckpointError(
                f"{group}.{name} must be a finite number above 0, got {describe_value(values.get(name))}"
            )
    if kind == "llama3" and values["low_freq_factor"] == values["high_freq_factor"]:
        raise CheckpointError(f"{group}: low_freq_factor and high_freq_factor must differ")


def check_inhibition(full_change: float | None) -> None:
    """Raise CheckpointError unless this is None or a finite number above 0."""
    if full_change is not None and not (is_finite(full_change) and full_change > 0):
        raise CheckpointError(
            "inhibition_of_return must be None or the mean difference of pixel values, above 0, "
            f"from which on a patch is not inhibited; got {describe_value(full_change)}"
        )


def _listed(scales: Any) -> list[int]:
    if not isinstance(scales, int | list | tuple):
        raise CheckpointError(
            f"scales must look like '32+64+112+224', got {describe_value(scales)}"
        )
    return [scales] if isinstance(scales, int) else list(scales)
