"""Multimodal LLMs of this package as answerers."""

import json

import pytest

from autogaze.errors import EvaluationError, MLLMError
from autogaze.evaluation.answers.answering import AnswererOptions, Condition, load_answerer
from autogaze.evaluation.answers.questions import load_questions
from tests.cli.commands import run
from tests.clips import make_video
from tests.mllm import tiny
from tests.mllm.tiny_processor import checkpoint

CONDITIONS = (
    Condition("dense"),
    Condition("greedy", ratio=0.25),
    Condition("random", ratio=0.25),
    Condition("uniform", ratio=0.5),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint(folder, "qwen3_vl")
    tiny.qwen3_vl().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    lines = []
    for number in range(2):
        make_video(folder / f"clip{number}.mp4", 8, 64, 48, fps=4)
        question = "What moves?\nA. word40\nB. word41\nC. word42\nD. word43"
        name = f"clip{number}.mp4"
        lines.append(json.dumps({"video_path": name, "question": question, "answer": "B"}))
    (folder / "questions.jsonl").write_text("\n".join(lines))
    return folder / "questions.jsonl"


def test_conditions_cost_what_they_keep(model, data):
    maker = load_answerer(str(model), AnswererOptions(frames=8))
    question = load_questions(str(data)).questions[0]
    dense, greedy, drawn, uniform = (maker(c, 2).answer(question) for c in CONDITIONS)
    assert dense.kept_units == dense.dense_units
    assert dense.prompt_tokens == dense.dense_prompt_tokens
    for answer, share in ((greedy, 4), (drawn, 4), (uniform, 2)):
        assert answer.kept_units == pytest.approx(answer.dense_units / share, abs=4)
        dropped = answer.dense_units - answer.kept_units
        assert answer.prompt_tokens == answer.dense_prompt_tokens - dropped
    again = maker(CONDITIONS[2], 2).answer(question)
    assert (again.text, again.kept_units) == (drawn.text, drawn.kept_units)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(MLLMError, match="nowhere"):
        load_answerer(str(tmp_path / "nowhere"), AnswererOptions())


def test_the_command(model, data, tmp_path):
    words = ["eval", "hlvid", "--data", data, "--model", model, "--out", tmp_path / "out"]
    result = run(*words, "--frames", 4, "--ratio", 0.25, "--no-plot")
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (tmp_path / "out" / "answers").glob("*.jsonl"))
    assert len(files) == 5  # dense, greedy and three controls
    report = next((tmp_path / "out").glob("*.md")).read_text()
    assert all(name in report for name in ("dense", "greedy", "random", "centre", "uniform"))


def test_units_of_another_name():
    with pytest.raises(EvaluationError, match="all"):
        AnswererOptions(units="all")
