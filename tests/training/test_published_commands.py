"""The published package's training commands and options, with weights by chance and tiny data."""

import json
import shlex
import sys

import pytest
import torch
import transformers as tf
from omegaconf import OmegaConf

from autogaze import train
from autogaze.errors import CheckpointError, TrainingError
from autogaze.models.autogaze.limits import draw_settings
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig
from autogaze.selectors.learned import Learned
from autogaze.training.config import TemperatureSchedule, TrainerOptions, flattened, read
from autogaze.training.factory import build_model, build_trainer
from autogaze.training.logging import read_metrics
from autogaze.training.mixture import DatasetFile
from autogaze.training.option_names import for_hydra, with_our_names
from tests.clips import make_video
from tests.tasks.material import tiny_dinov2, tiny_siglip
from tests.training.tiny import MODEL, VIDEO_MAE, tiny_config

MAE = {**VIDEO_MAE["recon_model_config"], "image_size": 224}

# The two commands with the sizes of batches as they are, and the paths of this test.
NTP = r"""
    --config-name video_folder_video_mae_reconstruction_ar_gaze_ntp
    dataset.root=\'InternVid,Ego4D\'
    dataset.gt_gazing_pos_paths.train=\'gazing_labels.json\'
    dataset.clip_len=16
    model.gazing_ratio_config.sample_strategy_during_training=fixed
    model.gazing_ratio_config.sample_strategy_during_inference=fixed
    model.gazing_ratio_config.fixed.gazing_ratio=0.1
    model.gazing_ratio_each_frame_config.sample_strategy_during_inference=dirichlet
    model.gazing_ratio_each_frame_config.dirichlet.alpha=\'10,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3\'
    model.scales=32+64+112+224
    model.num_vision_tokens_each_frame=265
    model.has_task_loss_requirement_during_training=False
    model.has_task_loss_requirement_during_inference=False
    model.gaze_model_config.gaze_decoder_config.num_multi_token_pred=10
    task.recon_model=facebook/vit-mae-large
    task.recon_sample_rate=0.125
    task.recon_model_config.loss_type=l1+dinov2_reg+siglip2
    task.recon_model_config.loss_weights=1+0.3+0.3
    task.scales=32+64+112+224
    algorithm.optimize_task_loss_prediction=True
    trainer.train_gaze=True
    trainer.train_task=False
    trainer.detach_task=True
    trainer.lr=5e-4
    trainer.lr_schedule=linear
    trainer.optimizer=adam
    trainer.n_epochs=150
    trainer.batch_size=1024
    trainer.per_gpu_max_batch_size=32
    trainer.temp_schedule_args.exp.temp_end=0.3
    trainer.temp_schedule_args.exp.temp_start=3
    trainer.val_nsteps=3000
    trainer.save_nsteps=500
    trainer.task_weights=videomae.pt
    trainer.exp_name=example_ntp_training
"""
RL = r"""
    --config-name video_folder_video_mae_reconstruction_ar_gaze_grpo
    dataset.root=\'InternVid,Ego4D\'
    dataset.clip_len=16
    model.gazing_ratio_config.sample_strategy_during_training=fixed
    model.gazing_ratio_config.sample_strategy_during_inference=fixed
    model.gazing_ratio_config.fixed.gazing_ratio=0.75
    model.gazing_ratio_each_frame_config.sample_strategy_during_training=self
    model.scales=32+64+112+224
    model.num_vision_tokens_each_frame=265
    model.has_task_loss_requirement_during_training=False
    model.has_task_loss_requirement_during_inference=True
    model.task_loss_requirement_config.sample_strategy_during_training=uniform
    model.task_loss_requirement_config.sample_strategy_during_inference=fixed
    model.task_loss_requirement_config.fixed.task_loss_requirement=0.7
    model.task_loss_requirement_config.uniform.task_loss_requirement_min=0.5
    model.task_loss_requirement_config.uniform.task_loss_requirement_max=1.0
    model.gaze_model_config.gaze_decoder_config.num_multi_token_pred=10
    task.recon_model=facebook/vit-mae-large
    task.recon_sample_rate=0.125
    task.recon_model_config.loss_type=l1+dinov2_reg+siglip2
    task.recon_model_config.loss_weights=1+0.3+0.3
    task.scales=32+64+112+224
    algorithm.group_size=12
    algorithm.discount_factor=0.995
    algorithm.optimize_task_loss_prediction=True
    trainer.train_gaze=True
    trainer.train_task=False
    trainer.detach_task=True
    trainer.lr=5e-4
    trainer.n_epochs=1
    trainer.batch_size=64
    trainer.per_gpu_max_batch_size=2
    trainer.temp_schedule_args.exp.temp_start=3
    trainer.temp_schedule_args.exp.temp_end=0.3
    trainer.val_nsteps=1000
    trainer.save_nsteps=500
    trainer.task_weights=videomae.pt
    trainer.gaze_weights=exps/example_ntp_training/checkpoint_latest_gaze
    trainer.exp_name=example_rl_training
"""
OTHERS = (
    *("model=autogaze", "trainer=trainer", "trainer.temp_schedule_args.mode=exp"),
    *("trainer.truncate_grads=True", "trainer.resume=auto", "trainer.logdir=exps/"),
    *("dataset.frame_sample_rate=1", "dataset.train_data_aug.aug_type=null"),
)
"""Options that the commands leave at their defaults."""
SMALL = (
    *(f"model.gaze_model_config.{part}.hidden_dim=24" for part in ("vision_model_config", "connector_config")),
    "model.gaze_model_config.vision_model_config.out_dim=24",
    *(
        f"model.gaze_model_config.gaze_decoder_config.{option}"
        for option in ("hidden_size=24", "intermediate_size=48", "num_hidden_layers=1",
                       "num_attention_heads=2", "num_key_value_heads=2", "initializer_range=0.1")
    ),
    *("trainer.batch_size=1", "trainer.max_steps=2", "trainer.val_clips=1", "trainer.log_nsteps=1"),
    *("trainer.num_workers=0", "trainer.device=cpu"),
)  # fmt: skip
"""Sizes that two CPU cores can do."""


