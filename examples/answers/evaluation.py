"""Accuracy by kind of question, with options scored by likelihood.

The video is read once; then each question is asked by itself, with its keys and values.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from answers.choosing import load_chooser
from answers.drawing import Clip, draw_clip
from answers.model import WORDS, encode
from answers.prompts import gazed_prompt
from answers.questions import KINDS, QUESTIONS, Question, ask
from autogaze.mllm.units import KeptUnits

RATIOS = (0.1, 0.05, 0.2, 0.02, 0.3, 0.5)
BATCH = 8


@dataclass(frozen=True)
class Answered:
    """All questions about one clip, answered from what a chooser kept.

    Attributes:
        chooser: "dense", "blind" (no video), or one of `CHOOSERS`.
        ratio: cap on a tubelet's units; 1 for dense, 0 for blind.
        clip: its number.
        units: kept, of 980.
        tokens: of video in the LLM's input, timestamps and start and end tokens included.
        right: kind -> whether the likeliest option was right.
    """

    chooser: str
    ratio: float
    clip: int
    units: int
    tokens: int
    right: dict[str, bool]


def questions_of(clip: Clip, split: str) -> list[Question]:
    """One question of each kind."""
    return [ask(kind, clip.facts, split, clip.number) for kind in KINDS]


@torch.no_grad()
def next_words(
    model: Any, clips: Sequence[Clip], kept: Sequence[KeptUnits]
) -> tuple[Float[Tensor, "B kinds words"], list[int]]:
    """Log-probabilities of the word after each question, and tokens of each video.

    Args:
        model: a gazed one.
        clips, kept: the units that are kept of every clip.
    """
    gazed = gazed_prompt([clip.frames for clip in clips], kept).to(model.device)
    prompt, many = gazed.prompt, len(KINDS)
    cache = model(gazed=gazed, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(many)
    ids, last = (x.to(model.device) for x in question_ids())
    ids, last = ids.repeat(len(clips), 1), last.repeat(len(clips))
    seen = prompt.attention_mask.repeat_interleave(many, 0)
    mask = torch.cat([seen, torch.ones_like(ids)], dim=1)
    steps = torch.arange(ids.shape[1], device=model.device)
    place = prompt.next_position.repeat_interleave(many)[:, None] + steps
    index = seen.sum(1, keepdim=True) + steps  # in the row, as masks count
    positions = torch.stack([index, place, place, place])
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache
    )
    logits = output.logits[torch.arange(len(ids)), last].log_softmax(-1)
    return logits.view(len(clips), many, -1).cpu(), prompt.attention_mask.sum(1).tolist()


@torch.no_grad()
def next_words_blind(model: Any) -> Float[Tensor, "kinds words"]:
    """Log-probabilities of the word after each question, without a video."""
    texts = [torch.tensor([encode(text)], device=model.device) for text in QUESTIONS.values()]
    rows = [model(input_ids=text).logits[0, -1] for text in texts]
    return torch.stack(rows).log_softmax(-1).cpu()


def question_ids() -> tuple[Int[Tensor, "kinds L"], Int[Tensor, " kinds"]]:
    """Ids of the questions, padded on the right, and the place of each one's last word."""
    rows = [encode(QUESTIONS[kind]) for kind in KINDS]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([len(row) - 1 for row in rows])


def likeliest(question: Question, words: Float[Tensor, " words"]) -> str:
    """The option that is the likeliest next word."""
    places = torch.tensor([WORDS[option] for option in question.options])
    return question.options[int(words[places].argmax())]


def evaluate(
    model: Any, chooser: str, ratio: float, clips: Sequence[int], split: str = "test"
) -> Iterator[list[Answered]]:
    """Ask all questions about the clips of these numbers, a batch at a time."""
    chosen = None if chooser == "blind" else load_chooser(chooser)
    for start in range(0, len(clips), BATCH):
        batch = [draw_clip(split, number) for number in clips[start : start + BATCH]]
        if chosen is None:
            words = next_words_blind(model).expand(len(batch), -1, -1)
            counts, tokens = [0] * len(batch), [0] * len(batch)
        else:
            kept = chosen.keep(batch, ratio)
            words, tokens = next_words(model, batch, kept)
            counts = [units.num_units for units in kept]
        rights = [
            {q.kind: likeliest(q, row) == q.answer for q, row in zip(asked, rows, strict=True)}
            for asked, rows in zip((questions_of(c, split) for c in batch), words, strict=True)
        ]
        yield [
            Answered(chooser, ratio, clip.number, *rest)
            for clip, *rest in zip(batch, counts, tokens, rights, strict=True)
        ]


class Journal:
    """Answers in a JSON-lines file, to which a stopped evaluation goes on appending.

    Args:
        path: is made if it is not there; a last line that is not whole is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            path.write_bytes(whole)
        self.answers = [Answered(**json.loads(line)) for line in whole.splitlines()]

    def missing(self, chooser: str, ratio: float, count: int) -> list[int]:
        """Numbers of the first `count` clips that are not answered yet."""
        done = {a.clip for a in self.answers if (a.chooser, a.ratio) == (chooser, ratio)}
        return [number for number in range(count) if number not in done]

    def add(self, answers: Sequence[Answered]) -> None:
        """Append, and flush."""
        self.answers += answers
        with self.path.open("a") as file:
            file.writelines(json.dumps(asdict(answer)) + "\n" for answer in answers)
