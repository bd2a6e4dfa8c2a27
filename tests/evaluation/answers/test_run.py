"""Answers on disk: runs that are killed, damaged files, two processes, questions that fail."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autogaze.errors import EncoderError, EvaluationError, OutputError, VideoError
from autogaze.evaluation.answers.answering import DENSE, Condition, plan_conditions
from autogaze.evaluation.answers.questions import load_questions
from autogaze.evaluation.answers.report import make_report
from autogaze.evaluation.answers.run import (
    GIVE_UP,
    AnswerJournal,
    Failure,
    answer_questions,
    evaluate,
    group_failures,
    read_run,
    read_runs,
    settings_hash,
)
from tests.clips import make_video
from tests.evaluation.answers.material import FakeAnswerer, load_set, rows

ROOT = Path(__file__).resolve().parents[3]
GREEDY = Condition("greedy", ratio=0.1)
SETTINGS = {"model": "fake", "frames": 8}


def session() -> dict[str, str]:
    return {"host": "here"}


def answer_all(folder: Path, questions, condition=GREEDY, **options):
    """The model that was asked, and the failures."""
    model = FakeAnswerer(condition, **options)
    with AnswerJournal(folder, condition, SETTINGS) as journal:
        return model, answer_questions(questions, journal, lambda: model, session)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_fifty_kills_answer_nothing_twice_and_lose_none(tmp_path: Path) -> None:
    questions = load_set(tmp_path, rows(50, 40)).questions
    command = [sys.executable, "-m", "tests.evaluation.answers.killed", str(tmp_path), "50", "0"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "answers").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    written = [line["question_id"] for line in lines if "question_id" in line]
    assert written == [q.id for q in questions[: len(written)]]
    run, _ = read_run(file)
    model = FakeAnswerer(run.condition)
    assert run.answers == {q.id: model.answer(q) for q in questions[: len(written)]}
    # Asked again is only what a kill interrupted, at most one question for each.
    asked = Counter((tmp_path / "asked").read_text().split())
    assert set(asked) == set(written)
    assert 0 < sum(asked.values()) - len(asked) <= 50
    sessions = sum("session" in line for line in lines)
    assert sessions > 30, "most of the runs were killed before they began"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Questions, and the file of their answers."""
    folder = tmp_path_factory.mktemp("finished")
    questions = load_set(folder, rows(2, 2)).questions
    answer_all(folder / "answers", questions)
    return questions, (folder / "answers" / GREEDY.file_name).read_bytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000), torn=st.sampled_from([b"", b"\0\0\0", b"\xff{"]))
def test_a_file_cut_anywhere_is_completed(finished, tmp_path_factory, cut, torn) -> None:
    questions, content = finished
    content = content[: cut % (len(content) + 1)]
    folder = tmp_path_factory.mktemp("cut")
    (folder / GREEDY.file_name).write_bytes(content + torn)
    there = content.count(b'"question_id"', 0, content.rfind(b"\n") + 1)
    model, failures = answer_all(folder, questions)
    assert failures == []
    assert model.asked == [q.id for q in questions[there:]]
    run, found = read_run(folder / GREEDY.file_name)
    assert list(run.answers) == [q.id for q in questions]
    assert run.sessions == (session(),)
    assert found == SETTINGS


def test_a_finished_run_makes_no_model(tmp_path: Path) -> None:
    questions = load_set(tmp_path).questions
    answer_all(tmp_path, questions)

    def refuse():
        raise AssertionError("the model is not needed")

    with AnswerJournal(tmp_path, GREEDY, SETTINGS) as journal:
        assert len(journal.answers) == len(questions)
        assert answer_questions(questions, journal, refuse, refuse) == []


