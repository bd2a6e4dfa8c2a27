"""The commands of the docs, each with what the commands before it left behind.

Only sizes are changed: everything is tiny and short. Files lie where the docs say.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers as tf
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from autogaze import train
from autogaze.cli.app import app
from autogaze.tasks.losses import LOSSES
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from tests.clips import make_video
from tests.training.composed import SHORT, SMALL, SMALL_VIDEO_MAE, compose_options
from tests.training.tiny import MODEL, VIDEO_MAE, save_tiny_video_mae

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```(?:bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^.*?\bautogaze(\.train| label)\b([^&\n]*)", re.MULTILINE)
SHAPE = VIDEO_MAE["recon_model_config"]


def documented(page):
    """Section -> its commands in their order, each a program and its words."""
    _, *parts = HEADING.split((DOCS / page).read_text())
    found = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        lines = "".join(BLOCK.findall(text)).replace("\\\n", " ").replace("/data/", "")
        commands = [
            (program.strip(" ."), shlex.split(rest, comments=True))
            for program, rest in COMMAND.findall(lines)
        ]
        if commands:
            found[title] = commands
    return found


SECTIONS = {
    f"{page}: {title}": commands
    for page in ("training.md", "labels.md", "experiments.md")
    for title, commands in documented(page).items()
}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """What the docs take for granted: videos, photographs, an image MAE, a VideoMAE."""
    root = tmp_path_factory.mktemp("material")
    for folder in (
        "videos/train",
        "videos/val",
        "droid/train",
        "bridge/train",
        "misc/train",
        "clips",
    ):
        (root / folder).mkdir(parents=True)
        for name in ("a", "b"):
            make_video(root / folder / f"{name}.mp4", num_frames=17)
    for split in ("train", "val"):
        (root / "photos" / split).mkdir(parents=True)
        Image.effect_noise((80, 70), 90).convert("RGB").save(root / "photos" / split / "one.png")
    (root / "pans.yaml").write_text("name: camera\nroot: photos\nclips_per_picture: 8\n")
    torch.manual_seed(0)
    image_mae = tf.ViTMAEForPreTraining(tf.ViTMAEConfig(**SHAPE, image_size=64))
    image_mae.save_pretrained(root / "facebook" / "vit-mae-large")
    save_tiny_video_mae(root / "video_mae")
    return root


@pytest.fixture
def workplace(material, tmp_path, monkeypatch):
    """A folder in which all of this lies, and nothing else; frozen networks stay away."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for name in ("dinov2_reg", "siglip2"):
        monkeypatch.setitem(LOSSES, name, LOSSES["l1"])
    return tmp_path


def label(words):
    """Run `autogaze label`; returns the file it made, where it made one."""
    if not {"--metric", "--judge", "--merge"} & set(words):
        words = [*words, "--scales", MODEL["scales"]]
    result = CliRunner().invoke(app, ["label", *words])
    assert result.exit_code == 0, result.output
    return Path(words[words.index("--out") + 1])


def assert_holds(module, weights):
    """A module starts from the weights of a folder."""
    state = module.state_dict()
    saved = load_file(Path(weights) / "model.safetensors")
    assert saved
    for name, value in saved.items():
        assert state[name].equal(value), name


def run_training(words):
    """Run `autogaze.train` for two steps, from what its options name."""
    name = train.DEFAULT_CONFIG
    if "--config-name" in words:
        place = words.index("--config-name")
        name, words = words[place + 1], words[:place] + words[place + 2 :]
    sizes = [*SMALL, *SHORT]
    if "algorithm=grpo" in words or name.endswith("grpo"):
        sizes.append("algorithm.group_size=2")
    if "task=video_mae_reconstruction_small" in words:
        sizes += SMALL_VIDEO_MAE
    options = compose_options(name, *words, *sizes)
    trainer = build_trainer(options)
    if weights := options["trainer"]["gaze_weights"]:
        assert_holds(trainer.objective.model, weights)
    weights_of_task = options["task"].get("recon_model") or ""
    if weights_of_task.startswith("exps/"):
        assert_holds(trainer.objective.task.mae, weights_of_task)
    if labels := options["dataset"]["gt_gazing_pos_paths"]["train"]:
        named = json.loads(Path(labels).read_text())
        assert len(trainer.data.train) == len(named) > 0
    trainer.fit()
    measured = read_metrics(trainer.folder / "metrics.jsonl")
    assert all(entry["gradient_norm"] > 0 for entry in measured if "lr" in entry)
    assert measured[-1]["step"] == 2


def test_all_stages_are_documented():
    kinds = [program for program, _ in SECTIONS["training.md: On videos"]]
    assert kinds == ["train", "label", "train", "train", "train", "train"]
    commands = [words for section in SECTIONS.values() for words in section]
    assert sum(program == "label" for program, _ in commands) >= 6
    assert any("droid" in " ".join(words) for _, words in commands), "the run on real clips"


@pytest.mark.parametrize("section", SECTIONS)
def test_commands_run_one_after_the_other(section, workplace):
    commands = SECTIONS[section]
    made = any(program == "label" for program, _ in commands)
    if not made and "gazing_labels.json" in str(commands):
        label(["videos/train", "--out", "gazing_labels.json"])
    for program, words in commands:
        if program == "train":
            run_training(words)
        else:
            out = label(words)
            assert out.is_file() or "--shard" in words
