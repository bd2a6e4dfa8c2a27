"""How long prompts will be, known from the videos' numbers of frames before one is decoded."""

from collections.abc import Mapping, Sequence
from typing import Any

from autogaze.mllm.context import Context
from autogaze.mllm.gazed_visual import GazedImage, GazedVisual
from autogaze.mllm.processor_adapter import ProcessorAdapter
from autogaze.mllm.prompt import SequencePositions, sequence_lengths
from autogaze.mllm.prompt_text import Place, write_rows


def check_before_reading(
    context: Context,
    texts: Sequence[str],
    places: Sequence[Sequence[Place]],
    opened: Mapping[Place, GazedVisual | GazedImage],
    adapter: ProcessorAdapter,
    options: Mapping[str, Any],
) -> None:
    """Check prompts whose frames are sampled and not decoded yet.

    Only those with one video, of families whose positions are those of a sequence. Others place
    units by time, row and column, and take many more frames than their processors sample.

    Args:
        context: of the LLM.
        texts, places, options: as of `write_rows`.
        opened: every video and image of the prompts.
        adapter: of the family.

    Raises:
        MLLMError: a prompt that is too long.
    """
    if not isinstance(adapter.rule(()), SequencePositions):
        return
    for text, row in zip(texts, places, strict=True):
        video = opened[row[0]] if len(row) == 1 else None
        if not isinstance(video, GazedVisual) or video.kind != "video":
            continue  # the model checks it
        expansions = {row[0]: video.expected_expansion()}
        (written,) = write_rows([text], [row], expansions, adapter, options)
        length, per_frame = sequence_lengths(written, video.grid)
        context.check(length, frames=video.grid.tubelets, per_frame=per_frame)