def test_other_settings_are_refused(tmp_path: Path) -> None:
    questions = load_set(tmp_path).questions
    answer_all(tmp_path, questions[:2])
    before = (tmp_path / GREEDY.file_name).read_bytes()
    with pytest.raises(EvaluationError, match=r"frames 8, not 16.*--out"):
        AnswerJournal(tmp_path, GREEDY, {**SETTINGS, "frames": 16}).__enter__()
    with pytest.raises(EvaluationError, match="seed None, not 3"):
        AnswerJournal(tmp_path, GREEDY, {**SETTINGS, "seed": 3}).__enter__()
    assert (tmp_path / GREEDY.file_name).read_bytes() == before
    # And lines that were copied from another file.
    other = Condition("greedy", ratio=0.2)
    answer_all(tmp_path, questions[2:3], other)
    line = (tmp_path / other.file_name).read_text().splitlines()[-1]
    with open(tmp_path / GREEDY.file_name, "a") as file:
        file.write(line + "\n")
    with pytest.raises(EvaluationError, match=settings_hash(SETTINGS, other)):
        answer_all(tmp_path, questions)


def test_two_processes_at_once_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no locks on this system")
    questions = load_set(tmp_path).questions
    with AnswerJournal(tmp_path, GREEDY, SETTINGS):
        with pytest.raises(OutputError, match="another process"):
            answer_all(tmp_path, questions)
        answer_all(tmp_path, questions[:1], Condition(DENSE))  # another file
        assert read_run(tmp_path / GREEDY.file_name)[0].answers == {}
    assert answer_all(tmp_path, questions)[0].asked


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{}", None),
        ("[]", "line 4"),
        ("{", "line 4"),
        ('{"question_id": "1"}', "line 4"),
        ('{"question_id": "1", "text": 5}', "line 4"),
    ],
)
def test_damaged_lines(tmp_path: Path, line: str, named: str | None) -> None:
    questions = load_set(tmp_path).questions
    answer_all(tmp_path, questions[:1])
    with open(tmp_path / GREEDY.file_name, "a") as file:
        file.write(line + "\n")
    if named is None:  # an entry of a later version
        assert len(answer_all(tmp_path, questions)[0].asked) == len(questions) - 1
        return
    with pytest.raises(EvaluationError, match=named):
        answer_all(tmp_path, questions)
    with pytest.raises(EvaluationError, match=named):
        read_run(tmp_path / GREEDY.file_name)


