"""The plug-in of lmms-eval: on a stand-in of it, and where it is installed with itself."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from autogaze.errors import EvaluationError
from autogaze.evaluation.answers.answering import DENSE, Condition
from autogaze.evaluation.answers.questions import load_questions
from autogaze.evaluation.lmms import TASKS, manifests
from autogaze.evaluation.lmms.tasks.hlvid import utils
from tests.cli.commands import run
from tests.clips import make_video
from tests.evaluation.answers.material import rows, write_set
from tests.mllm import tiny
from tests.mllm.tiny_processor import checkpoint

ROOT = Path(__file__).parents[3]

ANSWERER = """
from tests.evaluation.answers.material import FakeAnswerer

def load_answerer(model, options):
    assert (model, options.frames, options.seed, options.device) == ("fake", 8, 3, "auto")
    def answerer(condition, max_new_tokens=16):
        fake = FakeAnswerer(condition, skill=1)
        fake.max_new_tokens = max_new_tokens
        return fake
    return answerer
"""


@pytest.fixture
def model_file(monkeypatch):
    """`autogaze.evaluation.lmms.model`, on a stand-in of lmms-eval."""

    class Base:
        def __init__(self) -> None:
            self.task_dict = {}

    class Manifest(SimpleNamespace):
        pass

    stubs = {
        "lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {}, "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }  # fmt: skip
    for name, values in stubs.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "autogaze.evaluation.lmms.model", raising=False)
    yield importlib.import_module("autogaze.evaluation.lmms.model")
    sys.modules.pop("autogaze.evaluation.lmms.model", None)


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(ANSWERER)
    return str(tmp_path / "own.py")


def requests(documents, monkeypatch, folder: Path, **options):
    monkeypatch.setenv("AUTOGAZE_HLVID", str(folder))
    return [
        SimpleNamespace(args=("", utils.doc_to_messages, {"max_new_tokens": 16, **options}, n, "hlvid", "test"))
        for n in range(len(documents))
    ]  # fmt: skip


def test_requests_are_answered(model_file, own, tmp_path, monkeypatch) -> None:
    documents = rows()
    write_set(tmp_path, documents)
    model = model_file.AutoGazeModel(
        "fake", ratio="0.2", frames="8", seed="3", answerer=own, batch_size="1"
    )
    assert model.condition == Condition("greedy", ratio=0.2)
    assert not model.is_simple
    model.task_dict = {"hlvid": {"test": documents}}
    answers = {str(doc["question_id"]): doc["answer"] for doc in documents}
    monkeypatch.setattr(model_file, "Question", lambda *a, **k: SimpleNamespace(
        id=a[0], video_path=a[1], text=a[2], answer=answers[a[0]], video=k["video"]))  # fmt: skip
    texts = model.generate_until(requests(documents, monkeypatch, tmp_path))
    scores = [
        utils.process_results(doc, [text])["accuracy"]
        for doc, text in zip(documents, texts, strict=True)
    ]
    assert [score["video_path"] for score in scores] == [doc["video_path"] for doc in documents]
    said = [text != "no idea" for text in texts]
    assert utils.mean_score(scores) == pytest.approx(sum(said) / len(said))
    assert set(model._answerers) == {16}
    cut_off = model.generate_until(requests(documents, monkeypatch, tmp_path, until=["."]))
    assert cut_off == [text.rstrip(".") for text in texts]


def test_questions_have_the_ids_of_autogaze_eval(model_file, own, tmp_path, monkeypatch) -> None:
    """The control `random` draws by them."""
    named, nameless = rows(1, 2)
    del nameless["question_id"]
    documents = [{**named, "question_id": 7.0}, nameless]
    write_set(tmp_path, documents)
    model = model_file.AutoGazeModel("fake", frames=8, seed=3, answerer=own)
    model.task_dict = {"hlvid": {"test": documents}}
    monkeypatch.setattr(model_file, "Question", lambda *a, **k: SimpleNamespace(
        id=a[0], video_path=a[1], text=a[2], answer="A", video=k["video"]))  # fmt: skip
    model.generate_until(requests(documents, monkeypatch, tmp_path))
    asked = model._answerers[16].asked
    assert asked == [question.id for question in load_questions(tmp_path).questions] == ["7", "2"]


def test_options_of_the_model(model_file, own) -> None:
    common = {"frames": 8, "seed": 3, "answerer": own}
    make = model_file.AutoGazeModel
    assert make("fake", **common).condition == Condition("greedy", ratio=0.1)
    assert make("fake", selector=DENSE, **common).condition == Condition(DENSE)
    tokens = make("fake", max_vision_tokens="400", **common).condition
    assert tokens == Condition("greedy", max_vision_tokens=400)
    for wrong, named in (
        ({"colour": 1}, "colour"),
        ({"batch_size": 4}, "4"),
        ({"batch_size": "auto"}, "auto"),
        ({"ratio": "much"}, "much"),
        ({"ratio": 2}, "2"),
        ({"selector": DENSE, "ratio": 0.5}, DENSE),
    ):
        with pytest.raises(EvaluationError, match=named):
            make("fake", **common, **wrong)
    with pytest.raises(EvaluationError, match="pretrained"):
        make(**common)
    for method in ("loglikelihood", "generate_until_multi_round"):
        with pytest.raises(EvaluationError):
            getattr(make("fake", **common), method)([])


def test_what_a_request_must_hold(model_file) -> None:
    video, text = {"type": "video", "url": "v.mp4"}, {"type": "text", "text": "What?"}
    assert model_file.read_messages([{"content": [video, text]}]) == ("v.mp4", "What?")
    for parts in (
        [text],
        [video],
        [video, video, text],
        [video, text, {"type": "image", "url": "i"}],
        [{"type": "video", "url": {"path": "v.mp4", "video_start": 3}}, text],
        [],
    ):
        with pytest.raises(EvaluationError):
            model_file.read_messages([{"content": parts}])
    assert model_file.new_tokens({"until": ["\n"], "temperature": 0, "do_sample": False}) == 16
    assert model_file.new_tokens({"max_new_tokens": 5}) == 5
    for sampled in ({"do_sample": True}, {"temperature": 0.7}, {"num_beams": 2}):
        with pytest.raises(EvaluationError, match=next(iter(sampled))):
            model_file.new_tokens(sampled)


def test_the_task(tmp_path, monkeypatch) -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.load((TASKS / "hlvid" / "hlvid.yaml").read_text(), Loader)
    functions = [value for value in str(task).split("'") if value.startswith("utils.")]
    assert len(functions) == 5
    assert all(callable(getattr(utils, name.removeprefix("utils."))) for name in functions)
    assert task["generation_kwargs"]["max_new_tokens"] == 16
    assert task["generation_kwargs"]["until"] == []  # not lmms-eval's empty line
    assert task["metadata"]["version"] == 2.0
    document = rows(1, 1)[0]
    result = utils.process_results(document, ["(A)"])["accuracy"]
    assert result[task["cluster_key"]] == "clip_0.mp4"
    assert result["score"] == 1.0
    wrong = utils.process_results(document, ["no"])["accuracy"]
    assert wrong["score"] == 0.0
    assert utils.mean_score([result, wrong]) == 0.5  # of the scores' unit, as lmms-eval's errors
    bare = {"video_path": "clip_0.mp4", "question": "Which?", "answer": "B"}
    assert utils.process_results(bare, ["B"])["accuracy"]["score"] == 1.0
    monkeypatch.setenv("AUTOGAZE_HLVID", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"clip_0\.mp4"):
        utils.doc_to_visual(document)
    write_set(tmp_path, [document])
    utils._finder.cache_clear()
    assert utils.doc_to_visual(document) == [str(tmp_path / "videos" / "clip_0.mp4")]
    assert utils.doc_to_text(document) == document["question"]


def test_the_entry_point(model_file) -> None:
    (manifest,) = manifests()
    assert manifest.model_id == "autogaze"
    module, _, name = manifest.chat_class_path.rpartition(".")
    assert getattr(importlib.import_module(module), name) is model_file.AutoGazeModel
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["lmms_eval.models"]
    assert points == {"autogaze": "autogaze.evaluation.lmms:manifests"}
    for point in entry_points(group="lmms_eval.models"):
        if point.name == "autogaze":  # not there in an installation made before
            assert point.load() is manifests


def test_the_extra() -> None:
    """What lmms-eval imports at its start, of what it asks for and this package does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"]["lmms"]}
    assert {"accelerate", "datasets", "evaluate", "loguru", "sacrebleu", "tenacity"} <= names


