"""A question about a video, answered by a multimodal LLM that sees all of it, and what was chosen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from autogaze.demo.work import Settings, Stop
from autogaze.errors import AutoGazeError
from autogaze.mllm.viewing import Viewing
from autogaze.rendering.painter import percent
from autogaze.selectors.base import Selector
from autogaze.utils.seeding import generator_of
from autogaze.video.decoders import DecoderName

if TYPE_CHECKING:
    from autogaze.mllm.answering import VideoAnswer, VideoMLLM

MAX_NEW_TOKENS = 128
LONGEST_QUESTION = 1000
"""Characters."""


@dataclass(frozen=True, eq=False)
class BothAnswers:
    """The answers to one question."""

    gazed: "VideoAnswer"
    dense: "VideoAnswer"


def ask_both(
    model: "VideoMLLM",
    video: Path,
    question: str,
    settings: Settings,
    selector: Selector,
    stop: Stop,
    progress: Callable[[str], None] = lambda which: None,
    decoder: DecoderName = "auto",
) -> BothAnswers:
    """Answer a question gazed and dense.

    Raises:
        AutoGazeError: no question, or one that the model does not take.
        Cancelled: `stop` was set; between two layers at the latest.
    """
    if not question.strip():
        raise AutoGazeError("the question is empty")
    if len(question) > LONGEST_QUESTION:
        raise AutoGazeError(
            f"the question has {len(question):,} characters, at most {LONGEST_QUESTION:,}"
        )
    viewings = {
        "gazed": Viewing(selector, settings.ratio, settings.loss, decoder=decoder),
        "dense": Viewing(dense=True, decoder=decoder),
    }
    answers = {}
    with stopped_by(model.model, stop):
        for name, viewing in viewings.items():
            stop.check()
            progress(name)
            answers[name] = model.ask(
                video,
                question,
                viewing,
                max_new_tokens=MAX_NEW_TOKENS,
                generator=None if settings.seed is None else generator_of(settings.seed),
            )
    return BothAnswers(**answers)


@contextmanager
def stopped_by(model: nn.Module, stop: Stop) -> Iterator[None]:
    """Check a flag before every layer, inside the block: encoding a whole video takes long."""
    handles = [part.register_forward_pre_hook(lambda *_: stop.check()) for part in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def answer_card(answer: "VideoAnswer", name: str) -> str:
    """An answer and what it cost, as HTML."""
    facts = (
        (
            "Units kept",
            f"<b>{answer.kept_units:,}</b> of {answer.dense_units:,} ({percent(answer.ratio)})",
        ),
        ("Prompt", f"<b>{answer.prompt_tokens:,}</b> of {answer.dense_prompt_tokens:,} tokens"),
        (
            "Seconds",
            f"<b>{answer.seconds.total:.2f}</b> (encoding {answer.seconds.encode:.2f}, prompt "
            f"{answer.seconds.prefill:.2f}, answer {answer.seconds.generate:.2f})",
        ),
    )
    rows = "".join(f"<tr><th scope='row'>{key}</th><td>{value}</td></tr>" for key, value in facts)
    return (
        f"<article class='ag-answer'><h4>{escape(name)}</h4><p>{escape(answer.text) or '(no words)'}</p>"
        f"<table class='ag-numbers'><tbody>{rows}</tbody></table></article>"
    )


def answer_numbers(answer: "VideoAnswer") -> dict[str, object]:
    """The same as plain values."""
    return {
        "text": answer.text,
        "kept_units": answer.kept_units,
        "dense_units": answer.dense_units,
        "prompt_tokens": answer.prompt_tokens,
        "dense_prompt_tokens": answer.dense_prompt_tokens,
        "seconds": answer.seconds.total,
    }
