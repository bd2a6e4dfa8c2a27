"""What answers questions: under which conditions, at what cost, and how its model is loaded."""

import dataclasses
import hashlib
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from autogaze.checks import is_finite
from autogaze.errors import EvaluationError
from autogaze.evaluation.answers.questions import Question
from autogaze.utils.modules import run_python_file
from autogaze.video.decoders import DecoderName, check_decoder

if TYPE_CHECKING:
    from autogaze.mllm.answering import VideoMLLM


MAX_NEW_TOKENS = 16
"""Of an answer, as in HLVid's protocol."""
DENSE, CONTROLS = "dense", ("random", "centre", "uniform")
"""Everything is seen; what any selector must be better than at the same number of tokens."""


@dataclass(frozen=True)
class StageSeconds:
    """Wall-clock seconds of one answer, by stage; encode is the vision encoder."""

    decode: float = 0.0
    select: float = 0.0
    encode: float = 0.0
    prefill: float = 0.0
    generate: float = 0.0


STAGES = tuple(field.name for field in dataclasses.fields(StageSeconds))


@dataclass(frozen=True)
class Answer:
    """What a model said to a question, and what it cost.

    Attributes:
        text: the new tokens as text.
        prompt_tokens: tokens of the LLM's input, text and vision.
        dense_prompt_tokens: how many they would be with everything kept.
        kept_units, dense_units: units (patches that become one token) kept, and in all; None
            where the family has none.
        peak_memory: bytes; None where it was not measured.
        frame_size: width and height in pixels of the frames that the model got; None where they
            are not known.
    """

    text: str
    prompt_tokens: int
    dense_prompt_tokens: int
    seconds: StageSeconds
    kept_units: int | None = None
    dense_units: int | None = None
    peak_memory: int | None = None
    frame_size: tuple[int, int] | None = None


@runtime_checkable
class Answerer(Protocol):
    """A model that answers questions about videos, under one condition.

    The prompt is the video, a blank line and `question.text` as it is; families with a chat
    template take the video and the text as the two parts of the user's message. Decoding is greedy
    and ends after the number of new tokens that it was made with.
    """

    def answer(self, question: Question) -> Answer:
        """Answer about the file `question.video`, without looking at `question.answer`.

        Raises:
            AutoGazeError: this question cannot be answered (a damaged video, a context too long).
        """


@dataclass(frozen=True)
class Condition:
    """How much of a video is seen, and what chooses it.

    Attributes:
        selector: `DENSE`, one of `CONTROLS`, or what `autogaze.load` takes. `uniform` is whole
            frames at equal distances, as many as the budget pays for.
        ratio: cap on the share of units that is kept, in (0, 1].
        max_vision_tokens: cap on the vision tokens of a prompt, instead.

    Raises:
        EvaluationError: a budget for `DENSE`, none or two for another one, or one out of range.
    """

    selector: str
    ratio: float | None = None
    max_vision_tokens: int | None = None

    def __post_init__(self) -> None:
        budgets = [b for b in (self.ratio, self.max_vision_tokens) if b is not None]
        if len(budgets) != (self.selector != DENSE):
            raise EvaluationError(
                f"{self.selector}: takes {'no budget' if self.selector == DENSE else 'one budget'} "
                f"(ratio or max_vision_tokens), got {len(budgets)}"
            )
        if self.ratio is not None and not (is_finite(self.ratio) and 0 < self.ratio <= 1):
            raise EvaluationError(f"ratio must be in (0, 1], got {self.ratio}")
        if self.max_vision_tokens is not None and self.max_vision_tokens < 1:
            raise EvaluationError(
                f"max_vision_tokens must be at least 1, got {self.max_vision_tokens}"
            )

    @property
    def budget(self) -> str:
        """In words; empty for `DENSE`."""
        if self.ratio is not None:
            return f"{100 * self.ratio:g} %"
        return "" if self.max_vision_tokens is None else f"{self.max_vision_tokens} tokens"

    @property
    def name(self) -> str:
        return f"{self.selector} {self.budget}".strip()

    @property
    def file_name(self) -> str:
        """Of its journal; ends in a hash where characters had to be replaced."""
        plain = re.sub(r"[^\w.]+", "-", self.name.replace(" %", "")).strip("-.")[:80]
        if re.fullmatch(r"[\w.-]+", self.selector):
            return f"{plain}.jsonl"
        return f"{plain}-{hashlib.sha256(self.selector.encode()).hexdigest()[:6]}.jsonl"


def plan_conditions(
    selectors: Sequence[str],
    ratios: Sequence[float] = (),
    max_vision_tokens: Sequence[int] = (),
    *,
    dense: bool = True,
    controls: Sequence[str] = CONTROLS,
) -> tuple[Condition, ...]:
    """`DENSE`, then every selector and control at every budget."""
    names = list(dict.fromkeys([*selectors, *controls]))
    budgets: list[tuple[float | None, int | None]] = [
        (ratio, None) for ratio in dict.fromkeys(ratios)
    ]
    budgets += [(None, count) for count in dict.fromkeys(max_vision_tokens)]
    return (
        *([Condition(DENSE)] if dense else []),
        *(Condition(name, *budget) for budget in budgets for name in names),
    )


