"""The plug-ins in `examples/` train by the commands that they name."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from autogaze import train
from autogaze.training.logging import read_metrics
from tests.clips import make_video
from tests.training.composed import SHORT, SMALL

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WIDTHS = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
GROUPS = ["algorithm.group_size=2", "trainer.val_pictures=1", "trainer.val_nsteps=2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two classes of videos, and the encoders with random weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for split in ("train", "val"):
        for number, name in enumerate(("archery", "bowling")):
            folder = tmp_path / "videos" / split / name
            folder.mkdir(parents=True)
            for clip in range(2):
                make_video(folder / f"{clip}.mp4", 8, 64 + 16 * number, 64)
    torch.manual_seed(0)
    dinov2 = tf.Dinov2Config(image_size=56, patch_size=14, mlp_ratio=2, **WIDTHS)
    tf.Dinov2Model(dinov2).save_pretrained(tmp_path / "dinov2")
    vit = tf.ViTConfig(image_size=64, patch_size=16, intermediate_size=48, **WIDTHS)
    tf.ViTModel(vit).save_pretrained(tmp_path / "vit")
    return tmp_path


def run(example, monkeypatch, *words):
    """The command of an example's docstring, at another size."""
    source = (EXAMPLES / f"{example}.py").read_text()
    command = re.search(r'python -m autogaze\.train (.*?)\n(?:\n|""")', source, re.DOTALL)[1]
    found = shlex.split(command.replace("\\\n", " "))
    found = [word for word in found if not word.startswith("dataset.root")]
    found = [word.replace("examples/", f"{EXAMPLES}/") for word in found]
    small = [*SMALL, *SHORT, *GROUPS, "dataset.root=videos", "dataset.clip_len=4"]
    gaze = ["model.gazing_ratio_config.fixed.gazing_ratio=0.3", "trainer.exp_name=example"]
    monkeypatch.setattr(sys, "argv", ["train", *found, *small, *gaze, *words])
    train.main()
    return Path("exps/example")


def test_dinov2_features_are_reconstructed(place, monkeypatch):
    words = ["task.encoder=dinov2", "task.decoder={width: 16, num_layers: 1, num_heads: 2}"]
    folder = run("dinov2_features", monkeypatch, *words, "task.recon_sample_rate=0.5")
    entries = read_metrics(folder / "metrics.jsonl")
    learning = [entry for entry in entries if "task_loss" in entry]
    assert len(learning) == 2
    for entry in learning:
        assert entry["reward"] == pytest.approx(-entry["task_loss"], rel=1e-3)
        assert entry["reward_spread"] > 0
    saved = load_file(folder / "checkpoint_latest_task" / "model.safetensors")
    assert all(name.startswith("decoder.") for name in saved), "frozen weights are not saved"


def test_videos_are_classified(place, monkeypatch):
    words = ["task.encoder=vit", "task.num_classes=2", "dataset.stride=1", "trainer.lr=1e-2"]
    folder = run("classification", monkeypatch, *words)
    entries = read_metrics(folder / "metrics.jsonl")
    [first, *_] = [entry for entry in entries if "task_loss" in entry]
    assert 0 < first["reward"] < 1, "a probability"
    [*_, validated] = [entry for entry in entries if "val/accuracy" in entry]
    assert 0 <= validated["val/accuracy"] <= 1
    assert validated["val/loss"] > 0
    saved = load_file(folder / "checkpoint_latest_task" / "model.safetensors")
    assert saved["classifier.weight"].shape == (2, 24)


def test_a_label_reaches_its_own_clip(place):
    from classification import ClassFolders

    clips = ClassFolders("videos", "val", 4, 64, seed=0)
    found = {clips.name(number): clips[number].extra["label"] for number in range(len(clips))}
    assert len(found) == 4
    assert all(label == ("bowling" in name) for name, label in found.items())