def words_of(command):
    return ["autogaze.train", *shlex.split(command)]


def run(monkeypatch, words):
    """Run the command line of training in this process."""
    monkeypatch.setattr(sys, "argv", list(words))
    train.main()


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Where the commands find what they name: videos, labels, `videomae.pt`, an image MAE."""
    monkeypatch.chdir(tmp_path)
    labels = {}
    for root in ("InternVid", "Ego4D"):
        for split in ("train", "val"):
            (tmp_path / root / split).mkdir(parents=True)
            path = tmp_path / root / split / "a.mp4"
            make_video(path, num_frames=16)
            ids = [[frame * 265 + id for id in (0, 7, 100)] for frame in range(16)]
            # Published files name videos by the paths of the machine that labelled them.
            labels[f"/somewhere/else/{root}/{split}/a.mp4"] = {
                "gazing_pos": ids,
                "task_losses": [[0.9, 0.8, 0.7]] * 16,
            }
    (tmp_path / "gazing_labels.json").write_text(json.dumps(labels))
    torch.manual_seed(0)
    image_mae = tf.ViTMAEForPreTraining(tf.ViTMAEConfig(**MAE))
    image_mae.save_pretrained(tmp_path / "facebook" / "vit-mae-large")
    tiny_dinov2().save_pretrained(tmp_path / "dinov2")
    tiny_siglip().save_pretrained(tmp_path / "siglip2")
    trained = VideoMAE(VideoMAEConfig(**MAE, max_num_frames=256))
    torch.save(
        {
            **{f"module.mae.{name}": value for name, value in trained.state_dict().items()},
            **{f"module.mae.dinov2_reg.{n}": x for n, x in tiny_dinov2().state_dict().items()},
        },
        tmp_path / "videomae.pt",
    )
    return tmp_path


NETWORKS = [
    f"task.recon_model_config.{name}_loss_config.model={folder}"
    for name, folder in (("dinov2_reg", "dinov2"), ("siglip2", "siglip2"))
]


@pytest.mark.slow
def test_both_commands_run_unchanged(workplace, monkeypatch):
    run(monkeypatch, [*words_of(NTP), *OTHERS, *SMALL, *NETWORKS])
    ntp = workplace / "exps" / "example_ntp_training"
    assert [entry["step"] for entry in read_metrics(ntp / "metrics.jsonl")][-1] == 2
    options = json.loads((ntp / "config.json").read_text())
    assert options["trainer"]["temp_schedule_args"] == {
        "schedule": "exponential",
        "start": 3,
        "end": 0.3,
    }
    assert options["trainer"]["resume"] is True
    assert options["trainer"]["exp_folder"] == "exps/"
    assert options["task"]["recon_model_config"]["loss_networks"] == {
        "dinov2_reg": "dinov2",
        "siglip2": "siglip2",
    }
    # The quoted list travels in the selector's config.json, and draws ratios of every frame.
    selector = AutoGaze.from_pretrained(ntp / "checkpoint_latest_gaze")
    shares = draw_settings(selector.config, 16, training=False)
    assert len(shares.ratio) == 16
    with torch.inference_mode():
        gaze = selector({"video": torch.zeros(1, 16, 3, 224, 224)}, generate_only=True)
    assert gaze.gaze.lengths.unique().numel() > 1

    run(monkeypatch, [*words_of(RL), *SMALL, *NETWORKS])
    rl = workplace / "exps" / "example_rl_training"
    measured = [entry for entry in read_metrics(rl / "metrics.jsonl") if "lr" in entry]
    assert [entry["temperature"] for entry in measured] == pytest.approx([3, 0.3])
    assert all(entry["gradient_norm"] >= 0 for entry in measured)
    # Resuming when everything is done trains nothing, and breaks nothing.
    run(monkeypatch, [*words_of(RL), *SMALL, *NETWORKS, "trainer.resume=auto"])


@pytest.fixture
def translated(monkeypatch, capsys):
    """The groups that a command line's words describe, as Hydra prints them, under our names."""

    def run_words(*words):
        run(monkeypatch, ["autogaze.train", *words, "--cfg", "job", "--resolve"])
        return with_our_names(OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out)))

    return run_words