INSTALLED = importlib.util.find_spec("lmms_eval") is not None


def test_in_lmms_eval_itself() -> None:
    registry = pytest.importorskip(
        "lmms_eval.models.registry_v2", reason="lmms-eval is not installed"
    )
    known = registry.ModelRegistryV2()
    for manifest in manifests():
        known.register_manifest(manifest)
    assert known.get_model_class("autogaze").is_simple is False


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed")
def test_answers_are_those_of_autogaze_eval(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    model = checkpoint(tmp_path / "model", "qwen3_vl")
    tiny.qwen3_vl().save_pretrained(model)
    documents = rows(2, 2)
    folder = write_set(tmp_path / "set", documents)
    (folder / "data" / "test.jsonl").unlink()
    table = pyarrow.Table.from_pylist(documents)
    parquet.write_table(table, folder / "data" / "test-00000-of-00001.parquet")
    for document in documents:
        make_video(folder / "videos" / document["video_path"], 8, 64, 48, fps=4)
    result = run(
        *("eval", "hlvid", "--data", folder, "--model", model, "--out", tmp_path / "eval"),
        *("--selector", "random", "--ratio", 0.25, "--no-dense", "--no-controls", "--no-plot"),
        *("--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    (journal,) = (tmp_path / "eval" / "answers").glob("*.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    expected = {line["question_id"]: line["text"] for line in lines if "text" in line}

    words = {
        "model": "autogaze", "model_args": f"pretrained={model},selector=random,ratio=0.25,device=cpu",
        "tasks": "hlvid", "include_path": TASKS, "batch_size": 1, "output_path": tmp_path / "lmms",
        "verbosity": "DEBUG",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", "--log_samples"]
        + [word for name, value in words.items() for word in (f"--{name}", str(value))],
        cwd=folder,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "lmms").rglob("*_samples_hlvid.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {str(one["accuracy"]["question_id"]): one["filtered_resps"] for one in found} == expected
    (results,) = (tmp_path / "lmms").rglob("*_results.json")
    figures = json.loads(results.read_text())["results"]["hlvid"]
    assert figures["accuracy,none"] == sum(one["accuracy"]["score"] for one in found) / 4
