"""The examples in README and docs run as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autogaze.cli.app import app
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig, save_video_mae
from tests.clips import make_video
from tests.mllm import tiny, tiny_processor

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Example:
    """A fenced block of a page, and the output that the page shows of it: "" if it shows none."""

    language: str
    source: str
    output: str = ""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT / "docs").as_posix() if page.parent != ROOT else page.name


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text()) if kind == language]


def examples(page: Path) -> list[Example]:
    """What can be run on a page, in order: Python, and commands of `autogaze`.

    The output of Python is the block `text` right after it; that of a command stands below it.
    """
    found: list[Example] = []
    text = page.read_text()
    end = 0
    for block in BLOCK.finditer(text):
        language, source = block.groups()
        if language == "console":
            for part in re.split(r"^\$ ", source, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                if command.startswith("autogaze "):
                    found.append(Example(language, command, output))
        elif language == "python":
            found.append(Example(language, source))
        elif language == "text" and found and not text[end : block.start()].strip():
            found[-1] = replace(found[-1], output=source)
        end = block.end()
    return found


def same(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed.

    `...` stands for anything (times), and blanks do not count. Decimals may differ by one unit of
    the last digit shown, whole numbers by a hundredth, so that small ones are equal: a video that is
    drawn here has other bytes than one of a machine with more cores, and a patch or two more.
    """
    shown, printed = (" ".join(text.split()) for text in (shown, printed))
    wanted = ".*?".join(re.escape(part) for part in NUMBER.sub("#", shown).split("..."))
    pattern = wanted.replace(r"\#", f"({NUMBER.pattern})")
    match = re.fullmatch(pattern, printed)
    if match is None:
        return False
    return all(map(_near, NUMBER.findall(shown), match.groups()))


def _near(shown: str, printed: str) -> bool:
    a, b = (Decimal(number.replace(",", "")) for number in (shown, printed))
    unit = Decimal(10) ** int(a.as_tuple().exponent)
    return abs(a - b) <= (unit if "." in shown else a / 100)


def test_shown_output_is_compared():
    assert same("kept 1,248 (9.81 %)\n time ...", "  kept   1,250 (9.80 %)\n time 3 s")
    assert not same("kept 1,248 of 2,000", "kept 1,268 of 2,000")
    assert not same("clips 9", "clips 10")
    assert not same("frames 48", "frames 47")
    assert not same("kept 1,248 (9.81 %)", "kept 1,248 (9.79 %)")
    assert not same("loss 0.0197", "loss 0.0195")
    assert not same("kept 1,248", "kept 1,248 of 2,000")
    assert not same("frames 5", "frame 5")
    assert not same("loss 0.0087", "loss 0.0187")


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


RUN = [page for page in PAGES if examples(page)]
SLOW = {"demo.md", "corpora.md"}
DRAWN = {"corpora.md"}
"""Pages whose video is the one that the start page draws."""
APART = {"demo.md"}
"""Pages whose Python runs in a process of its own: Gradio leaves event loops behind."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.name in SLOW), id=name_of(p)) for p in RUN],
)
def test_examples_run(page, workplace, capsys):
    if page.name in APART:
        make_video(workplace / "video.mp4", 3)
        source = "".join(blocks(page, "python"))
        done = subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return
    namespace: dict[str, object] = {}
    if page.name in DRAWN:
        exec(blocks(ROOT / "docs" / "start.md", "python")[0], {})
    for example in examples(page):
        capsys.readouterr()
        if example.language == "python":
            exec(compile(example.source, page.name, "exec"), namespace)
            printed = capsys.readouterr().out
        else:
            words = shlex.split(example.source, comments=True)[1:]
            done = CliRunner().invoke(app, words, catch_exceptions=False)
            assert done.exit_code == 0, f"{example.source}\n{done.output[-2000:]}"
            printed = done.stdout
        if example.output:
            assert same(example.output, printed), f"{example.source}\n{printed}"


def anchors(page: Path) -> set[str]:
    """What links can point to within a page, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKED = [
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
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


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_are_words(page):
    """On the site files have other names, or none."""
    assert re.findall(r"\[[^]\s]+\.(?:md|ipynb)\]\(", page.read_text()) == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def table(page: Path, heading: str) -> dict[str, dict[str, str]]:
    """Cells of a page's first table whose heading starts so: by the row's first cell, by column."""
    text = page.read_text()
    lines = text[text.index(f"\n| {heading}") :].strip().split("\n\n")[0].split("\n")
    (_, *columns), _, *rows = [
        [cell.strip() for cell in re.split(r"\|", line)[1:-1]] for line in lines
    ]
    return {name: dict(zip(columns, cells, strict=True)) for name, *cells in rows}


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("README.md", "| 2 % |"),
        ("docs/selectors.md", "selector | 2 % |"),
        ("autogaze/weights/README.md", "| 1 % | 2 % |"),
    ],
)
def test_losses_are_those_that_were_measured(page, heading):
    """docs/quality.md has them with intervals; other pages repeat them, perhaps rounded."""
    measured = table(ROOT / "docs" / "quality.md", "selector | 1 % |")
    compared = 0
    for name, cells in table(ROOT / page, heading).items():
        row = measured.get(re.split(r" \(|,", name)[0], {})
        for share in row.keys() & cells.keys():
            known = row[share].split("(")[0]
            rounding = 0.51 * 10 ** (1 - min(len(known), len(cells[share])))
            assert abs(float(cells[share]) - float(known)) < rounding, (name, share)
            compared += 1
    assert compared >= 15