CASES = {
    "trainer.truncate_grads=True": ("trainer", "max_grad_norm", 1.0),
    "trainer.truncate_grads=False": ("trainer", "max_grad_norm", None),
    "trainer.resume=auto": ("trainer", "resume", True),
    "trainer.resume=False": ("trainer", "resume", False),
    "trainer.logdir=elsewhere": ("trainer", "exp_folder", "elsewhere"),
    "trainer.use_wandb=True": ("trainer", "tracker", "wandb"),
    "trainer.use_wandb=False": ("trainer", "tracker", "none"),
    "dataset.frame_sample_rate=4": ("dataset", "stride", 4),
    "+dataset.frame_sample_rate=4": ("dataset", "stride", 4),
    "dataset.video_ext=.mp4": ("dataset", "name", "video_folder"),
    "dataset.train_data_aug.aug_type=null": ("dataset", "augmentation", None),
    "task.recon_model_config.causal=True": ("task", "name", "video_mae_reconstruction"),
    "task.attn_mode=flash_attention_2": ("task", "name", "video_mae_reconstruction"),
    "algorithm.own_gazes=0.5": ("algorithm", "on_policy", 0.5),
    "++algorithm.hint_weight=1": ("algorithm", "auxiliary_weight", 1),
    "dataset.clips_a_picture=3": ("dataset", "clips_per_picture", 3),
    "algorithm.scale_alpha=1": ("algorithm", "name", "grpo"),
    "model=autogaze": ("model", "scales", "32+64+112+224"),
    "trainer=trainer": ("trainer", "optimizer", "adam"),
}


@pytest.mark.parametrize("word", CASES)
def test_options_on_the_command_line(word, translated):
    options = translated(
        "--config-name", "video_folder_video_mae_reconstruction_ar_gaze_grpo", word
    )
    group, name, value = CASES[word]
    assert options[group][name] == value
    given = word.lstrip("+").partition("=")[0]
    assert given == f"{group}.{name}" or given not in dict(flattened(options))


def test_words_that_hydra_knows_are_left_alone():
    words = ["train", "trainer.lr=1", "+dataset.parts.a.cache=true", "--config-name", "x", "~task"]
    assert for_hydra(words) == words
    assert for_hydra(["trainer.grad_norm=2"]) == ["++trainer.grad_norm=2"]
    word = "dataset.parts.a.clips_a_picture=2"
    assert for_hydra([word]) == [f"++{word}"]
    assert for_hydra(["trainer.logdirectory=2"]) == ["trainer.logdirectory=2"]


