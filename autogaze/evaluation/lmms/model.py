"""The model `autogaze` of lmms-eval: a multimodal LLM that sees what a selector chose.

    lmms-eval --model autogaze --model_args pretrained=FOLDER,selector=greedy,ratio=0.1 --tasks hlvid ...

Imported by lmms-eval only.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms

from autogaze.checks import describe_value
from autogaze.errors import EvaluationError
from autogaze.evaluation.answers.answering import (
    DENSE,
    MAX_NEW_TOKENS,
    Answerer,
    AnswererOptions,
    Condition,
    load_answerer,
    load_answerer_of,
)
from autogaze.evaluation.answers.questions import Question, question_id
from autogaze.video.decoders import DecoderName

Messages = Sequence[Mapping[str, Any]]

SAMPLING = {"do_sample": (False, None), "temperature": (0, None), "num_beams": (1, None)}
"""Options of generation -> the values that mean greedy decoding."""


class AutoGazeModel(lmms):
    """Answers one request after the other, about one video each.

    Args:
        pretrained: folder or hub id of the model.
        selector: what `autogaze.load` takes, a control, or "dense".
        ratio, max_vision_tokens: its budget, one of the two; by default a ratio of 0.1.
        frames, units, device, dtype, seed, decoder: as in `AnswererOptions`.
        answerer: a Python file that loads a model of one's own.

    Values may be text, as `--model_args` gives them.

    Raises:
        EvaluationError: unknown options, or values that cannot be used.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "",
        selector: str = "greedy",
        ratio: float | str | None = None,
        max_vision_tokens: int | str | None = None,
        frames: int | str | None = None,
        units: str = "finest",
        device: str | None = "auto",
        dtype: str = "float32",
        seed: int | str = 0,
        decoder: DecoderName = "auto",
        answerer: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise EvaluationError(
                f"unknown model_args: {', '.join(sorted(unknown))}; there are pretrained, selector, ratio, "
                "max_vision_tokens, frames, units, device, dtype, seed, decoder and answerer"
            )
        if not pretrained:
            raise EvaluationError("model_args must name the model: pretrained=FOLDER or HUB-ID")
        if str(batch_size or 1) != "1":
            raise EvaluationError(
                f"questions are answered one at a time, got batch_size {batch_size}"
            )
        if ratio is None and max_vision_tokens is None and selector != DENSE:
            ratio = 0.1
        self.condition = Condition(
            selector,
            ratio=_number("ratio", ratio, float),
            max_vision_tokens=_number("max_vision_tokens", max_vision_tokens, int),
        )
        options = AnswererOptions(
            frames=_number("frames", frames, int),
            units=units,
            device=device or "auto",
            dtype=dtype,
            seed=_number("seed", seed, int) or 0,
            decoder=decoder,
        )
        load = load_answerer if answerer is None else load_answerer_of(answerer)
        self._make = load(pretrained, options)
        self._answerers: dict[int, Answerer] = {}

    def generate_until(self, requests: Iterable[Any]) -> list[str]:
        """The answer to every request: (context, doc_to_messages, options, id, task, split)."""
        answers = []
        for request in requests:
            _, doc_to_messages, options, key, task, split = request.args
            document = self.task_dict[task][split][key]
            video, text = read_messages(doc_to_messages(document))
            # The id seeds what selectors draw; it is that of `autogaze eval`.
            named = question_id(document, key + 1, task)
            question = Question(named, video, text, answer="", video=Path(video))
            answerer = self._answerer(new_tokens(options))
            answers.append(cut(answerer.answer(question).text, options.get("until")))
        return answers

    def _answerer(self, max_new_tokens: int) -> Answerer:
        if max_new_tokens not in self._answerers:
            self._answerers[max_new_tokens] = self._make(self.condition, max_new_tokens)
        return self._answerers[max_new_tokens]

    def loglikelihood(self, requests: Iterable[Any]) -> list[tuple[float, bool]]:
        """Not offered: answers are generated."""
        raise EvaluationError("autogaze: tasks that score likelihoods are not supported")

    def generate_until_multi_round(self, requests: Iterable[Any]) -> list[str]:
        """Not offered: every question is asked by itself."""
        raise EvaluationError("autogaze: tasks of several rounds are not supported")


def read_messages(messages: Messages) -> tuple[str, str]:
    """The video and the text of a request.

    Raises:
        EvaluationError: other than one video and text, or a part of a video.
    """
    parts = [part for message in messages for part in message["content"]]
    videos = [part["url"] for part in parts if part["type"] == "video"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    others = {part["type"] for part in parts} - {"video", "text"}
    if len(videos) != 1 or not texts or others:
        held = [part["type"] for part in parts]
        raise EvaluationError(
            f"a request must hold one video and text, got {', '.join(held) or 'nothing'}"
        )
    if not isinstance(videos[0], (str, os.PathLike)):
        raise EvaluationError(
            f"a video must be a whole file's path, got {describe_value(videos[0])}"
        )
    return os.fspath(videos[0]), "\n".join(texts)


def new_tokens(options: Mapping[str, Any]) -> int:
    """The number of new tokens that a task asks for.

    Raises:
        EvaluationError: it asks for sampling or beams.
    """
    for name, greedy in SAMPLING.items():
        if options.get(name) not in greedy:
            raise EvaluationError(f"answers are greedy, got {name}={options[name]}")
    return int(options.get("max_new_tokens") or MAX_NEW_TOKENS)


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """A text up to the first of the strings at which a task stops."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.partition(stop)[0] if stop else text
    return text


def _number(name: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    """A number from text or a number; None stays."""
    if value is None or value == "None":
        return None
    try:
        return kind(value)
    except ValueError:
        raise EvaluationError(f"model_args: {name} must be a number, got {value!r}") from None
