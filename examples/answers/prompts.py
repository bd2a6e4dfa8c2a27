"""Clips of which a set of units is kept, as prompts of `autogaze.gazed_mllm`."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from answers.drawing import GRID, TUBELETS, UNIT
from answers.model import END, START, TIMES, VIDEO, WORDS
from autogaze.mllm.adapter import GazedPrompt, VisualInput
from autogaze.mllm.frames import PatchFormat, cut_units
from autogaze.mllm.prompt import MRopePositions, Row, VisualBlock, assemble
from autogaze.mllm.units import KeptUnits, UnitGrid

CLIP_GRID = UnitGrid(TUBELETS, ((GRID, GRID),))
FORM = PatchFormat(patch=UNIT // 2, merge=2, tubelet=2, mean=(0.5,) * 3, std=(0.5,) * 3)


def video_row(number: int) -> list[Tensor | VisualBlock]:
    """The tokens of one video: every tubelet between its timestamp and the end token."""
    row: list[Tensor | VisualBlock] = []
    for tubelet, time in enumerate(TIMES):
        row += [
            torch.tensor([WORDS[time], WORDS[START]]),
            VisualBlock(number, tubelet, tubelet + 1, WORDS[VIDEO]),
            torch.tensor([WORDS[END]]),
        ]
    return row


def gazed_prompt(
    frames: Sequence[UInt8[Tensor, "T 3 S S"]],
    kept: Sequence[KeptUnits],
    texts: Sequence[Sequence[int]] | None = None,
) -> GazedPrompt:
    """One row per clip: its video, then a text; rows are padded on the left.

    Args:
        frames: of every clip.
        kept: units of every clip.
        texts: ids of every clip's text; none by default.
    """
    rows: list[Row] = [video_row(number) for number in range(len(kept))]
    if texts is not None:
        rows = [[*row, torch.tensor(text)] for row, text in zip(rows, texts, strict=True)]
    prompt = assemble(rows, kept, MRopePositions(), pad_id=0)
    visuals = [
        VisualInput("video", units, cut_units(clip, units, FORM))
        for clip, units in zip(frames, kept, strict=True)
    ]
    return GazedPrompt(prompt, tuple(visuals))