# Published files of options, read as they are.

PUBLISHED = {
    "algorithm": {"_target_": "autogaze.algorithms.GRPO", "group_size": 3, "discount_factor": 0.9},
    "trainer": {
        "_target_": "autogaze.trainer.Trainer",
        "exp_name": None,
        "logdir": "elsewhere/",
        "use_wandb": False,
        "truncate_grads": True,
        "grad_norm": 2.0,
        "resume": "auto",
        "temp_schedule_args": {"mode": "exp", "exp": {"temp_start": 1e4, "temp_end": 1.0}},
    },
    "dataset": {
        "_target_": "autogaze.datasets.video_folder.VideoFolder",
        "frame_sample_rate": 2,
        "video_ext": ".mp4",
        "train_data_aug": {
            "aug_type": "random_resized_crop",
            "random_resized_crop": {"scale_min": 0.5, "scale_max": 1.0},
        },
    },
    "task": {
        "_target_": "autogaze.tasks.video_mae_reconstruction.VideoMAEReconstruction",
        "attn_mode": "sdpa",
        "recon_model_config": {
            "scale_embed": True,
            "time_embed": True,
            "causal": True,
            "l1_loss_config": None,
            "siglip2_loss_config": {"model": "google/siglip2-base-patch16-224"},
        },
    },
}


def test_published_files_become_ours():
    before = json.dumps(PUBLISHED)
    found = with_our_names(PUBLISHED)
    assert json.dumps(PUBLISHED) == before, "the given one is not changed"
    assert found["algorithm"] == {"name": "grpo", "group_size": 3, "discount_factor": 0.9}
    trainer = read(TrainerOptions, found["trainer"], "trainer")
    assert (trainer.max_grad_norm, trainer.resume, trainer.tracker) == (2.0, True, "none")
    assert trainer.exp_folder == "elsewhere/"
    assert trainer.temp_schedule_args == TemperatureSchedule("exponential", 1e4, 1.0)
    assert found["task"] == {
        "name": "video_mae_reconstruction",
        "recon_model_config": {"loss_networks": {"siglip2": "google/siglip2-base-patch16-224"}},
    }
    dataset = found["dataset"]
    assert (dataset["name"], dataset["stride"]) == ("video_folder", 2)
    assert dataset["augmentation"]["resized_crop"] == {"scale_min": 0.5, "scale_max": 1.0}
    assert with_our_names(found) == found


def test_a_published_dataset_file_is_read(tmp_path):
    """By `autogaze calibrate --dataset`, for example."""
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(PUBLISHED)))
    config = DatasetFile.load(path).config
    assert (config.stride, config.augmentation.resized_crop.scale_min) == (2, 0.5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dataset": {"train_data_aug": {"aug_type": "colour"}}}, "'colour'"),
        ({"dataset": {"train_data_aug": "crop"}}, "'crop'"),
        ({"task": {"recon_model_config": {"causal": False}}}, "False"),
        ({"task": {"recon_model_config": {"siglip2_loss_config": {"layers": 3}}}}, "layers"),
    ],
)
def test_what_has_no_counterpart_is_refused(options, named):
    with pytest.raises(TrainingError, match=named):
        with_our_names(options)


def test_unknown_schedules_are_named(tmp_path):
    config = tiny_config("grpo", tmp_path)
    config["trainer"]["temp_schedule_args"] = {"mode": "cosine"}
    with pytest.raises(TrainingError, match="cosine"):
        build_trainer(config)


# Dirichlet's alpha, and configurations that lack a part.


def drawn(group, **options):
    config = AutoGaze(build_model(MODEL).config).config
    getattr(config, group).update(options)
    return config


SHARES = "gazing_ratio_each_frame_config"
BY_DIRICHLET = {"sample_strategy_during_inference": "dirichlet"}


