"""What processors return: the arguments of a gazed model, and a report of their costs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

import torch
from transformers import BatchFeature

from autogaze.gaze import Gaze
from autogaze.mllm.adapter import GazedPrompt
from autogaze.mllm.prompt import Kind


@dataclass(frozen=True)
class PrepareTimes:
    """Seconds spent in each stage of preparing prompts.

    Args:
        decode: reading frames and converting their colours.
        resize: making them as large as the model takes them.
        select: choosing units.
        cut: normalising the pixels of kept units.
        write: expanding and tokenising text.
    """

    decode: float = 0.0
    resize: float = 0.0
    select: float = 0.0
    cut: float = 0.0
    write: float = 0.0

    def __add__(self, other: "PrepareTimes") -> "PrepareTimes":
        return PrepareTimes(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __str__(self) -> str:
        return ", ".join(
            f"{field.name} {getattr(self, field.name):.2f} s" for field in fields(self)
        )


class StageClock:
    """Adds up the seconds of each stage of `PrepareTimes`; a stage within another pauses it."""

    def __init__(self) -> None:
        self._seconds = {field.name: 0.0 for field in fields(PrepareTimes)}
        self._within = 0.0  # seconds of the stages within the one that runs

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        began, before = perf_counter(), self._within
        self._within = 0.0
        try:
            yield
        finally:
            seconds = perf_counter() - began
            self._seconds[name] += seconds - self._within
            self._within = before + seconds

    @property
    def times(self) -> PrepareTimes:
        return PrepareTimes(**self._seconds)


@dataclass(frozen=True)
class VisualReport:
    """What became of one video or image.

    Args:
        kind: what it is.
        width, height: of the model's frames in pixels.
        num_frames: sampled frames.
        dense_units: units that the untouched model would take.
        kept_units: units that it gets.
    """

    kind: Kind
    width: int
    height: int
    num_frames: int
    dense_units: int
    kept_units: int

    def __str__(self) -> str:
        frames = f"{self.num_frames} frames of " if self.kind == "video" else ""
        share = self.kept_units / self.dense_units
        return (
            f"{self.kind}: {frames}{self.width} x {self.height} px, "
            f"{self.kept_units:,} of {self.dense_units:,} units kept ({share:.1%})"
        )


@dataclass(frozen=True)
class GazedReport:
    """What a batch of prompts costs, dense and gazed.

    Args:
        visuals: videos and images in the order in which they begin in the batch.
        tokens: LLM tokens of every prompt.
        dense_tokens: LLM tokens that every prompt would have with all units.
        seconds: of the preparation, by stage.
    """

    visuals: tuple[VisualReport, ...]
    tokens: tuple[int, ...]
    dense_tokens: tuple[int, ...]
    seconds: PrepareTimes

    @property
    def ratio(self) -> float:
        """Kept units as a share of all; 1 without videos and images."""
        dense = sum(visual.dense_units for visual in self.visuals)
        return sum(visual.kept_units for visual in self.visuals) / dense if dense else 1.0

    def __str__(self) -> str:
        tokens = ", ".join(
            f"{gazed:,} LLM tokens instead of {dense:,}"
            for gazed, dense in zip(self.tokens, self.dense_tokens, strict=True)
        )
        return "\n".join([*map(str, self.visuals), f"prompt: {tokens}", str(self.seconds)])


class ReportedInputs(BatchFeature):
    """Arguments of a model's `forward` and `generate`: `model.generate(**inputs)`.

    Attributes:
        report: what the prompts cost, a `GazedReport`.
        gazes: of every video, in the order given, the `Gaze` that was selected; None where all
            units or given ones were kept.
    """

    report: GazedReport
    gazes: tuple[Gaze | None, ...]

    def __init__(
        self, data: dict[str, Any], report: GazedReport, gazes: tuple[Gaze | None, ...] = ()
    ) -> None:
        super().__init__(data)
        self.report, self.gazes = report, gazes

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "report": self.report, "gazes": self.gazes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.report, self.gazes = state["report"], state["gazes"]


class GazedInputs(ReportedInputs):
    """Arguments of a gazed model.

    Items: `input_ids` and `attention_mask`, both (B, L) and without dropped units, and `gazed`, a
    `GazedPrompt` with positions and the pixels of kept units.
    """

    def __init__(
        self, gazed: GazedPrompt, report: GazedReport, gazes: tuple[Gaze | None, ...] = ()
    ) -> None:
        prompt = gazed.prompt
        data = {"input_ids": prompt.input_ids, "attention_mask": prompt.attention_mask}
        super().__init__({**data, "gazed": gazed}, report, gazes)

    def to(self, *args: Any, **kwargs: Any) -> "GazedInputs":
        """The same on another device; `dtype` is that of the pixels.

        Takes what `torch.Tensor.to` takes: a device, a dtype, or both.
        """
        prompt: GazedPrompt = self["gazed"]
        like = torch.empty(0, device=prompt.prompt.input_ids.device).to(*args, **kwargs)
        given = (*args, kwargs.get("dtype"))
        dtype = next((value for value in given if isinstance(value, torch.dtype)), None)
        moved = GazedInputs(prompt.to(like.device, dtype), self.report, self.gazes)
        for name, value in self.items():  # such as labels
            if name not in moved:
                moved[name] = value.to(like.device) if isinstance(value, torch.Tensor) else value
        return moved
