"""`autogaze bench quality` from the command line."""

import json
import re

import pytest
from typer.testing import Result

from tests.cli import commands
from tests.clips import make_video
from tests.datasets.pictures import make_pictures
from tests.evaluation.quality.tiny import save_video_mae_checkpoint, save_weights


def run(*arguments: object) -> Result:
    return commands.run("bench", "quality", *arguments)


def fails(*arguments: object) -> str:
    return " ".join(commands.fails("bench", "quality", *arguments).split())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    (folder / "videos" / "val").mkdir(parents=True)
    for name in ("one", "two"):
        make_video(folder / "videos" / "val" / f"{name}.mp4", 16)
    make_pictures(folder / "photos" / "val", 2)
    save_weights(folder / "weights")
    save_video_mae_checkpoint(folder / "mae")
    save_video_mae_checkpoint(folder / "other-mae", "16+64")
    return folder


def test_everything_at_once(files, tmp_path):
    pytest.importorskip("matplotlib")
    names = ("out.json", "out.md", "out.png", "thresholds.png")
    out, markdown, plot, stops = (tmp_path / name for name in names)
    result = run(
        *("--data", files, "--clips", 2, "--weights", f"ours={files / 'weights'}"),
        *("--selector", "run-length", "--ratio", 0.1, "--ratio", 0.3, "--no-features"),
        *("--metric", files / "mae", "--stop-loss", 0.5, "--stop-loss", 1),
        *("--batch", 3, "--every", 8),
        *("--json", out, "--markdown", markdown, "--plot", plot, "--stop-plot", stops),
    )
    assert result.exit_code == 0, result.output
    for words in ("ours (shuffled)", "metric video-mae", "threshold", "2 composed of 2 sources"):
        assert words in result.stdout
    values = json.loads(out.read_text())
    assert [metric["name"] for metric in values["metrics"]] == ["canvas", "video-mae"]
    assert values["rows"][:4] == ["ours", "run-length", "random", "centre"]
    assert values["reference"] == "ours"
    assert values["hardware"]
    assert {point["threshold"] for point in values["thresholds"]["points"]} == {0.5, 1.0}
    assert "| ours (shuffled) |" in markdown.read_text()
    assert min(plot.stat().st_size, stops.stat().st_size) > 10_000


def test_videos_alone_are_one_kind(files, tmp_path):
    out = tmp_path / "out.json"
    result = run(
        *("--static", files / "videos", "--clips", 2, "--weights", f"ours={files / 'weights'}"),
        *("--selector", "change", "--ratio", 0.2, "--no-features", "--json", out),
        *("--reference", "random"),
    )
    assert result.exit_code == 0, result.output
    values = json.loads(out.read_text())
    assert {clip["kind"] for clip in values["clips"]} == {"static"}
    assert {curve["group"] for curve in values["curves"]} == {"all"}
    assert "worse (-) than random" in " ".join(result.stdout.split())


def test_half_precision_is_that_of_selectors_and_is_named(files, tmp_path):
    reports = []
    for dtype in ("float32", "bfloat16"):
        out, markdown = tmp_path / f"{dtype}.json", tmp_path / f"{dtype}.md"
        result = run(
            *("--static", files / "videos", "--clips", 2, "--weights", f"ours={files / 'weights'}"),
            *("--selector", "change", "--ratio", 0.2, "--no-features", "--dtype", dtype),
            *("--json", out, "--markdown", markdown),
        )
        assert result.exit_code == 0, result.output
        assert f"cpu {dtype}" in markdown.read_text()
        reports.append(json.loads(out.read_text()))
        assert reports[-1]["device"] == f"cpu {dtype}"
    exact, rough = (
        {row: one["losses"][0][n] for n, row in enumerate(one["rows"])} for one in reports
    )
    assert exact["ours"] != rough["ours"]
    for row in ("change", "random", "centre"):
        assert exact[row] == rough[row]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--selector", "oracle"], "oracle"),
        (["--selector", "codec"], "motion vectors"),
        (["--weights", "folder"], "NAME=PATH"),
        (["--weights", "greedy=folder"], "greedy"),
        (["--weights", "greedy (prior)=folder"], "take another name"),
        (["--weights", "ours=no/such/folder"], "no/such/folder"),
        (["--weights", "a=x", "--weights", "a=y"], "'a' names two things"),
        (["--ratio", "1.5"], "1.5"),
        (["--metric", "no/such/model"], "no/such/model"),
        (["--metric", "learned"], "canvas"),  # came with the package once
        (["--reference", "oracle"], "oracle"),
        (["--every", "3"], "16 frames"),
        (["--stop-loss", "0.5", "--selector", "greedy"], "--weights"),
        (["--stop-plot", "thresholds.png"], "--stop-loss"),
        (["--plot", "plot.jpg"], ".png"),
        (["--markdown", "out.txt"], ".md"),
        (["--json", "no/such/folder/out.json"], "no/such/folder"),
        (["--device", "toaster"], "toaster"),
        (["--dtype", "bfloat16", "--selector", "greedy"], "bfloat16"),
        (["--photos", "nowhere"], "nowhere"),
    ],
)
def test_refuses(files, words, message):
    assert message in fails("--static", files / "videos", "--no-features", *words)


def test_refuses_without_clips(files, tmp_path):
    assert "--data" in fails("--no-features")
    assert "not both" in fails("--data", files, "--static", files / "videos", "--no-features")
    assert f"{tmp_path}/*/val" in fails("--data", tmp_path, "--no-features")


def test_refuses_what_does_not_fit_together(files):
    ours = ("--weights", f"ours={files / 'weights'}", "--no-features")
    other = ("--metric", files / "other-mae")
    assert "16+64" in fails("--data", files, "--clips", 2, *ours, *other)
    stops = ("--stop-loss", 0.5, "--stop-metric", "video-mae")
    assert "--metric FOLDER" in fails("--data", files, *ours, *stops)


def test_without_the_networks_weights_it_is_said_how_to_get_them(files, monkeypatch):
    monkeypatch.setattr("autogaze.reconstruction.efficientnet.find_spec", lambda name: None)
    assert "autogaze[efficientnet]" in fails("--data", files)


def test_former_names_of_options_work_with_a_warning(files):
    words = ("--data", files, "--ratio", 2, "--no-efficientnet")
    message = fails(*words, "--judge", files / "mae", "--stop-judge", "canvas")
    assert re.search(r"\bratio .*\(0, 1\].* 2\.0", message)  # and nothing before it was wrong
    for former, present in (
        ("--judge", "--metric"),
        ("--no-efficientnet", "--no-features"),
        ("--stop-judge", "--stop-metric"),
    ):
        assert former in message
        assert present in message
