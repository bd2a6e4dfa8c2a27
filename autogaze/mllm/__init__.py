"""Gazed multimodal LLMs: vision encoder and prompt pay only for the units that a gaze kept."""

from autogaze.mllm.adapter import DenseVisual, MLLMAdapter, VisualFeatures, VisualInput
from autogaze.mllm.embeddings import PromptEmbeddings, prompt_embeddings
from autogaze.mllm.gazed import GazedMLLM, GazedPrompt, gazed_mllm
from autogaze.mllm.processor import GazedProcessor
from autogaze.mllm.processor_adapter import ProcessorAdapter
from autogaze.mllm.processor_output import GazedInputs, GazedReport
from autogaze.mllm.ranking import scales_grid, units_of_gaze
from autogaze.mllm.registry import list_mllms, register_mllm
from autogaze.mllm.selection import select_units
from autogaze.mllm.unit_choice import Budget
from autogaze.mllm.units import KeptUnits, UnitGrid

__all__ = [
    "Budget",
    "DenseVisual",
    "GazedInputs",
    "GazedMLLM",
    "GazedProcessor",
    "GazedPrompt",
    "GazedReport",
    "KeptUnits",
    "MLLMAdapter",
    "ProcessorAdapter",
    "PromptEmbeddings",
    "UnitGrid",
    "VisualFeatures",
    "VisualInput",
    "gazed_mllm",
    "list_mllms",
    "prompt_embeddings",
    "register_mllm",
    "scales_grid",
    "select_units",
    "units_of_gaze",
]
