"""`--decoder`, `--device` and `--dtype` of all commands: where they are, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from autogaze.cli.app import app
from tests.cli.commands import fails, run
from tests.clips import make_video
from tests.decoders import decoded, needs_torchcodec, without_torchcodec
from tests.evaluation import tiny
from tests.video.test_matrix import CODECS, STEADY
from tests.video.test_matrix import encode as encode_codec

__all__ = ["decoded", "without_torchcodec"]

COMPUTE = {
    "gaze", "measure", "answer", "demo", "label", "calibrate", "corpus", "bench select", "bench encode",
    "bench fidelity", "bench quality", "eval hlvid",
}  # fmt: skip
READ_HEADERS_ONLY = {"info", "bench select"}
"""`bench select` reads clips before anything is timed, and codec's motion vectors."""


def commands(group: Any, before: str = "") -> dict[str, Any]:
    """The commands of a group and of those in it, by name; former names are left out."""
    found: dict[str, Any] = {}
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            found |= commands(one, f"{before}{name} ")
        elif not one.hidden:
            found[before + name] = one
    return found


def with_option(option: str) -> set[str]:
    return {
        name
        for name, one in commands(get_command(app)).items()
        if any(option in parameter.opts for parameter in one.params)
    }


def test_every_command_that_computes_has_device_and_precision() -> None:
    assert with_option("--device") == with_option("--dtype") == COMPUTE


def test_every_command_that_decodes_has_a_decoder() -> None:
    assert with_option("--decoder") == COMPUTE - READ_HEADERS_ONLY


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Videos, an encoder, a gaze, and a dataset."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "set" / "train").mkdir(parents=True)
    for name in ("one", "two"):
        make_video(folder / "set" / "train" / f"{name}.mp4", 18, 64, 64)
    make_video(folder / "video.mp4", 6, 64, 64)
    # Packets of MPEG-4 part 2 may hold no frame: PyAV's alone.
    encode_codec(folder / "old.mp4", CODECS["mpeg4"], STEADY, {}, 0)
    tiny.saved(folder / "encoder")
    for video in ("video", "old"):
        words = (folder / f"{video}.mp4", "--ratio", 0.05, "--tiles", "one", "--selector", "centre")
        result = run("gaze", *words, "--out", folder / f"{video}.safetensors")
        assert result.exit_code == 0, result.output
    options = {"name": "video_folder", "root": str(folder / "set"), "clip_len": 2}
    (folder / "dataset.json").write_text(json.dumps(options))
    return folder


def words_of(command: str, files: Path, out: Path, video: str = "video") -> list[object]:
    """A short call of a command that decodes."""
    path = files / f"{video}.mp4"
    return {
        "gaze": ["gaze", path, "--selector", "centre", "--ratio", 0.1, "--tiles", "one"],
        "measure": ["measure", path, files / f"{video}.safetensors"],
        "label": ["label", path, "--clip-len", 2, "--max-ratio", 0.03, "--out", out / "labels.json"],
        "corpus": ["corpus", path, "--out", out / "corpus", "--selector", "centre", "--ratio", 0.1],
        "answer": ["answer", path, "What?", "--model", "no/such/model"],
        "eval": ["eval", "hlvid", "--data", files, "--model", "none", "--out", out, "--no-plot"],
        "demo": ["demo", "--port", 0],
        "calibrate": [
            *("calibrate", "learned", "--dataset", files / "dataset.json", "--clips", 1),
            *("--out", out / "weights"),
        ],
        "quality": [
            *("bench", "quality", "--static", files / "set", "--clips", 2, "--no-features"),
            *("--selector", "centre", "--ratio", 0.1),
        ],
        "encode": [
            *("bench", "encode", "--video", path, "--encoder", files / "encoder", "--fps", 5),
            *("--selector", "centre", "--resolution", 64, "--frames", 2, "--repeats", 1),
        ],
        "fidelity": [
            *("bench", "fidelity", path, path.with_name("set"), "--encoder", files / "encoder"),
            *("--selector", "centre", "--ratio", 0.1, "--clips", 1),
        ],
    }[command]  # fmt: skip


