"""NVILA-HD-Video: gazed tiles and thumbnails of a video in the prompt of any causal LLM.

Importing this makes the classes known to transformers' `AutoConfig`, `AutoModelForCausalLM` and
`AutoProcessor`, under the model types "autogaze_mllm" and "nvila".
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from autogaze.mllm.nvila.configuration import AutoGazeMLLMConfig, NVILAConfig
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo
from autogaze.mllm.nvila.modeling import AutoGazeMLLM, NVILAForConditionalGeneration
from autogaze.mllm.nvila.processing import AutoGazeMLLMProcessor, NVILAProcessor

__all__ = [
    "AutoGazeMLLM",
    "AutoGazeMLLMConfig",
    "AutoGazeMLLMProcessor",
    "GazedClips",
    "GazedVideo",
    "NVILAConfig",
    "NVILAForConditionalGeneration",
    "NVILAProcessor",
]

_FAMILIES = (
    (AutoGazeMLLMConfig, AutoGazeMLLM, AutoGazeMLLMProcessor),
    (NVILAConfig, NVILAForConditionalGeneration, NVILAProcessor),
)

for _config, _model, _processor in _FAMILIES:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
        _auto.register(_config, _model, exist_ok=True)
    AutoProcessor.register(_config, _processor, exist_ok=True)