UNITS = ("finest", "scales", "union")
LIBRARIES = ("autogaze", "torch", "transformers", "av")


@dataclass(frozen=True)
class AnswererOptions:
    """How a model sees videos, whatever the condition.

    Attributes:
        frames: sampled from every video; None for the model's own number.
        units: how a gaze becomes units of the model, one of `UNITS`.
        seed: of selectors that draw.
        decoder: of videos: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`.
    """

    frames: int | None = None
    units: str = "finest"
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    decoder: DecoderName = "auto"

    def __post_init__(self) -> None:
        if self.units not in UNITS:
            raise EvaluationError(f"units must be one of {', '.join(UNITS)}, got {self.units!r}")
        check_decoder(self.decoder)


@runtime_checkable
class AnswererMaker(Protocol):
    """A loaded model, which answers under any condition."""

    def __call__(self, condition: Condition, max_new_tokens: int = MAX_NEW_TOKENS) -> Answerer:
        """The model under a condition; its weights are not loaded again."""


def load_answerer(model: str, options: AnswererOptions) -> AnswererMaker:
    """Load a multimodal LLM that answers questions.

    Args:
        model: its folder or hub id.

    Raises:
        MLLMError: no such model, no adapter for its family, or no processor.
    """
    from autogaze.mllm.answering import VideoMLLM
    from autogaze.utils.device import DeviceOptions

    place = DeviceOptions.parse(options.device, options.dtype)
    loaded = VideoMLLM.load(model, device=place.device, dtype=place.dtype)
    return partial(_VideoAnswerer, loaded, options)


@dataclass(frozen=True)
class _VideoAnswerer:
    """A loaded model under one condition."""

    model: "VideoMLLM"
    options: AnswererOptions
    condition: Condition
    max_new_tokens: int = MAX_NEW_TOKENS

    def answer(self, question: Question) -> Answer:
        """Answer about the question's file, greedily."""
        import torch

        from autogaze.mllm.viewing import Viewing

        condition, device = self.condition, self.model.model.device
        dense = condition.selector == DENSE
        viewing = Viewing(
            None if dense else condition.selector,
            ratio=condition.ratio,
            max_vision_tokens=condition.max_vision_tokens,
            num_frames=self.options.frames,
            units=self.options.units,  # type: ignore[arg-type] # a name that was checked
            dense=dense,
            decoder=self.options.decoder,
        )
        # The same draws for a question whichever others were answered before it.
        key = hashlib.sha256(f"{self.options.seed} {question.id}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:6], "big"))
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        found = self.model.ask(
            question.video,
            question.text,
            viewing,
            max_new_tokens=self.max_new_tokens,
            generator=generator,
        )
        return Answer(
            text=found.text,
            prompt_tokens=found.prompt_tokens,
            dense_prompt_tokens=found.dense_prompt_tokens,
            seconds=StageSeconds(**asdict(found.seconds)),
            kept_units=found.kept_units,
            dense_units=found.dense_units,
            peak_memory=torch.cuda.max_memory_allocated(device) if on_gpu else None,
            frame_size=found.frame_size,
        )


def load_answerer_of(path: str) -> Callable[[str, AnswererOptions], AnswererMaker]:
    """`load_answerer` of a Python file, for models of one's own.

    Raises:
        EvaluationError: no such file, it cannot be run, or it has no such function.
    """
    found = getattr(run_python_file(path, "--answerer", EvaluationError), "load_answerer", None)
    if not callable(found):
        raise EvaluationError(
            f"--answerer {path}: defines no load_answerer(model, options), which loads a model that answers"
        )
    load: Callable[[str, AnswererOptions], AnswererMaker] = found
    return load


def model_identity(model: str) -> str:
    """What tells a model from others: a hub id, or a hash of a folder's configs and weights.

    Of large files only both ends are read, so that other weights under the same name are noticed.
    """
    folder = Path(model)
    if not os.path.isdir(folder):
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".json", ".safetensors") or not file.is_file():
            continue
        size, end = file.stat().st_size, 2**16
        digest.update(f"{file.name} {size}\n".encode())
        with open(file, "rb") as opened:
            digest.update(opened.read(end))
            opened.seek(max(end, size - end))
            digest.update(opened.read(end))
    return f"{folder.resolve().name} ({digest.hexdigest()[:12]})"


def describe_session(device: str) -> dict[str, str]:
    """Hardware and versions of this process."""
    from autogaze.evaluation.timing import hardware
    from autogaze.utils.device import DeviceOptions

    session = {
        "hardware": hardware(DeviceOptions.parse(device).device),
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            session[library] = version(library)
        except PackageNotFoundError:  # run from its sources
            continue
    return session
