"""From answers to figures: accuracy with intervals, paired differences, tokens, seconds, memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from autogaze.evaluation.answers.answering import CONTROLS, DENSE, STAGES, Answer, Condition
from autogaze.evaluation.answers.intervals import FEW_VIDEOS, VideoDraws
from autogaze.evaluation.answers.letters import find_letter
from autogaze.evaluation.answers.questions import Question, QuestionSet
from autogaze.evaluation.answers.run import Failure, Run, Settings, group_failures
from autogaze.evaluation.bootstrap import ALL, Estimate

NO_CATEGORY = "no category"
BASELINE = "random"
"""The control with which selectors are compared at the same budget."""


@dataclass(frozen=True)
class Cost:
    """What answers cost under a condition, means over questions.

    Attributes:
        prompt_tokens, dense_prompt_tokens: of the LLM's input, and with everything kept.
        kept: share of units kept, in (0, 1]; None where it is not known.
        seconds: stage -> seconds.
        peak_memory: bytes, the largest; None where it was not measured.
    """

    prompt_tokens: float
    dense_prompt_tokens: float
    kept: float | None
    seconds: Mapping[str, float]
    peak_memory: int | None

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Difference:
    """How much more accurate one condition is than another, on the same questions and draws."""

    condition: str
    reference: str
    group: str
    estimate: Estimate

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        low, high = self.estimate.low, self.estimate.high
        return low is not None and high is not None and not low <= 0 <= high


@dataclass(frozen=True)
class Row:
    """One condition.

    Attributes:
        accuracy: group -> share of right answers.
        no_letter: questions whose answer has no letter; they count as wrong.
        answered: number of questions answered, compared or not.
    """

    condition: Condition
    accuracy: Mapping[str, Estimate]
    cost: Cost
    no_letter: tuple[str, ...]
    answered: int


@dataclass(frozen=True, eq=False)
class AnswersReport:
    """All that the answers to a set say.

    Attributes:
        questions: the set, or its first questions.
        compared: the questions that were answered under every condition: all figures are of them.
        groups: `ALL`, and the categories if there are several.
        rows: the conditions, `DENSE` first, then by budget.
        differences: of every condition from `DENSE`, and from `BASELINE` at the same budget.
        failures: condition's name -> what could not be answered.
        sessions: hardware and versions with which answers were made.
    """

    questions: QuestionSet
    settings: Settings
    seed: int
    compared: tuple[Question, ...]
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    failures: Mapping[str, tuple[Failure, ...]]
    sessions: tuple[Mapping[str, str], ...]
    runs: Mapping[str, Run]

    @property
    def num_videos(self) -> int:
        return len({question.video_path for question in self.compared})

    @property
    def about(self) -> str:
        """The questions, in a line."""
        named = (
            f"{self.questions.name}: {len(self.compared)} questions about {self.num_videos} videos"
        )
        left_out = len(self.questions.questions) - len(self.compared)
        return f"{named} ({left_out} more not compared)" if left_out else named

    def difference(self, condition: str, reference: str) -> Estimate | None:
        """Over all questions; None where the two are not compared."""
        asked = (condition, reference, ALL)
        found = (d for d in self.differences if (d.condition, d.reference, d.group) == asked)
        return next((one.estimate for one in found), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        notes = [
            f"{self.about}. All figures are of the questions that were answered under every condition.",
            "Intervals: 95 %, from resampling whole videos (bias-corrected and expanded percentiles of 2000 "
            "draws, the same for all conditions, so that differences are paired). A difference "
            "whose interval holds zero is none that was shown.",
            "Answers without a letter A to D count as wrong.",
        ]
        if self.num_videos < FEW_VIDEOS:
            notes.append(
                f"With {self.num_videos} videos intervals cover less than 95 %; {FEW_VIDEOS} are needed."
            )
        if uneven := self._uneven_budgets():
            notes.append(
                "Not at equal tokens: "
                + "; ".join(uneven)
                + ". Compare these by tokens, not by budget."
            )
        if sizes := self._frame_sizes():
            notes.append(
                "Not at equal resolution: the model's frames are, in pixels, "
                + "; ".join(sizes)
                + ". Differences between these conditions are of resolution too"
                + (
                    " (with a number of tokens alone frames are as large as the video's, else as the "
                    "checkpoint's settings bound them)."
                    if any(row.condition.max_vision_tokens for row in self.rows)
                    else "."
                )
            )
        if self.questions.missing:
            missing = self.questions.missing
            notes.append(
                f"Missing videos ({len(missing)}), whose questions are left out: {', '.join(missing)}."
            )
        most = max(row.answered for row in self.rows)
        if behind := [row for row in self.rows if row.answered < most]:
            named = ", ".join(f"{row.condition.name} {row.answered}" for row in behind)
            notes.append(f"Answered are {most} questions, but under {named}; run these on.")
        for group in group_failures(self.failures):
            where = group.where(len(self.failures))
            notes.append(f"Not answered under {where}: {group.told}.")
        if len(self.sessions) > 1:
            notes.append("Answers were made in sessions of different hardware or versions.")
        return tuple(notes)

    def _uneven_budgets(self) -> list[str]:
        """Budgets at which conditions spent tokens that differ by more than 5 %."""
        uneven = []
        for budget in dict.fromkeys(row.condition.budget for row in self.rows):
            spent = {
                row.condition.selector: row.cost.prompt_tokens
                for row in self.rows
                if row.condition.budget == budget
            }
            low, high = min(spent, key=spent.__getitem__), max(spent, key=spent.__getitem__)
            if spent[high] > 1.05 * spent[low]:
                uneven.append(
                    f"at {budget} {low} took {spent[low]:.0f} tokens, {high} {spent[high]:.0f}"
                )
        return uneven

    def _frame_sizes(self) -> list[str]:
        """Sizes of frames by condition, of the first question whose conditions saw different ones."""
        for question in self.compared:
            named: dict[tuple[int, int], list[str]] = {}
            for row in self.rows:
                size = self.runs[row.condition.name].answers[question.id].frame_size
                if size is not None:
                    named.setdefault(size, []).append(row.condition.name)
            if len(named) > 1:
                return [
                    f"{width} x {height} under {', '.join(names)} (question {question.id})"
                    for (width, height), names in named.items()
                ]
        return []

    def to_json(self) -> dict[str, Any]:
        """Everything, with every answer."""
        return {
            "set": self.questions.name,
            "fingerprint": self.questions.fingerprint,
            "settings": dict(self.settings),
            "sessions": [dict(session) for session in self.sessions],
            "seed": self.seed,
            "notes": list(self.notes),
            "questions": len(self.questions.questions),
            "compared": [question.id for question in self.compared],
            "videos": self.num_videos,
            "missing_videos": list(self.questions.missing),
            "conditions": [
                {
                    "name": row.condition.name,
                    **asdict(row),
                    "failures": [
                        {"question_id": failure.question.id, "cause": failure.cause}
                        for failure in self.failures.get(row.condition.name, ())
                    ],
                }
                for row in self.rows
            ],
            "differences": [{**asdict(one), "clear": one.is_clear} for one in self.differences],
            "answers": {
                name: {
                    question.id: _judged(question, run.answers[question.id])
                    for question in self.questions.questions
                    if question.id in run.answers
                }
                for name, run in self.runs.items()
            },
        }


def _judged(question: Question, answer: Answer) -> dict[str, Any]:
    letter = find_letter(answer.text)
    return {"text": answer.text, "letter": letter, "right": letter == question.answer}


def make_report(
    questions: QuestionSet,
    settings: Settings,
    runs: Sequence[Run],
    failures: Mapping[str, Sequence[Failure]] | None = None,
    seed: int = 0,
) -> AnswersReport | None:
    """The figures of runs; None where no question was answered under every condition.

    Args:
        questions: of which figures are made; answers to others are left out.
        runs: one per condition.
        failures: condition's name -> what could not be answered.
        seed: of the draws.
    """
    runs = sorted(runs, key=lambda run: _order(run.condition))
    compared = tuple(
        question
        for question in questions.questions
        if all(question.id in run.answers for run in runs)
    )
    if not compared or not runs:
        return None
    letters = {
        run.condition: [find_letter(run.answers[q.id].text) for q in compared] for run in runs
    }
    right = {
        condition: np.array([a == q.answer for a, q in zip(found, compared, strict=True)], float)
        for condition, found in letters.items()
    }
    draws = VideoDraws.draw([question.video_path for question in compared], seed)
    groups = _groups(compared)
    rows = tuple(
        Row(
            run.condition,
            {name: draws.mean(right[run.condition], where) for name, where in groups.items()},
            _cost([run.answers[question.id] for question in compared]),
            tuple(q.id for q, a in zip(compared, letters[run.condition], strict=True) if a is None),
            sum(question.id in run.answers for question in questions.questions),
        )
        for run in runs
    )
    differences = tuple(
        Difference(one.name, other.name, name, draws.mean(right[one] - right[other], where))
        for one, other in _pairs([run.condition for run in runs])
        for name, where in groups.items()
    )
    sessions = {tuple(sorted(session.items())): session for run in runs for session in run.sessions}
    return AnswersReport(
        questions=questions,
        settings=settings,
        seed=seed,
        compared=compared,
        groups=tuple(groups),
        rows=rows,
        differences=differences,
        failures={name: tuple(found) for name, found in (failures or {}).items()},
        sessions=tuple(sessions.values()),
        runs={run.condition.name: run for run in runs},
    )


def _order(condition: Condition) -> tuple[Any, ...]:
    """Dense, then by budget; in each selectors by name, then the controls in their order."""
    control = CONTROLS.index(condition.selector) if condition.selector in CONTROLS else -1
    budget = (condition.max_vision_tokens or 0, condition.ratio or 0)
    return condition.selector != DENSE, *budget, control, condition.selector


def _pairs(conditions: Sequence[Condition]) -> list[tuple[Condition, Condition]]:
    """Each with `DENSE`, and with `BASELINE` at its budget."""
    return [
        (one, other)
        for one in conditions
        for other in conditions
        if one != other
        and (other.selector == DENSE or (other.selector == BASELINE and other.budget == one.budget))
    ]


def _groups(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """`ALL`, and the categories if there are several -> which questions are of it."""
    categories = np.array([question.category or NO_CATEGORY for question in questions])
    groups = {ALL: np.ones(len(questions), bool)}
    names = list(dict.fromkeys(categories.tolist()))
    return groups | ({name: categories == name for name in names} if len(names) > 1 else {})


def _cost(answers: Sequence[Answer]) -> Cost:
    kept = [
        a.kept_units / a.dense_units for a in answers if a.kept_units is not None and a.dense_units
    ]
    memory = [answer.peak_memory for answer in answers if answer.peak_memory is not None]
    return Cost(
        prompt_tokens=fmean(answer.prompt_tokens for answer in answers),
        dense_prompt_tokens=fmean(answer.dense_prompt_tokens for answer in answers),
        kept=fmean(kept) if kept else None,
        seconds={stage: fmean(getattr(a.seconds, stage) for a in answers) for stage in STAGES},
        peak_memory=max(memory, default=None),
    )