@pytest.mark.parametrize("alpha", ["10,3,3", [10, 3, 3], " 10, 3 ,3", "[10,3,3]"])
def test_alpha_is_one_number_per_frame(alpha):
    config = drawn(SHARES, **BY_DIRICHLET, dirichlet={"alpha": alpha})
    wanted = drawn(SHARES, **BY_DIRICHLET, dirichlet={"alpha": [10.0, 3.0, 3.0]})
    settings = [
        draw_settings(c, 3, training=False, generator=torch.Generator().manual_seed(1))
        for c in (config, wanted)
    ]
    assert settings[0] == settings[1]
    many = [draw_settings(config, 3, training=False).ratio for _ in range(300)]
    first, *others = torch.tensor(many).mean(0).tolist()
    assert first > 2 * max(others)


@pytest.mark.parametrize("alpha", ["0.5", 0.5, [0.5]])
def test_one_alpha_is_for_all_frames(alpha):
    config = drawn(SHARES, **BY_DIRICHLET, dirichlet={"alpha": alpha})
    assert len(draw_settings(config, 5, training=False).ratio) == 5


@pytest.mark.parametrize("alpha", ["", "a,b", [], None, [1, -1], "1,,2", "nan", {"x": 1}])
def test_an_alpha_that_is_none_is_an_error(alpha):
    config = drawn(SHARES, **BY_DIRICHLET, dirichlet={"alpha": alpha})
    with pytest.raises(CheckpointError, match="dirichlet"):
        draw_settings(config, 3, training=False)


def test_alphas_of_too_few_frames_are_an_error():
    config = drawn(SHARES, **BY_DIRICHLET, dirichlet={"alpha": "1,2"})
    with pytest.raises(CheckpointError, match=r"\b2 numbers.*\b3 frames"):
        draw_settings(config, 3, training=False)
    assert len(draw_settings(config, 1, training=False).ratio) == 1


@pytest.mark.parametrize(
    ("group", "strategy", "missing"),
    [
        ("gazing_ratio_config", "fixed", "fixed.gazing_ratio"),
        ("gazing_ratio_config", "uniform", "uniform.gazing_ratio_min"),
        ("gazing_ratio_config", "exponential", "exponential.gazing_ratio_min"),
        ("task_loss_requirement_config", "fixed", "fixed.task_loss_requirement"),
        ("task_loss_requirement_config", "uniform", "uniform.task_loss_requirement_min"),
        (SHARES, "dirichlet", "dirichlet.alpha"),
    ],
)
def test_a_part_that_is_needed_and_missing_is_named(group, strategy, missing):
    config = drawn(group)
    setattr(config, group, {"sample_strategy_during_inference": strategy})
    config.has_task_loss_requirement_during_inference = True
    with pytest.raises(CheckpointError, match=missing):
        draw_settings(config, 3, training=False)


def test_a_part_that_is_not_needed_may_be_missing(tmp_path):
    model = build_model(MODEL)
    ends = {"task_loss_requirement_min": 0.2, "task_loss_requirement_max": 0.4}
    model.config.task_loss_requirement_config = {
        "sample_strategy_during_training": "uniform",
        "sample_strategy_during_inference": "uniform",
        "uniform": ends,
    }
    model.config.gazing_ratio_config = {
        "sample_strategy_during_inference": "uniform",
        "uniform": {"gazing_ratio_min": 0.1, "gazing_ratio_max": 0.2},
    }
    model.config.has_task_loss_requirement_during_inference = True
    model.save_pretrained(tmp_path)
    selector = Learned.from_pretrained(tmp_path)
    assert selector.default_loss == pytest.approx(0.3)
    gaze = selector.select(torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8))
    assert (gaze.lengths >= 1).all()
    drawn_now = draw_settings(selector.model.config, 2, training=False)
    assert 0.1 <= drawn_now.ratio <= 0.2
    assert 0.2 <= drawn_now.threshold <= 0.4


def test_weights_of_a_task_are_found_under_their_published_name(tmp_path):
    (tmp_path / "checkpoint_latest_task").mkdir()
    path = tmp_path / "checkpoint_latest_task.pt"
    found = with_our_names({"trainer": {"task_weights": str(path)}})
    assert found["trainer"]["task_weights"] == str(path.with_suffix(""))
    path.touch()
    found = with_our_names({"trainer": {"task_weights": str(path)}})
    assert found["trainer"]["task_weights"] == str(path)