EVERY = (
    "gaze", "measure", "label", "corpus", "answer", "eval", "demo", "calibrate", "quality", "encode",
    "fidelity",
)  # fmt: skip


@pytest.mark.usefixtures("without_torchcodec")
@pytest.mark.parametrize("command", EVERY)
def test_without_torchcodec_the_extra_is_named(command: str, files: Path, tmp_path: Path) -> None:
    if command in ("corpus", "demo"):
        pytest.importorskip({"corpus": "ray", "demo": "gradio"}[command])
    message = fails(*words_of(command, files, tmp_path), "--decoder", "torchcodec")
    assert "autogaze[torchcodec]" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize(("option", "value"), [("--decoder", "ffmpeg"), ("--dtype", "float8")])
def test_unknown_values(command: str, option: str, value: str, files: Path, tmp_path: Path) -> None:
    if command in ("corpus", "demo"):
        pytest.importorskip({"corpus": "ray", "demo": "gradio"}[command])
    message = fails(*words_of(command, files, tmp_path), option, value)
    assert value in message or option in message
    assert list(tmp_path.iterdir()) == []


FIGURES: dict[str, Callable[[dict[str, Any]], object]] = {
    "gaze": lambda report: (report["frames"], report["seconds"], report["loss_mean"]),
    "measure": lambda report: report["frames"],
    "label": lambda report: report,
    "quality": lambda report: (report["clips"], report["losses"]),
    "encode": lambda report: [
        cell["tokens"] for cell in report["encoders"][0]["cells"][0]["gazed"]
    ],
    "fidelity": lambda report: report["rows"],
}
"""What a report says that no clock measured."""


@needs_torchcodec
@pytest.mark.parametrize("command", list(FIGURES))
def test_torchcodec_decodes_and_shows_the_same(
    command: str, files: Path, tmp_path: Path, decoded: list[int]
) -> None:
    told = []
    for decoder in ("pyav", "auto", "torchcodec"):
        assert not decoded
        out = tmp_path / decoder
        out.mkdir()
        words = [*words_of(command, files, out), "--decoder", decoder]
        if command in ("gaze", "measure"):
            words += ["--json"]
        elif command == "label":
            words += ["--out", out / "labels.json"]
        else:
            words += ["--json", out / "report.json"]
        result = run(*words)
        assert result.exit_code == 0, result.output
        file = {"label": out / "labels.json"}.get(command, out / "report.json")
        text = result.stdout if command in ("gaze", "measure") else file.read_text()
        told.append(FIGURES[command](json.loads(text)))
    assert decoded
    assert told[0] == told[1] == told[2]


@needs_torchcodec
@pytest.mark.parametrize("command", ["gaze", "measure", "label", "encode", "fidelity"])
def test_what_torchcodec_cannot_decode(
    command: str, files: Path, tmp_path: Path, decoded: list[int]
) -> None:
    words = words_of(command, files, tmp_path, "old")
    message = fails(*words, "--decoder", "torchcodec")
    assert "old.mp4" in message
    assert "mpeg4" in message
    assert run(*words).exit_code == 0
    assert not decoded


@needs_torchcodec
def test_motion_vectors_are_pyavs(files: Path, tmp_path: Path) -> None:
    codec = ("--selector", "codec", "--decoder", "torchcodec")
    for command in ("gaze", "encode", "fidelity"):
        assert "motion" in fails(*words_of(command, files, tmp_path), *codec)
    if pytest.importorskip("ray"):
        assert "motion" in fails(*words_of("corpus", files, tmp_path), *codec)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_report_names_what_decoded(files: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert run(*words_of("encode", files, tmp_path), "--json", report).exit_code == 0
    assert json.loads(report.read_text())["decoder"] == "pyav"
    for command in ("gaze", "measure"):
        told = json.loads(run(*words_of(command, files, tmp_path), "--json").stdout)
        assert (told["decoder"], told["dtype"]) == ("pyav", "float32")
    words = (
        "gaze",
        files / "video.mp4",
        "--selector",
        "learned",
        "--ratio",
        0.01,
        "--tiles",
        "one",
    )
    told = json.loads(run(*words, "--dtype", "bfloat16", "--json").stdout)
    assert told["dtype"] == "bfloat16"
