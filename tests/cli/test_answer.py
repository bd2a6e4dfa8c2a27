"""`autogaze answer`: text, JSON, comparison and overlay."""

import json
import shutil

import av
import pytest

from tests.cli.commands import fails, run
from tests.clips import make_video
from tests.mllm import tiny
from tests.mllm.tiny_processor import checkpoint


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "clip.mp4", 8, 64, 48, fps=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint(folder, "qwen3_vl")
    tiny.qwen3_vl().save_pretrained(folder)  # its config.json is the model's
    return folder


def ask(video, model, *words):
    return run(
        "answer",
        video,
        "What moves?",
        "--model",
        model,
        "--frames",
        4,
        "--max-new-tokens",
        3,
        *words,
    )


def test_json_of_both(video, model):
    result = ask(video, model, "--ratio", 0.25, "--compare", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found.keys() == {"gazed", "dense"}
    gazed, dense = found["gazed"], found["dense"]
    assert dense["kept_units"] == dense["dense_units"] == gazed["dense_units"]
    assert 0 < gazed["ratio"] <= 0.25 < dense["ratio"] == 1.0
    assert gazed["prompt_tokens"] < dense["prompt_tokens"] == gazed["dense_prompt_tokens"]
    assert gazed["seconds"].keys() == {
        "decode", "select", "encode", "prefill", "generate", "total",
    }  # fmt: skip


def test_the_answer_is_printed_before_its_costs(video, model):
    told = json.loads(ask(video, model, "--ratio", 0.25, "--json").stdout)["gazed"]
    result = ask(video, model, "--ratio", 0.25)
    assert result.exit_code == 0, result.output
    assert result.stdout.index(told["text"]) < result.stdout.index("prefill")
    assert f"{told['kept_units']} of {told['dense_units']}" in result.stdout


def test_dense_alone(video, model):
    result = ask(video, model, "--dense", "--json")
    assert json.loads(result.stdout).keys() == {"dense"}


def test_an_overlay_of_the_frames_seen(video, model, tmp_path):
    path = tmp_path / "seen.mp4"
    result = ask(video, model, "--ratio", 0.25, "--overlay", path)
    assert result.exit_code == 0, result.output
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 4


def test_an_overlay_where_everything_is_kept(video, model, tmp_path):
    path = tmp_path / "all.mp4"
    result = ask(video, model, "--ratio", 1, "--selector", "centre", "--overlay", path)
    assert result.exit_code == 0, result.output
    assert path.stat().st_size


def test_an_overlay_without_a_gaze_is_refused_before_the_model_is_loaded(video, tmp_path):
    words = ["--selector", "uniform", "--ratio", 0.5, "--overlay", tmp_path / "seen.mp4"]
    told = fails("answer", video, "What?", "--model", tmp_path / "none", *words)
    assert "uniform" in told
    assert "none" not in told


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--ratio", 2], "2"),
        (["--ratio", 0], "0"),
        (["--frames", 0], "--frames"),
        (["--max-vision-tokens", -1], "-1"),
        (["--dense", "--ratio", 0.5], "--dense"),
        (["--dense", "--compare"], "--dense"),
        (["--dense", "--units", "union"], "--units union"),
        (["--selector", "uniform", "--ratio", 0.5, "--loss", 0.1], "uniform"),
        (["--dtype", "int8"], "int8"),
        (["--device", "tpu"], "tpu"),
        (["--units", "all"], "all"),
        (["--selector", "no-such"], "no-such"),
        (["--overlay", "seen.txt"], "seen.txt"),
        (["--max-new-tokens", 100000], "512"),
    ],
    ids=str,
)
def test_bad_options(video, model, words, value):
    assert value in fails("answer", video, "What?", "--model", model, *words)


def test_bad_inputs(video, model, tmp_path):
    assert "no.mp4" in fails("answer", tmp_path / "no.mp4", "What?", "--model", model)
    assert "none" in fails("answer", video, "What?", "--model", tmp_path / "none")
    assert "empty" in fails("answer", video, " ", "--model", model)


def test_frames_of_different_sizes_are_told(video, model, tmp_path):
    """A number of tokens alone sees frames as large as the video's, `dense` the checkpoint's."""
    bounded = shutil.copytree(model, tmp_path / "bounded")
    path = bounded / "video_preprocessor_config.json"
    size = {"shortest_edge": 256, "longest_edge": 4 * 32 * 24}
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": size}))
    found = json.loads(ask(video, bounded, "--max-vision-tokens", 8, "--compare", "--json").stdout)
    sizes = [found[name]["frame_size"] for name in ("gazed", "dense")]
    assert sizes == [[64, 48], [32, 24]]
    (note,) = found["notes"]
    printed = " ".join(ask(video, bounded, "--max-vision-tokens", 8, "--compare").stdout.split())
    for told in ("gazed 64 x 48", "dense 32 x 24"):
        assert told in note
        assert told in printed


def test_frames_of_one_size_need_no_note(video, model):
    result = ask(video, model, "--ratio", 0.25, "--max-vision-tokens", 8, "--compare", "--json")
    assert "notes" not in json.loads(result.stdout)
