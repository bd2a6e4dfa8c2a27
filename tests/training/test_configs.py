"""Every shipped configuration loads, builds and trains a step."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from autogaze import train
from autogaze.datasets.clip import TrainingClip
from autogaze.datasets.decoded import save_decoded
from autogaze.errors import CheckpointError
from autogaze.reconstruction.video_mae import save_video_mae
from autogaze.tasks.losses import LOSSES
from autogaze.training.datasets import DATASETS
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from autogaze.training.tasks import read_task
from tests.clips import make_video
from tests.tasks.material import TINY, tiny_mae, tiny_siglip
from tests.training.composed import SMALL, compose_options
from tests.training.tiny import MODEL, VIDEO_MAE

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "autogaze" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with videos, pictures, decoded clips and labels, in both splits; an encoder."""
    root = tmp_path_factory.mktemp("data")
    labels = {}
    for split in ("train", "val"):
        (root / "videos" / split).mkdir(parents=True)
        (root / "pictures" / split).mkdir(parents=True)
        (root / "decoded").mkdir(exist_ok=True)
        for index in range(2):
            name = f"{index}.mp4"
            make_video(root / "videos" / split / name, num_frames=4)
            labels[f"videos/{split}/{name}"] = {
                "gazing_pos": [[1, 2], [23]],
                "task_losses": [[0.5, 0.4], [0.3]],
            }
            Image.new("RGB", (80, 70), (200, 40 * index, 9)).save(
                root / "pictures" / split / f"{index}.png"
            )
        frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        save_decoded([TrainingClip(frames, "a/b/c")], root / "decoded" / f"{split}.safetensors")
    (root / "gazing_labels.json").write_text(json.dumps(labels))
    tiny_siglip(layers=1, side=64, patch_size=16).save_pretrained(root / "siglip")
    return root


def shrunk(options, data, folder):
    """The same with a tiny model and task, on tiny clips, for one step."""
    options = json.loads(json.dumps(options))  # a copy without shared parts
    dataset, task, trainer = options["dataset"], options["task"], options["trainer"]
    dataset["clip_len"] = 2
    places = {"camera": "pictures", "composed": "pictures", "decoded": "decoded"}
    for part in (dataset, *dataset.get("parts", {}).values()):
        if "root" in part:
            part["root"] = str(data / places.get(part["name"], "videos"))
    if options["algorithm"]["name"] == "ntp" and dataset["greedy_labels"] is None:
        if dataset["name"] == "video_folder":
            dataset["gt_gazing_pos_paths"]["train"] = str(data / "gazing_labels.json")
        else:
            dataset["greedy_labels"] = {}
    model = options["model"]
    model["scales"] = task["scales"] = MODEL["scales"]
    model["num_vision_tokens_each_frame"] = None
    model["gaze_model_config"] = json.loads(json.dumps(MODEL["gaze_model_config"]))
    if task["name"] == "video_mae_reconstruction":
        task["recon_model"] = None
        shape = VIDEO_MAE["recon_model_config"]
        task["recon_model_config"] = {**shape, "loss_type": "l1", "loss_weights": 1}
    if task["name"] == "siglip_video_feature_reconstruction":
        task["encoder"] = str(data / "siglip")
        task["decoder"] = {"width": 16, "num_layers": 1, "num_heads": 2}
    options["algorithm"]["group_size"] = min(2, options["algorithm"]["group_size"])
    trainer |= {"max_steps": 1, "batch_size": 2, "num_workers": 0, "val_clips": 2}
    trainer |= {"exp_folder": str(folder), "gaze_weights": None, "task_weights": None}
    trainer |= {"device": "cpu", "tracker": "none", "resume": False}
    return options


def run_a_step(options, data, folder):
    trainer = build_trainer(shrunk(options, data, folder))
    trainer.fit()
    written = trainer.metrics_log.path
    assert written.is_file()
    return [json.loads(line) for line in written.read_text().splitlines()]


def test_the_names_that_users_know_are_there():
    for family in ("video_mae", "canvas"):
        for rest in ("ar_gaze_ntp", "ar_gaze_grpo", "dummy"):
            assert f"video_folder_{family}_reconstruction_{rest}" in NAMES
    assert train.DEFAULT_CONFIG in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_trains_a_step(name, data, tmp_path):
    entries = run_a_step(compose_options(name), data, tmp_path)
    if "canvas_reconstruction_dummy" in name:  # nothing to train
        assert "val/loss" in entries[0]
    else:
        assert any("gradient_norm" in entry for entry in entries)


