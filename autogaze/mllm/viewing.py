"""How much of a video a multimodal LLM sees, and the processors' options that say so."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autogaze.errors import MLLMError
from autogaze.mllm.ranking import Mapping
from autogaze.mllm.units import KeptUnits, UnitGrid, evenly
from autogaze.selectors.base import Selector
from autogaze.video.decoders import DecoderName

FRAMES = 32
"""Of a file, where nobody says how many and the family would take all (LLaVA-OneVision, InternVL)."""

UNIFORM = "uniform"
"""The control that sees whole tubelets at even distances."""


@dataclass(frozen=True)
class Viewing:
    """What is seen of a video.

    Args:
        selector: a `Selector`, or what `autogaze.load` takes; None: the processor's own. "uniform",
            a control, sees whole tubelets at even distances, as many as the budget pays for; of a
            ratio at least one.
        ratio: cap on the kept share, in (0, 1].
        loss: stopping threshold, in units of the selector's metric.
        max_vision_tokens: the most tokens of the video in the prompt.
        num_frames: at most so many frames, at even distances; all of a video that has no more. None: what
            the checkpoint says; of families that would take all of a file, at most `FRAMES`.
        units: how patches become units, see `GazedProcessor`.
        dense: everything is seen, as by the untouched model; budgets do not count.
        decoder: of the video's file: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`; None:
            the processor's own.
    """

    selector: Selector | str | Path | None = None
    ratio: float | None = None
    loss: float | None = None
    max_vision_tokens: int | None = None
    num_frames: int | None = None
    units: Mapping = "finest"
    dense: bool = False
    decoder: DecoderName | None = None


def options_of(viewing: Viewing) -> dict[str, Any]:
    """Options of a `GazedProcessor`."""
    budget = {
        "ratio": viewing.ratio,
        "loss": viewing.loss,
        "max_vision_tokens": viewing.max_vision_tokens,
    }
    options: dict[str, Any] = {"units": viewing.units, **budget}
    if viewing.decoder is not None:
        options["decoder"] = viewing.decoder
    if viewing.num_frames is not None:
        options["max_frames"] = viewing.num_frames
    if viewing.dense:
        return {**options, **dict.fromkeys(budget), "selector": None}
    if viewing.selector == UNIFORM:
        _refuse_loss(viewing)
        return {**options, "selector": None, "gaze": [partial(_whole_tubelets, viewing)]}
    if viewing.selector is not None:
        options["selector"] = viewing.selector
    return options


def _whole_tubelets(viewing: Viewing, grid: UnitGrid) -> KeptUnits:
    """The control `uniform`: all dense units of tubelets at even distances."""
    budget = viewing.ratio, viewing.max_vision_tokens
    seen = evenly(grid.tubelets, grid.dense_units, *budget)
    mask = torch.zeros(grid.tubelets, grid.num_units, dtype=torch.bool)
    mask[seen, -grid.dense_units :] = True
    return KeptUnits.from_mask(grid, mask)


def _refuse_loss(viewing: Viewing) -> None:
    if viewing.loss is not None:
        raise MLLMError(
            f"{UNIFORM}: measures no loss; give a ratio or a number of tokens in its place"
        )


def options_of_nvila(viewing: Viewing, processor: Any) -> dict[str, Any]:
    """Options of NVILA's processor.

    Raises:
        MLLMError: `units`, which NVILA-HD-Video has not: it takes patches as they were chosen; or a
            budget that the control `uniform` cannot keep.
    """
    if viewing.units != "finest":
        raise MLLMError(
            f"units={viewing.units!r}: NVILA-HD-Video takes patches of all scales as they were "
            "chosen, and makes no units of them; leave units (--units) out"
        )
    frames = viewing.num_frames or processor.num_video_frames
    thumbnails = min(frames, processor.num_video_frames_thumbnail)
    sampled: dict[str, Any] = {
        "num_video_frames": frames,
        "num_video_frames_thumbnail": thumbnails,
        "decoder": viewing.decoder or "auto",
    }
    everything: dict[str, Any] = {"ratio": None, "loss": None, "max_vision_tokens": None}
    everything |= {"gazing_ratio_thumbnail": None, "task_loss_requirement_thumbnail": None}
    if viewing.dense:
        return everything | sampled
    if viewing.selector == UNIFORM:
        # Its room loads transformers' models, which the page of a demo without an MLLM does not need.
        from autogaze.mllm.nvila.whole_frames import WholeFrames

        _refuse_loss(viewing)
        whole = WholeFrames(viewing.ratio, viewing.max_vision_tokens)
        del everything["ratio"], everything["loss"]  # these would cut the gaze
        return everything | sampled | {"gaze": [whole]}
    options: dict[str, Any] = {"selector": viewing.selector, **sampled}
    if viewing.ratio is not None or viewing.loss is not None:
        options |= {"ratio": viewing.ratio, "loss": viewing.loss}
    if viewing.max_vision_tokens is not None:
        options["max_vision_tokens"] = viewing.max_vision_tokens
    return options