@pytest.mark.parametrize("damage", ["twice", "counts", "seconds", "times", "head", "condition"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    questions = load_set(tmp_path).questions
    answer_all(tmp_path, questions[:2])
    path = tmp_path / GREEDY.file_name
    lines = path.read_text().splitlines()
    if damage == "twice":
        lines.append(lines[-1])
    elif damage == "counts":
        lines[-1] = json.dumps({**json.loads(lines[-1]), "prompt_tokens": 1.5})
    elif damage in ("seconds", "times"):
        wrong = 0.5 if damage == "seconds" else {"decode": "soon"}
        lines[-1] = json.dumps({**json.loads(lines[-1]), "seconds": wrong})
    elif damage == "head":
        lines = lines[1:]
    else:
        lines[0] = json.dumps({**json.loads(lines[0]), "condition": {"selector": "greedy"}})
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(EvaluationError, match=path.name):
        read_run(path)
    with pytest.raises(EvaluationError, match=path.name):
        answer_all(tmp_path, questions)


def test_missing_and_broken_videos_are_told_and_tried_again(tmp_path: Path) -> None:
    questions = load_set(tmp_path).questions
    (tmp_path / "videos" / "clip_1.mp4").unlink()
    found = load_questions(tmp_path)
    assert found.missing == ("clip_1.mp4",)
    model, failures = answer_all(tmp_path, found.questions, broken=["clip_2.mp4"])
    assert len(model.asked) == 9
    assert [f.question.video_path for f in failures] == ["clip_2.mp4"] * 3
    assert all("nothing in it" in f.cause for f in failures)
    model, failures = answer_all(tmp_path, questions)
    assert failures == []
    assert model.asked == [q.id for q in questions if q.video_path in ("clip_1.mp4", "clip_2.mp4")]


class Hopeless(FakeAnswerer):
    """Cannot answer at all."""

    error: type[Exception] = EncoderError

    def answer(self, question):
        self.asked.append(question.id)
        raise self.error("a context too long")


def test_a_run_that_cannot_succeed_stops(tmp_path: Path) -> None:
    questions = load_set(tmp_path).questions
    model = Hopeless(GREEDY)
    with (
        pytest.raises(EvaluationError, match=r"greedy 10 %.*too long"),
        AnswerJournal(tmp_path, GREEDY, SETTINGS) as journal,
    ):
        answer_questions(questions, journal, lambda: model, session)
    assert len(model.asked) == GIVE_UP
    # Broken videos say nothing about the others; nor do errors once something was answered.
    model.error, model.asked = VideoError, []
    with AnswerJournal(tmp_path, GREEDY, SETTINGS) as journal:
        assert len(answer_questions(questions, journal, lambda: model, session)) == len(questions)
    answer_all(tmp_path, questions[:1])
    model.error = EncoderError
    with AnswerJournal(tmp_path, GREEDY, SETTINGS) as journal:
        assert (
            len(answer_questions(questions, journal, lambda: model, session)) == len(questions) - 1
        )
    # What is a defect is never hidden.
    model.error = RuntimeError
    with AnswerJournal(tmp_path, GREEDY, SETTINGS) as journal, pytest.raises(RuntimeError):
        answer_questions(questions, journal, lambda: model, session)


def test_all_conditions_in_a_folder_are_read_together(tmp_path: Path) -> None:
    found = load_set(tmp_path)
    folder = tmp_path / "answers"
    failures = evaluate(found, [Condition(DENSE), GREEDY], FakeAnswerer, folder, SETTINGS, session)
    assert failures == {"dense": [], "greedy 10 %": []}
    other = Condition("change", ratio=0.1)
    evaluate(found, [other], FakeAnswerer, folder, SETTINGS, session)
    runs = read_runs(folder, SETTINGS, found)
    assert {run.condition for run in runs} == {Condition(DENSE), GREEDY, other}
    assert all(len(run.answers) == len(found.questions) for run in runs)
    with pytest.raises(EvaluationError, match="frames 8, not 9"):
        read_runs(folder, {**SETTINGS, "frames": 9}, found)
    changed = load_set(tmp_path, rows(4, 2))
    with pytest.raises(EvaluationError, match=f"set '{found.fingerprint}'"):
        read_runs(folder, SETTINGS, changed)
    with pytest.raises(EvaluationError, match=f"set '{found.fingerprint}'"):
        evaluate(changed, [GREEDY], FakeAnswerer, folder, SETTINGS, session)


def test_a_set_without_any_video_is_refused(tmp_path: Path) -> None:
    load_set(tmp_path)
    for video in (tmp_path / "videos").iterdir():
        video.unlink()
    with pytest.raises(EvaluationError, match=r"clip_0\.mp4"):
        evaluate(
            load_questions(tmp_path), [GREEDY], FakeAnswerer, tmp_path / "a", SETTINGS, session
        )
    assert not (tmp_path / "a").exists()


def test_conditions() -> None:
    planned = plan_conditions(["greedy", "random"], [0.1, 0.5, 0.1], [4000])
    assert [one.name for one in planned[:6]] == [
        "dense", "greedy 10 %", "random 10 %", "centre 10 %", "uniform 10 %", "greedy 50 %",
    ]  # fmt: skip
    assert len(planned) == 1 + 3 * 4
    assert planned[-1] == Condition("uniform", max_vision_tokens=4000)
    assert len({one.file_name for one in planned}) == len(planned)
    names = {
        Condition(name, ratio=0.1).file_name for name in ("a/b", "a-b", "a//b", "../a", "é", "e")
    }
    assert len(names) == 6
    assert all(Path(name).name == name and not name.startswith(".") for name in names)
    for options in ({}, {"ratio": 0.1, "max_vision_tokens": 5}, {"ratio": 0}, {"ratio": 1.5}, {"ratio": float("nan")}, {"max_vision_tokens": 0}):  # fmt: skip
        with pytest.raises(EvaluationError):
            Condition("greedy", **options)
    with pytest.raises(EvaluationError):
        Condition(DENSE, ratio=0.1)


def test_a_setting_that_is_not_there_is_none_that_is_null(tmp_path: Path) -> None:
    questions = load_set(tmp_path).questions
    answer_all(tmp_path, questions[:1])
    path = tmp_path / GREEDY.file_name
    head, *answers = path.read_text().splitlines()
    values = json.loads(head)
    del values["condition"]["max_vision_tokens"]  # which was null
    path.write_text("".join(f"{line}\n" for line in (json.dumps(values), *answers)))
    with pytest.raises(EvaluationError, match="max_vision_tokens"):
        answer_all(tmp_path, questions)


def test_a_file_that_is_no_video_is_asked_about_once_and_told_once(tmp_path: Path) -> None:
    found = load_set(tmp_path)
    conditions = plan_conditions(["greedy"], [0.1, 0.5])
    models = {c.name: FakeAnswerer(c, broken=["clip_2.mp4"]) for c in conditions}
    failures = evaluate(
        found, conditions, lambda c: models[c.name], tmp_path / "answers", SETTINGS, session
    )
    about = [q.id for q in found.questions if q.video_path == "clip_2.mp4"]
    first, *others = models.values()
    assert [key for key in first.asked if key in about] == about[:1]
    assert all(not set(about) & set(model.asked) for model in others)
    assert all([f.question.id for f in failed] == about for failed in failures.values())
    (group,) = group_failures(failures)
    assert group.questions == tuple(about)
    assert group.conditions == tuple(models)
    assert "nothing in it" in group.cause
    report = make_report(
        found, SETTINGS, read_runs(tmp_path / "answers", SETTINGS, found), failures
    )
    (note,) = (note for note in report.notes if "Not answered" in note)
    assert f"all {len(conditions)} conditions" in note
    assert all(key in note for key in about)


def test_a_video_that_opens_is_tried_under_every_condition(tmp_path: Path) -> None:
    """Damage on the way may lie where other conditions do not read."""
    found = load_set(tmp_path)
    for question in found.questions:
        make_video(question.video, 2, 32, 32)
    conditions = plan_conditions(["greedy"], [0.1], controls=())
    models = {c.name: FakeAnswerer(c, broken=["clip_2.mp4"]) for c in conditions}
    evaluate(found, conditions, lambda c: models[c.name], tmp_path / "answers", SETTINGS, session)
    about = {q.id for q in found.questions if q.video_path == "clip_2.mp4"}
    assert all(about <= set(model.asked) for model in models.values())


def test_failures_of_other_causes_and_conditions_stand_apart(tmp_path: Path) -> None:
    first, second = load_set(tmp_path).questions[:2]
    groups = group_failures(
        {
            "dense": [Failure(first, "too long"), Failure(second, "too long")],
            "greedy": [Failure(first, "too long"), Failure(second, "other")],
        }
    )
    assert [(g.cause, g.questions, g.conditions) for g in groups] == [
        ("too long", (first.id,), ("dense", "greedy")),
        ("too long", (second.id,), ("dense",)),
        ("other", (second.id,), ("greedy",)),
    ]
    assert groups[1].where(2) == "dense"


def test_sizes_of_frames_are_kept_and_older_files_have_none(tmp_path: Path) -> None:
    questions = load_set(tmp_path).questions[:1]
    answer_all(tmp_path, questions)
    path = tmp_path / GREEDY.file_name
    *before, last = path.read_text().splitlines()
    entry = json.loads(last)
    older = {key: value for key, value in entry.items() if key != "frame_size"}
    sizes = [({**entry, "frame_size": [64, 48]}, (64, 48)), (entry, None), (older, None)]
    for line, size in sizes:
        path.write_text("\n".join([*before, json.dumps(line)]) + "\n")
        assert read_run(path)[0].answers[questions[0].id].frame_size == size
    for size in ([64], [64, "48"], "64", 64):
        path.write_text("\n".join([*before, json.dumps({**entry, "frame_size": size})]) + "\n")
        with pytest.raises(EvaluationError, match="frame_size"):
            read_run(path)