@pytest.mark.parametrize("dataset", [*DATASETS, "mixture"])
def test_every_dataset_trains_a_step(dataset, data, tmp_path):
    name = "procedural_canvas_reconstruction_ar_gaze_ntp"
    options = compose_options(name, f"dataset={dataset}")
    run_a_step(options, data, tmp_path)


@pytest.mark.parametrize("task", sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml")))
def test_every_task_trains_a_step(task, data, tmp_path):
    family = "canvas" if task.startswith("canvas") else "video_mae"
    options = compose_options(f"video_folder_{family}_reconstruction_dummy", f"task={task}")
    entries = run_a_step(options, data, tmp_path)
    if options["trainer"]["train_task"]:
        assert all(entry["gradient_norm"] > 0 for entry in entries if "task_loss" in entry)
    else:
        assert "val/loss" in entries[0]


THREE = {"loss_type": "l1+dinov2_reg+siglip2", "loss_weights": "1+0.3+0.3"}
ONE = {"loss_type": "l1", "loss_weights": "1"}
OWN = {"loss_type": "siglip2+l1", "loss_weights": "2+0.5"}


@pytest.mark.parametrize(
    ("task", "says", "wanted"),
    [
        ("video_mae_reconstruction", OWN, OWN),
        ("video_mae_reconstruction", {}, THREE),
        ("video_mae_reconstruction", None, THREE),
        ("video_mae_reconstruction_small", OWN, OWN),
        ("video_mae_reconstruction_small", {}, ONE),
        ("video_mae_reconstruction_small", None, ONE),
    ],
)
def test_a_reconstruction_model_keeps_the_losses_it_was_trained_with(
    task, says, wanted, tmp_path, monkeypatch
):
    """What its config.json says; `says` is {} for an image MAE, None where there is no such model."""
    for name in ("dinov2_reg", "siglip2"):
        monkeypatch.setitem(LOSSES, name, LOSSES["l1"])
    config = "video_folder_video_mae_reconstruction_ar_gaze_grpo"
    options = compose_options(config, f"task={task}", "model.scales=16+32")["task"]
    given = options["recon_model_config"]
    given |= {**asdict(TINY), "scales": None}
    options["recon_model"] = None
    if says is not None:
        save_video_mae(tiny_mae(), tmp_path / "task", **says)
        options["recon_model"] = str(tmp_path / "task")
    pyramid = TINY.pyramid
    assert read_task(options).build(pyramid).losses.recipe == wanted
    given |= {"loss_type": "l1", "loss_weights": 3}
    chosen = read_task(options).build(pyramid).losses.recipe
    assert chosen == {"loss_type": "l1", "loss_weights": "3"}, "an explicit one wins"


def test_a_file_of_weights_alone_gets_its_shape_from_the_options(tmp_path):
    wanted = tiny_mae()
    save_video_mae(wanted, tmp_path)
    (tmp_path / "config.json").unlink()
    options = compose_options(
        "video_folder_video_mae_reconstruction_ar_gaze_grpo", "model.scales=16+32"
    )["task"]
    options["recon_model"] = str(tmp_path / "model.safetensors")
    options["default_loss_type"], options["default_loss_weights"] = "l1", 1
    with pytest.raises(CheckpointError, match=r"no config\.json\b"):
        read_task(options).build(TINY.pyramid)
    options["recon_model_config"] |= {**asdict(TINY), "scales": None}
    found = read_task(options).build(TINY.pyramid).mae.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.state_dict().items())


