"""The examples in README and docs run as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autogaze.cli.app import app
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig, save_video_mae
from tests.clips import make_video
from tests.mllm import tiny, tiny_processor

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[str]:
    return [
        line.removeprefix("$ ")
        for source in blocks(page, "console")
        for line in source.splitlines()
        if line.startswith("$ autogaze ")
    ]


@pytest.fixture
def workplace(tmp_path, monkeypatch, own_encoder_registry, own_mllm_registry):
    """A folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    for name in ("video.mp4", "other.mp4"):
        make_video(tmp_path / name)
    widths = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
    sizes = {**widths, **{f"decoder_{name}": size for name, size in widths.items()}}
    config = VideoMAEConfig(num_hidden_layers=1, decoder_num_hidden_layers=1, **sizes)
    save_video_mae(VideoMAE(config), tmp_path / "video-mae", loss_type="l1", loss_weights="1")
    (tmp_path / "questions.jsonl").write_text(
        "".join(
            json.dumps(
                {"video_path": name, "question": "Which? A. a B. b C. c D. d", "answer": "B"}
            )
            + "\n"
            for name in ("video.mp4", "other.mp4")
        )
    )
    (model,) = blocks(ROOT / "docs" / "evaluation.md", "python")
    (tmp_path / "my_model.py").write_text(model)
    tiny_processor.checkpoint(tmp_path / "qwen3-vl", "qwen3_vl")
    tiny.qwen3_vl().save_pretrained(tmp_path / "qwen3-vl")
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_examples_run(page, workplace):
    namespace: dict[str, object] = {}
    for source in blocks(page, "python"):
        exec(compile(source, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_commands_run(page, workplace):
    for command in commands(page):
        words = shlex.split(command, comments=True)[1:]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, f"{command}\n{done.output[-2000:]}"


def anchors(page: Path) -> set[str]:
    """What links can point to within a page, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKED = [
    *PAGES,
    ROOT / "CHANGELOG.md",
    *ROOT.glob("autogaze/**/*.md"),
    *ROOT.glob("recipes/*/*.md"),
]


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} points to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} points to {target}#{anchor}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
