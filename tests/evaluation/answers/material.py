"""A set of questions about files that are no videos, and a model that answers without looking."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from autogaze.errors import VideoError
from autogaze.evaluation.answers.answering import DENSE, Answer, Condition, StageSeconds
from autogaze.evaluation.answers.questions import LETTERS, Question, QuestionSet, load_questions

OPTIONS = "A. red\nB. green\nC. blue\nD. grey\nPlease answer directly with the letter."


def rows(num_videos: int = 4, per_video: int = 3) -> list[dict[str, object]]:
    return [
        {
            "question_id": 100 * video + number,
            "category": ("av", "household")[video % 2],
            "video_path": f"clip_{video}.mp4",
            "question": f"What colour has thing {number}?\n{OPTIONS}",
            "answer": LETTERS[(video + number) % 4],
        }
        for video in range(num_videos)
        for number in range(per_video)
    ]


def write_set(folder: Path, lines: Sequence[dict[str, object]] | None = None) -> Path:
    """A folder as HLVid's: `data/test.jsonl`, and files in `videos/`."""
    lines = rows() if lines is None else lines
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "videos").mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "data" / "test.jsonl").write_text(text)
    for line in lines:
        (folder / "videos" / str(line["video_path"])).touch()
    return folder


def load_set(folder: Path, lines: Sequence[dict[str, object]] | None = None) -> QuestionSet:
    return load_questions(write_set(folder, lines))


class FakeAnswerer:
    """Right as often as `skill` says, by a hash of the question; fails at some videos."""

    def __init__(
        self, condition: Condition, skill: float = 0.6, broken: Sequence[str] = ()
    ) -> None:
        self.condition = condition
        self.skill = skill
        self.broken = broken
        self.asked: list[str] = []

    def answer(self, question: Question) -> Answer:
        self.asked.append(question.id)
        if question.video_path in self.broken:
            raise VideoError(f"{question.video}: nothing in it")
        digest = hashlib.sha256(f"{question.id} {self.condition.name}".encode()).digest()
        right = digest[0] / 256 < self.skill
        wrong = LETTERS[(LETTERS.index(question.answer) + 1) % 4]
        dense = 1000 + digest[1]
        share = 1.0 if self.condition.selector == DENSE else self.condition.ratio or 0.1
        return Answer(
            text=f"{question.answer if right else wrong}." if digest[2] > 8 else "no idea",
            prompt_tokens=int(dense * share) + 40,
            dense_prompt_tokens=dense + 40,
            seconds=StageSeconds(
                decode=0.5, select=0.25, encode=share, prefill=share, generate=0.125
            ),
            kept_units=int(dense * share),
            dense_units=dense,
            peak_memory=2**20 + digest[3],
        )