@pytest.mark.parametrize("recipe", ["ar_gaze_ntp", "ar_gaze_grpo"])
def test_features_can_train_a_selector(recipe, data, tmp_path):
    """With the decoder that the task's own training left behind."""
    task = "task=siglip_video_feature_reconstruction"
    first = compose_options("video_folder_video_mae_reconstruction_dummy", task)
    run_a_step(first, data, tmp_path / "task")
    weights = tmp_path / "task" / first["trainer"]["exp_name"] / "checkpoint_latest_task"
    options = compose_options(f"video_folder_video_mae_reconstruction_{recipe}", task)
    options = shrunk(options, data, tmp_path)
    options["trainer"]["task_weights"] = str(weights)
    trainer = build_trainer(options)
    trained = load_file(weights / "model.safetensors")
    assert trained
    for name, value in trained.items():
        assert trainer.objective.task.state_dict()[name].equal(value), name
    trainer.fit()
    validated, learned = read_metrics(trainer.folder / "metrics.jsonl")[:2]
    assert 0 < validated["val/loss"] < 10
    assert "gradient_norm" in learned


def test_the_options_that_users_know_can_be_overridden():
    overrides = [
        "dataset.root='/a,/b'",
        "dataset.gt_gazing_pos_paths.train=labels.json",
        "dataset.clip_len=8",
        "dataset.random_sample_frame=True",
        "model.scales=32+64",
        "model.num_vision_tokens_each_frame=20",
        "model.gazing_ratio_config.sample_strategy_during_training=exponential",
        "model.gazing_ratio_config.exponential.lambda=5",
        "model.gazing_ratio_each_frame_config.dirichlet.alpha=1",
        "model.task_loss_requirement_config.uniform.task_loss_requirement_min=0.4",
        "model.gaze_model_config.gaze_decoder_config.num_hidden_layers=2",
        "task.recon_model=facebook/vit-mae-base",
        "task.recon_sample_rate=0.25",
        "task.recon_model_config.loss_type=l1",
        "task.recon_model_config.loss_weights=1",
        "task.scales=32+64",
        "algorithm.group_size=4",
        "algorithm.discount_factor=0.9",
        "algorithm.optimize_task_loss_prediction=False",
        *[f"trainer.{name}=False" for name in ("train_gaze", "train_task", "detach_task")],
        *[f"trainer.{name}=weights" for name in ("task_weights", "gaze_weights", "exp_name")],
        "trainer.lr=1e-3",
        "trainer.min_lr=1e-6",
        "trainer.lr_schedule=linear_w_warmup",
        "trainer.optimizer=adamw",
        "trainer.n_epochs=2",
        "trainer.batch_size=8",
        "trainer.per_gpu_max_batch_size=2",
        "trainer.temp_schedule_args.start=2",
        "trainer.val_nsteps=10",
        "trainer.save_nsteps=10",
        "trainer.resume=True",
        "trainer.seed=3",
        "trainer.val_only=False",
    ]
    for rest in ("ar_gaze_ntp", "ar_gaze_grpo", "dummy"):
        options = compose_options(f"video_folder_video_mae_reconstruction_{rest}", *overrides)
        assert options["dataset"]["root"] == "/a,/b"
        assert options["task"]["scales"] == "32+64"
        assert options["trainer"]["resume"] is True


@pytest.mark.slow
def test_the_command_line_trains_and_reports_errors_in_one_line(tmp_path, monkeypatch, capsys):
    words = ["trainer.max_steps=1", "trainer.batch_size=2", "trainer.val_nsteps=0"]
    words += ["trainer.num_workers=0", "dataset.clip_len=2", "trainer.device=cpu", *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "autogaze.train", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "exps" / train.DEFAULT_CONFIG
    assert (folder / "checkpoint_latest_gaze" / "model.safetensors").is_file()
    assert json.loads((folder / "config.json").read_text())["trainer"]["max_steps"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["exps"], "Hydra leaves nothing behind"
    # The same again, in this process.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["autogaze.train", *words])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    written = capsys.readouterr().err
    assert "Traceback" not in written
    assert "autogaze.train: " in written
    assert "trainer.resume=True" in written.splitlines()[-1]


@pytest.mark.parametrize("package", ["hydra", "accelerate"])
def test_a_missing_extra_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=r"autogaze\[train\]"):
        train.main()


def test_a_gpu_without_memory_left_is_told_what_to_lower(monkeypatch, capsys):
    def full(options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nMore of it.")

    monkeypatch.setattr("autogaze.training.factory.build_trainer", full)
    with pytest.raises(SystemExit) as ended:
        train.train(OmegaConf.create({}))
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "8 GiB" in line
    assert "trainer.per_gpu_max_batch_size" in line
