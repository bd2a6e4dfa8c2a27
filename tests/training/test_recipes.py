"""The recipe of the shipped weights: its commands, each with what those before it left.

Only sizes are changed: everything is tiny and short.
"""

import logging
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import autogaze
from autogaze import train
from autogaze.cli.app import app
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from tests.clips import make_video
from tests.training.composed import SHORT, SMALL, SMALL_VIDEO_MAE
from tests.training.test_documented_commands import BLOCK, HEADING, assert_holds

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "default"
STAGES = sorted(path.stem for path in RECIPE.glob("[0-9]_*.yaml"))
WEIGHTS = "checkpoint_latest_gaze"


def commands_of(title):
    """The commands of a section, each as its words."""
    _, *parts = HEADING.split((RECIPE / "README.md").read_text())
    text = dict(zip(parts[::2], parts[1::2], strict=True))[title]
    lines = "".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


EXPORT, *TRAININGS, CALIBRATION = commands_of("The stages")
[FASTER] = commands_of("On a GPU machine")
*_, VIDEO_MAE = commands_of("A reconstruction model")
REWARDED, ALONE = commands_of("Learning from rewards")


def words_of(command):
    """The words after `python -m autogaze.train`."""
    assert command[:3] == ["python", "-m", "autogaze.train"]
    return command[3:]


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory):
    """A folder as `AUTOGAZE_DATA` names it."""
    root = tmp_path_factory.mktemp("clips")
    for split in ("train", "val"):
        for name in ("droid", "bridge", "misc"):
            (root / name / split).mkdir(parents=True)
            make_video(root / name / split / f"{name}.mp4", num_frames=17)
        (root / "photos" / split).mkdir(parents=True)
        Image.effect_noise((80, 70), 90).convert("RGB").save(root / "photos" / split / "one.png")
    return root


@pytest.fixture
def checkout(clips_folder, tmp_path, monkeypatch):
    """Where the commands are given: a folder with the recipe and no results."""
    (tmp_path / "recipes").symlink_to(RECIPE.parent)
    monkeypatch.chdir(tmp_path)
    program, assignment = EXPORT
    assert program == "export"
    monkeypatch.setenv(assignment.split("=")[0], str(clips_folder))


