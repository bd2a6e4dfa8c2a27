"""Configuration of an NVILA-HD-Video model: a gazed SigLIP, a projector and any causal LLM."""

from typing import Any, cast

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from autogaze.checks import describe_value
from autogaze.errors import AutoGazeError, MLLMError
from autogaze.mllm.checks import as_count
from autogaze.mllm.nvila.checkpoint import check_counts
from autogaze.vision_encoders.siglip.configuration_siglip import SiglipVisionConfig

TEXT_MODEL = "qwen2"
"""Family of the LLM where `text_config` names none."""


class AutoGazeMLLMConfig(PretrainedConfig):
    """Configuration of `AutoGazeMLLM`.

    Args:
        text_config: of the LLM, any causal LM that transformers knows by its `model_type`.
        vision_config: of the tower, a `SiglipVisionConfig`: its scales and patch size are those of
            the gazes it takes.
        image_token_id: id of the image placeholder, kept for checkpoints that have one; images are
            videos of one frame here.
        video_token_id: id of the token whose places in a prompt the video takes; -1: the
            processor's, which comes with its output.
        max_batch_size_siglip: clips that the tower encodes at a time.
        mm_projector_shuffle_num: patches of a frame that stand side by side in one token.
        mm_projector_hidden_size: width between the projector's layers; None: 3 times the tower's.

    Raises:
        MLLMError: configurations of another kind or with values of other types, or numbers out of
            range.
    """

    model_type = "autogaze_mllm"
    sub_configs = {"text_config": AutoConfig, "vision_config": SiglipVisionConfig}  # noqa: RUF012
    has_no_defaults_at_init = False

    def __init__(
        self,
        text_config: Any = None,
        vision_config: Any = None,
        image_token_id: Any = -1,
        video_token_id: Any = -1,
        max_batch_size_siglip: Any = 16,
        mm_projector_shuffle_num: Any = 9,
        mm_projector_hidden_size: Any = None,
        **options: Any,
    ) -> None:
        self.text_config = _text_config(text_config)
        self.vision_config = _vision_config(vision_config)
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.max_batch_size_siglip = max_batch_size_siglip
        self.mm_projector_shuffle_num = mm_projector_shuffle_num
        self.mm_projector_hidden_size = mm_projector_hidden_size
        self.check()
        super().__init__(**options)

    def check(self) -> None:
        """Raise MLLMError for numbers that are none, or out of range.

        Called again where the model is used, since transformers sets the keys given to
        `from_pretrained` afterwards.
        """
        for name in ("max_batch_size_siglip", "mm_projector_shuffle_num"):
            as_count(getattr(self, name), name)
        if self.mm_projector_hidden_size is not None:
            as_count(self.mm_projector_hidden_size, "mm_projector_hidden_size")
        for name in ("image_token_id", "video_token_id"):
            as_count(getattr(self, name), f"{name}, the id of a token or -1,", least=-1)

    @property
    def projector_widths(self) -> tuple[int, int, int]:
        """Channels into, between and out of the projector's layers."""
        width = self.vision_config.hidden_size
        return (
            width * self.mm_projector_shuffle_num,
            self.mm_projector_hidden_size or 3 * width,
            self.text_config.hidden_size,
        )


class NVILAConfig(AutoGazeMLLMConfig):
    """The same under the published checkpoint's `model_type`."""

    model_type = "nvila"
    # transformers 5 makes a dataclass of every configuration that has no `__init__` of its own.
    __init__ = AutoGazeMLLMConfig.__init__  # type: ignore[assignment]


def _text_config(config: Any) -> PretrainedConfig:
    if isinstance(config, PretrainedConfig):
        return config
    values = _values(config, "text_config")
    family = values.pop("model_type", TEXT_MODEL)
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise MLLMError(f"text_config: transformers knows no model_type {describe_value(family)}")
    return _made(CONFIG_MAPPING[family], values, "text_config")


def _vision_config(config: Any) -> SiglipVisionConfig:
    if isinstance(config, SiglipVisionConfig):
        return config
    if isinstance(config, PretrainedConfig):
        config = config.to_dict()
    made = _made(SiglipVisionConfig, _values(config, "vision_config"), "vision_config")
    return cast(SiglipVisionConfig, made)


def _values(config: Any, name: str) -> dict[str, Any]:
    if not isinstance(config, dict | None):
        raise MLLMError(
            f"{name} must be a configuration or its values, got {describe_value(config)}"
        )
    return dict(config or {})


def _made(family: type[PretrainedConfig], values: dict[str, Any], name: str) -> PretrainedConfig:
    """A configuration of a class of transformers."""
    check_counts(values, name)  # first: some classes make a list of all layers
    try:
        return family(**values)
    except AutoGazeError:
        raise
    except Exception as error:  # every family has checks of its own, and many have none
        raise MLLMError(
            f"{name} is no {family.__name__}: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
