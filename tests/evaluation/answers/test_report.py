"""The figures of an evaluation, its tables, JSON and plots."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from autogaze.evaluation.answers.answering import (
    DENSE,
    Answer,
    Condition,
    StageSeconds,
    plan_conditions,
)
from autogaze.evaluation.answers.plots import plot_accuracy, plot_seconds
from autogaze.evaluation.answers.questions import QuestionSet, load_questions
from autogaze.evaluation.answers.report import make_report
from autogaze.evaluation.answers.run import Failure, Run
from autogaze.evaluation.answers.tables import make_tables, percent, points, to_markdown
from autogaze.evaluation.bootstrap import ALL, Estimate
from tests.evaluation.answers.material import FakeAnswerer, load_set, rows

GREEDY, RANDOM = Condition("greedy", ratio=0.1), Condition("random", ratio=0.1)
SESSION = {"hardware": "here", "autogaze": "0"}


def run_of(questions: QuestionSet, condition: Condition, **options: float) -> Run:
    model = FakeAnswerer(condition, **options)
    return Run(condition, {q.id: model.answer(q) for q in questions.questions}, (SESSION,))


def said(
    questions: QuestionSet, condition: Condition, texts: dict[str, str], tokens: int = 100
) -> Run:
    """A run with these answers, and right ones to all other questions."""
    return Run(
        condition,
        {
            q.id: Answer(texts.get(q.id, q.answer), tokens, 1000, StageSeconds(encode=1.0))
            for q in questions.questions
        },
    )


@pytest.fixture
def questions(tmp_path: Path) -> QuestionSet:
    return load_set(tmp_path, rows(12, 3))


@pytest.fixture
def report(questions):
    planned = plan_conditions(["greedy", "change"], [0.1, 0.5])
    return make_report(questions, {"model": "fake"}, [run_of(questions, c) for c in planned[::-1]])


def test_accuracy_counts_right_letters(questions) -> None:
    first, second, third = (q.id for q in questions.questions[:3])
    wrong = "B" if questions.questions[0].answer == "A" else "A"
    run = said(questions, GREEDY, {first: wrong, second: "I cannot see it", third: "E"})
    found = make_report(questions, {}, [run, said(questions, Condition(DENSE), {})])
    dense, greedy = found.rows
    assert dense.accuracy[ALL] == Estimate(1.0, None, None)
    assert greedy.accuracy[ALL].mean == pytest.approx(33 / 36)
    assert greedy.no_letter == (second, third)
    assert found.groups == (ALL, "av", "household")
    assert greedy.accuracy["av"].mean == pytest.approx(15 / 18)
    assert greedy.accuracy["household"] == Estimate(1.0, None, None)
    difference = found.difference("greedy 10 %", DENSE)
    assert difference.mean == pytest.approx(-3 / 36)
    assert found.difference(DENSE, DENSE) is None
    markdown = to_markdown(found)
    assert f"{second}: `I cannot see it`" in markdown
    assert found.to_json()["answers"]["greedy 10 %"][first] == {
        "text": wrong, "letter": wrong, "right": False,
    }  # fmt: skip


def test_rows_stand_in_order_and_are_compared_at_equal_budgets(report) -> None:
    assert [row.condition.name for row in report.rows] == [
        "dense",
        "change 10 %", "greedy 10 %", "random 10 %", "centre 10 %", "uniform 10 %",
        "change 50 %", "greedy 50 %", "random 50 %", "centre 50 %", "uniform 50 %",
    ]  # fmt: skip
    pairs = {(one.condition, one.reference) for one in report.differences}
    assert ("greedy 10 %", "random 10 %") in pairs
    assert ("greedy 10 %", "random 50 %") not in pairs
    assert sum(reference == "dense" for _, reference in pairs) == 10
    one = next(d for d in report.differences if (d.condition, d.reference, d.group) == ("greedy 10 %", "random 10 %", ALL))  # fmt: skip
    accuracy = {row.condition.name: row.accuracy[ALL].mean for row in report.rows}
    assert one.estimate.mean == pytest.approx(accuracy["greedy 10 %"] - accuracy["random 10 %"])
    assert one.is_clear == (not one.estimate.low <= 0 <= one.estimate.high)


def test_costs_are_means_over_questions(report, questions) -> None:
    model = FakeAnswerer(GREEDY)
    answers = [model.answer(question) for question in questions.questions]
    cost = next(row.cost for row in report.rows if row.condition == GREEDY)
    assert cost.prompt_tokens == pytest.approx(sum(a.prompt_tokens for a in answers) / 36)
    assert cost.seconds["select"] == 0.25
    assert cost.total_seconds == pytest.approx(0.5 + 0.25 + 0.1 + 0.1 + 0.125)
    assert cost.peak_memory == max(a.peak_memory for a in answers)
    assert cost.kept == pytest.approx(0.1, abs=0.001)


def test_only_questions_answered_under_all_conditions_are_compared(questions) -> None:
    dense, greedy = run_of(questions, Condition(DENSE)), run_of(questions, GREEDY)
    ids = [q.id for q in questions.questions]
    part = Run(GREEDY, {key: greedy.answers[key] for key in ids[:10]}, greedy.sessions)
    failures = {"greedy 10 %": [Failure(q, "too long") for q in questions.questions[10:]]}
    found = make_report(questions, {}, [dense, part], failures)
    assert [q.id for q in found.compared] == ids[:10]
    assert [row.answered for row in found.rows] == [36, 10]
    assert found.num_videos == 4
    notes = "\n".join(found.notes)
    assert "26 more" in notes
    assert "36 questions, but under greedy 10 % 10;" in notes
    assert f"{ids[10]}: too long" in notes
    assert "4 videos" in notes  # too few for intervals
    assert make_report(questions, {}, [dense, Run(GREEDY, {})]) is None
    assert make_report(questions, {}, []) is None


def test_missing_videos_and_other_sessions_are_told(tmp_path, questions) -> None:
    (tmp_path / "videos" / "clip_3.mp4").unlink()
    found = load_questions(tmp_path)
    answered = QuestionSet("", tuple(q for q in found.questions if q.video is not None), "")
    runs = [run_of(answered, Condition(DENSE)), run_of(answered, GREEDY)]
    runs[1] = Run(GREEDY, runs[1].answers, ({"hardware": "there"},))
    report = make_report(found, {}, runs)
    assert len(report.compared) == 33
    assert any("clip_3.mp4" in note for note in report.notes)
    assert report.to_json()["missing_videos"] == ["clip_3.mp4"]
    assert report.sessions == (SESSION, {"hardware": "there"})
    assert any("sessions" in note for note in report.notes)


def test_unequal_tokens_at_one_budget_are_told(questions) -> None:
    equal = [said(questions, GREEDY, {}, 100), said(questions, RANDOM, {}, 104)]
    assert not any("equal tokens" in note for note in make_report(questions, {}, equal).notes)
    unequal = [equal[0], said(questions, RANDOM, {}, 106)]
    (note,) = (n for n in make_report(questions, {}, unequal).notes if "equal tokens" in n)
    assert "greedy took 100" in note
    assert "random 106" in note


def test_unequal_resolutions_are_told(questions) -> None:
    few = Condition("greedy", max_vision_tokens=100)

    def seen(condition: Condition, size: tuple[int, int] | None) -> Run:
        run = said(questions, condition, {})
        return Run(condition, {key: replace(a, frame_size=size) for key, a in run.answers.items()})

    def notes(*sizes: tuple[int, int] | None) -> list[str]:
        runs = [seen(c, size) for c, size in zip((Condition("dense"), few), sizes, strict=True)]
        return [n for n in make_report(questions, {}, runs).notes if "equal resolution" in n]

    (note,) = notes((416, 224), (1920, 1088))
    assert "416 x 224 under dense" in note
    assert f"1920 x 1088 under {few.name}" in note
    assert notes((416, 224), (416, 224)) == notes(None, (416, 224)) == []


def test_files(report, tmp_path: Path) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert values["compared"] == [q.id for q in report.compared]
    assert values["conditions"][0]["accuracy"][ALL]["mean"] == report.rows[0].accuracy[ALL].mean
    assert len(values["differences"]) == len(report.differences)
    markdown = to_markdown(report)
    for table in make_tables(report):
        assert len(table.header) == len(table.rows[0])
        assert table.title in markdown
    assert percent(report.rows[0].accuracy["av"]) in markdown
    for plot, name in ((plot_accuracy, "accuracy.png"), (plot_seconds, "seconds.png")):
        plot(report, tmp_path / name)
        picture = Image.open(tmp_path / name).convert("L")
        assert min(picture.size) > 300
        assert picture.getextrema()[0] < 100


def test_plots_of_one_condition_and_no_categories(tmp_path: Path) -> None:
    lines = [{**line, "category": None} for line in rows(3, 1)]
    questions = load_set(tmp_path, lines)
    found = make_report(questions, {}, [said(questions, Condition(DENSE), {})])
    assert found.groups == (ALL,)
    assert len(make_tables(found)) == 2
    plot_accuracy(found, tmp_path / "a.png")
    plot_seconds(found, tmp_path / "b.png")


def test_figures_as_text() -> None:
    assert percent(Estimate(0.525, 0.4, 0.65)) == "52.5 (40.0 to 65.0)"
    assert percent(Estimate(1.0, None, None)) == "100.0"
    assert points(Estimate(-0.01, -0.05, 0.03)) == "-1.0 (-5.0 to +3.0)"
    assert points(None) == ""