@pytest.fixture
def options_of(monkeypatch, capsys):
    """A training's options, as its command line puts them together."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command line sets it, and a log level
    log = logging.getLogger("autogaze")
    level = log.level

    def compose(words):
        monkeypatch.setattr(sys, "argv", ["autogaze.train", *words, "--cfg", "job", "--resolve"])
        train.main()
        return yaml.safe_load(capsys.readouterr().out)

    yield compose
    log.setLevel(level)


def test_every_stage_has_its_command():
    names = [words[words.index("--config-name") + 1] for words in map(words_of, TRAININGS)]
    assert names == STAGES
    assert all("trainer.resume=true" in words for words in TRAININGS)


def test_each_stage_takes_what_the_one_before_leaves(checkout, options_of, clips_folder):
    options = [options_of(words_of(command)) for command in TRAININGS]
    folders = [f"exps/{each['trainer']['exp_name']}" for each in options]
    taken = [each["trainer"]["gaze_weights"] for each in options]
    assert taken == [None, *(f"{folder}/{WEIGHTS}" for folder in folders[:-1])]
    assert CALIBRATION[2] == f"{folders[-1]}/{WEIGHTS}"
    assert f"{folders[-1]}/config.json" in CALIBRATION
    for each in options:
        videos = each["dataset"]["parts"]["videos"]
        assert videos["root"].split(",") == [
            f"{clips_folder}/{n}" for n in ("droid", "bridge", "misc")
        ]
        assert each["dataset"]["greedy_labels"]["softness"] > 0
        assert each["algorithm"]["auxiliary_weight"] > 0
    lengths = [each["dataset"]["clip_len"] for each in options]
    assert lengths == sorted(lengths)
    assert lengths[-1] == options[-1]["model"]["max_num_frames"]
    on_policy = [each["algorithm"]["on_policy"] for each in options]
    assert on_policy == [0, 0, 0.75, 0.75]


def run_training(options):
    """Run it to its end, from the weights that it names; returns the trainer."""
    trainer = build_trainer(options)
    if weights := options["trainer"]["gaze_weights"]:
        assert_holds(trainer.objective.model, weights)
    trainer.fit()
    return trainer


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(checkout, options_of):
    sizes = [*SMALL, *SHORT, "trainer.max_steps=1", "trainer.val_ratios=[0.1]"]
    for name, command in zip(STAGES, TRAININGS, strict=True):
        trainer = run_training(options_of([*words_of(command), *sizes]))
        measured = read_metrics(Path("exps") / name / "metrics.jsonl")
        [learned] = [entry for entry in measured if "lr" in entry]
        assert learned["gradient_norm"] > 0
        assert learned["auxiliary_loss"] > 0
        # What README says to look at.
        for kind in ("loss", "shuffled_loss", "random_loss"):
            assert measured[-1][f"val/{kind}@0.1"] > 0
        assert_holds(trainer.objective.model, Path("exps") / name / WEIGHTS)
    assert CALIBRATION[0] == "autogaze"
    words = [*CALIBRATION[1:], "--clips", "1", "--loss", "0.1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    made = Path(words[words.index("--out") + 1])
    assert str(autogaze.load(made).model.pyramid) == str(trainer.objective.model.pyramid)
    saved = load_file(made / "model.safetensors")
    assert {str(value.dtype) for value in saved.values()} == {"torch.float16"}


def test_a_reconstruction_model_and_a_selector_trained_for_it(checkout, options_of):
    sizes = [*SMALL, *SHORT, "trainer.max_steps=1"]
    task = options_of([*words_of(VIDEO_MAE), *sizes])["task"]
    assert task["default_loss_type"] == "l1+efficientnet"
    assert task["default_loss_weights"] == "1+0.3"
    pixels = ["task.default_loss_type=l1", "task.default_loss_weights=1"]  # needs no other weights
    options = options_of([*words_of(VIDEO_MAE), *sizes, *SMALL_VIDEO_MAE, *pixels])
    build_trainer(options).fit()
    made = "exps/video_mae/checkpoint_latest_task"
    assert (Path(made) / "model.safetensors").is_file()

    options = options_of(words_of(REWARDED))
    assert options["task"]["recon_model"] == made
    assert options["trainer"]["gaze_weights"] == f"exps/{STAGES[-1]}/{WEIGHTS}"
    words = [*words_of(ALONE), *sizes, "trainer.val_ratios=[0.1]"]
    trainer = run_training(options_of(words))
    measured = read_metrics(Path("exps/grpo_alone/metrics.jsonl"))
    [learned] = [entry for entry in measured if "reward" in entry]
    assert learned["gradient_norm"] > 0
    assert_holds(trainer.objective.model, f"exps/grpo_alone/{WEIGHTS}")


def test_a_command_that_is_given_again_goes_on(checkout, options_of):
    words = [*words_of(TRAININGS[0]), *SMALL, *SHORT, "trainer.val_nsteps=0"]
    run_training(options_of(words))
    run_training(options_of([*words, "trainer.max_steps=3"]))
    measured = read_metrics(Path("exps/1_short_clips/metrics.jsonl"))
    assert [entry["step"] for entry in measured if "lr" in entry] == [1, 2, 3]


def test_the_overrides_for_gpus_train(checkout, options_of):
    """As far as a CPU can tell."""
    words = [*words_of(FASTER), *SMALL, "trainer.max_steps=1", "trainer.val_nsteps=0"]
    words += ["trainer.num_workers=0", "trainer.batch_size=2", "trainer.device=cpu"]
    options = options_of(words)
    assert options["trainer"]["mixed_precision"] == "bf16"
    trainer = run_training(options)
    assert read_metrics(trainer.folder / "metrics.jsonl")[-1]["gradient_norm"] > 0
    further = ["dataset.parts.videos.decoder=opencv", "dataset.parts.videos.cache=false"]
    text = (RECIPE / "README.md").read_text()
    assert all(f"`{override}`" in text for override in further)
    videos = options_of([*words, *further])["dataset"]["parts"]["videos"]
    assert (videos["decoder"], videos["cache"]) == ("opencv", False)
