"""What cannot work is refused before training starts, in the options' own names."""

import logging
import re
import sys
from types import SimpleNamespace

import pytest
import yaml

from autogaze import train
from autogaze.datasets.clip import ClipKey, UnreadableClip
from autogaze.datasets.procedural import ProceduralClips
from autogaze.errors import AutoGazeError, CheckpointError, MissingExtraError, TrainingError
from autogaze.training.config import TrainerOptions
from autogaze.training.factory import build_trainer
from autogaze.training.loader import check_unreadable
from autogaze.training.logging import read_metrics
from autogaze.training.mixture import DatasetFile
from tests.clips import make_video
from tests.training.tiny import VIDEO_MAE, tiny_config, tiny_trainer

WRONG = {
    "trainer.lr_schedule": ("linaer", "linear"),
    "trainer.optimizer": ("lion", "adam, adamw, sgd"),
    "trainer.tracker": ("mlflow", "wandb"),
    "trainer.batch_size": (0, "above 0"),
    "trainer.lr": ("fast", "fast"),
    "trainer.train_gaze": ("maybe", "maybe"),
    "trainer.learning_rate": (1e-3, r"learning_rate.* known are .*\blr\b"),
    "trainer.max_step": (3, r"did you mean trainer\.max_steps\?"),
    "trainer.exp_name": ("../elsewhere", "below exps/"),
    "trainer.temp_schedule_args": ({"begin": 3}, "start"),
    "trainer.mixed_precision": ("fp8", "bf16, fp16, no"),
    "trainer.device": ("tpu", "auto, cpu"),
    "trainer.betas": ([0.9], "two numbers"),
    "trainer.val_ratios": ([0.1, 1.5], r"\(0, 1\]"),
    "trainer.max_grad_norm": (0, "above 0"),
    "algorithm.name": ("ppo", "dummy, grpo, ntp"),
    "algorithm.group_size": (0, "at least 1"),
    "algorithm.discount_factor": (1.5, r"\(0, 1\]"),
    "dataset.name": ("video_foldr", "did you mean video_folder"),
    "dataset.clip_length": (16, "clip_len"),
    "dataset.max_unreadable": (2.0, r"\[0, 1\]"),
    "dataset.scene": ({"max_shape": 1}, "max_shapes"),
    "model.scales": ("32+60", "60"),
    "model.num_vision_tokens_each_frame": (265, "20"),
    "model.decode_positions": ("random", "as_released"),
    "model.inhibition_of_return": (0, "above 0"),
    "model.gaze_model": ({}, "gaze_model_config"),
    "task.name": ("siglip_reconstruction", "canvas_reconstruction"),
    "task.scales": ("32+64+112", "must be the same"),
    "task.recon_sample_rate": (0.0, r"\(0, 1\]"),
}


@pytest.mark.parametrize("option", WRONG)
def test_wrong_options_are_named_with_what_would_do(option, tmp_path):
    group, name = option.split(".")
    value, message = WRONG[option]
    config = tiny_config("ntp", tmp_path)
    config[group][name] = value
    with pytest.raises(AutoGazeError, match=message):
        build_trainer(config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "cosine"}, "constant, exponential, linear"),
        ({"end": 0}, "end=0"),
    ],
)
def test_temperature_schedules_that_cannot_be_are_refused(wrong, message, tmp_path):
    with pytest.raises(TrainingError, match=message):
        tiny_trainer("grpo", tmp_path, temp_schedule_args=wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fixed": {"gazing_ratio": 5}}, r"fixed: .*\[0, 1\].*\b5$"),
        (
            {
                "sample_strategy_during_training": "uniform",
                "uniform": {"gazing_ratio_min": 0.5, "gazing_ratio_max": 0.2},
            },
            r"uniform: .*got 0\.5 to 0\.2",
        ),
    ],
)
def test_ratios_that_cannot_be_are_refused(wrong, message, tmp_path):
    config = tiny_config("grpo", tmp_path)
    config["model"]["gazing_ratio_config"] |= wrong
    with pytest.raises(TrainingError, match=message):
        build_trainer(config)


def test_grpo_refuses_inhibition_of_return(tmp_path):
    config = tiny_config("grpo", tmp_path)
    config["model"]["inhibition_of_return"] = 0.05
    with pytest.raises(TrainingError, match=r"grpo.*model\.inhibition_of_return=0\.05"):
        build_trainer(config)


def test_unknown_strategies_are_named(tmp_path):
    config = tiny_config("grpo", tmp_path)
    config["model"]["gazing_ratio_each_frame_config"]["sample_strategy_during_training"] = "even"
    with pytest.raises(TrainingError, match="dirichlet, self"):
        build_trainer(config)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gaze_model_config.gaze_decoder_config.num_layers", "num_hidden_layers"),
        (
            "gaze_model_config.vision_model_config.hiden_dim",
            r"did you mean model\..*vision_model_config\.hidden_dim\?",
        ),
        ("gazing_ratio_config.exponential.lamda", r"did you mean model\..*\.exponential\.lambda\?"),
        (
            "task_loss_requirement_config.fix",
            r"did you mean model\.task_loss_requirement_config\.fixed\?",
        ),
        ("gaze_model_config.connector_config", r"group.*\b3$"),
    ],
)
def test_unknown_options_are_named_at_any_depth(path, message, tmp_path):
    config = tiny_config("grpo", tmp_path)
    group = config["model"]
    *groups, name = path.split(".")
    for inner in groups:
        group = group.setdefault(inner, {})
    group[name] = 3
    with pytest.raises(TrainingError, match=rf"model\.{path}.*{message}"):
        build_trainer(config)


@pytest.mark.parametrize(
    "wrong", [{"min_crop": 0}, {"min_crop": 1.2}, {"brightness": -0.1}, {"contrast": 2}]
)
def test_augmentations_that_cannot_be_are_refused(wrong, tmp_path):
    (name,) = wrong
    config = video_config(tmp_path, root=str(tmp_path), augmentation=wrong)
    with pytest.raises(TrainingError, match=rf"dataset\.augmentation\.{name}\b.*{wrong[name]}"):
        build_trainer(config)


def test_random_gazes_cannot_stop_by_loss(tmp_path):
    config = tiny_config("task", tmp_path)
    config["model"]["gazing_ratio_each_frame_config"]["sample_strategy_during_training"] = "self"
    with pytest.raises(
        TrainingError, match=r"\bgazing_ratio_each_frame_config .*uniform\b.*dirichlet\b.*self\b"
    ):
        build_trainer(config)


def test_clips_longer_than_a_reconstruction_model_takes_are_refused(tmp_path):
    config = tiny_config("task", tmp_path)
    shape = {**VIDEO_MAE["recon_model_config"], "max_num_frames": 1}
    config["task"] = {**VIDEO_MAE, "recon_model_config": shape}
    with pytest.raises(TrainingError, match=r"dataset\.clip_len=2: .* 1 frames"):
        build_trainer(config)


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    config = tiny_config("task", tmp_path)
    missing = str(tmp_path / "nowhere")
    config["task"] = {
        "name": "siglip_video_feature_reconstruction",
        "scales": "32+64",
        "encoder": missing,
    }
    with pytest.raises(CheckpointError, match=rf"{missing}.*task\.encoder"):
        build_trainer(config)


def test_a_part_of_a_mixture_is_named_by_its_own_options(tmp_path):
    config = tiny_config("ntp", tmp_path, val_nsteps=1)
    parts = {"videos": {"root": None}}
    config["dataset"] = {"name": "mixture", "clip_len": 3, "greedy_labels": {}, "parts": parts}
    with pytest.raises(TrainingError, match=r"^dataset\.parts\.videos.*\broot"):
        build_trainer(config)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (
            {"name": "procedural", "scene": {"max_shape": 1}},
            ("dataset.parts.p.scene.max_shape", "dataset.parts.p.scene.max_shapes"),
        ),
        ({"name": "procedural", "scene": {"side": 8}}, ("dataset.parts.p.scene.side",)),
        (
            {"name": "video_folder", "augmentation": {"min_crop": 2.0}},
            ("dataset.parts.p.augmentation.min_crop", "2.0"),
        ),
        (
            {"name": "video_folder", "random_sample_frame": True, "gt_gazing_pos_paths": {}},
            ("dataset.parts.p.random_sample_frame=False",),
        ),
        ({"name": "procedural", "num_clips": 0}, ("got 0",)),
        ({"name": "procedural", "wieght": 2}, ("dataset.parts.p.wieght",)),
    ],
)
def test_errors_of_a_part_name_the_part(part, named, tmp_path):
    if part["name"] == "video_folder":
        folder = tmp_path / "videos" / "train"
        folder.mkdir(parents=True)
        make_video(folder / "a.mp4", num_frames=4)
        labels = tmp_path / "labels.json"
        labels.write_text('{"videos/train/a.mp4": {"gazing_pos": [[0], [20], [40]]}}')
        part = {**part, "root": str(tmp_path / "videos")}
        if "gt_gazing_pos_paths" in part:
            part["gt_gazing_pos_paths"] = {"train": str(labels)}
    config = tiny_config("ntp", tmp_path)
    config["dataset"] = {
        "name": "mixture",
        "clip_len": 3,
        "greedy_labels": {},
        "parts": {"p": part},
    }
    with pytest.raises(TrainingError, match=r"dataset\.parts\.p") as raised:
        build_trainer(config)
    assert all(value in str(raised.value) for value in named)
    assert not re.search(r"(?<!\.)\bdataset\.(?!parts\.p)", str(raised.value))


def test_what_is_only_called_like_an_option_keeps_its_name(tmp_path):
    config = tiny_config("ntp", tmp_path)
    folder = tmp_path / "dataset.root"
    parts = {"p": {"root": str(folder)}}
    config["dataset"] = {"name": "mixture", "clip_len": 3, "greedy_labels": {}, "parts": parts}
    with pytest.raises(TrainingError, match=r"dataset\.parts\.p\.root") as raised:
        build_trainer(config)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "trainer.learning_rate=1",
            r"option trainer\.learning_rate.*\blr\b",
        ),
        ("trainer.temp_schedule_args.begin=3", r"\bbegin\b.*\bend, schedule, start\b"),
        ("trainer.lr", "trainer.lr"),
        ("trainer=fast", "default"),
    ],
)
def test_a_misnamed_option_of_a_command_is_named(argument, message, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="autogaze")  # the command sets it, this resets it
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["autogaze.train", argument])
    with pytest.raises(SystemExit, match=rf"^autogaze\.train: (.|\n)*{message}") as ended:
        train.main()
    assert ended.value.code == 2


@pytest.mark.parametrize("value", ["0", "-1.5", "true", "null", "[]", "[1]", "{lr: 1}"])
@pytest.mark.parametrize("group", ["trainer", "+trainer", "model"])
def test_a_group_is_given_by_a_name(group, value, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="autogaze")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["autogaze.train", f"{group}={value}"])
    with pytest.raises(SystemExit, match=rf"{group.strip('+')} is a group of options") as ended:
        train.main()
    assert ended.value.code == 2


@pytest.mark.parametrize("word", ["~trainer", "~trainer=default", "~task", "~dataset@x"])
def test_a_group_cannot_be_removed(word, monkeypatch, caplog):
    """Its options would silently have the defaults of the code."""
    caplog.set_level(logging.INFO, logger="autogaze")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["autogaze.train", word])
    with pytest.raises(SystemExit, match=r"cannot be removed.*=NAME") as ended:
        train.main()
    assert ended.value.code == 2


def test_labels_without_losses_cannot_teach_the_loss_prediction(tmp_path):
    folder = tmp_path / "videos" / "train"
    folder.mkdir(parents=True)
    make_video(folder / "a.mp4", num_frames=4)
    path = tmp_path / "gazing_labels.json"
    path.write_text('{"videos/train/a.mp4": {"gazing_pos": [[0], [20], [40]]}}')
    config = video_config(
        tmp_path, root=str(tmp_path / "videos"), gt_gazing_pos_paths={"train": str(path)}
    )
    with pytest.raises(TrainingError, match=r"a\.mp4 have no task_losses.*=False"):
        build_trainer(config)
    config["algorithm"]["optimize_task_loss_prediction"] = False
    build_trainer(config)


def test_unknown_losses_are_named(tmp_path):
    config = tiny_config("task", tmp_path)
    config["task"] = {**VIDEO_MAE, "recon_model_config": {"loss_type": "l2"}}
    with pytest.raises(TrainingError, match="known are l1"):
        build_trainer(config)


def test_batches_must_divide_among_processes():
    assert TrainerOptions(batch_size=8).clips_per_process(4) == 2
    with pytest.raises(TrainingError, match=r"trainer\.batch_size=8\b.*\b3 processes"):
        TrainerOptions(batch_size=8).clips_per_process(3)


def test_a_batch_that_cannot_be_divided_is_refused_before_training(tmp_path, monkeypatch):
    three = SimpleNamespace(num_processes=3, device="cpu")
    monkeypatch.setattr("autogaze.trainer.make_accelerator", lambda *_: three)
    with pytest.raises(TrainingError, match=r"trainer\.batch_size=4\b.*\b3 processes"):
        tiny_trainer("ntp", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_task_of_another_architecture_is_refused(tmp_path):
    tiny_trainer("task", tmp_path, max_steps=1).fit()
    config = tiny_config("grpo", tmp_path / "next")
    config["task"] = {**VIDEO_MAE, "recon_model_config": {**VIDEO_MAE["recon_model_config"]}}
    config["task"]["recon_model_config"]["hidden_size"] = 48
    weights = str(tmp_path / "tiny" / "checkpoint_latest_task")
    config["trainer"]["task_weights"] = weights
    with pytest.raises(CheckpointError, match=r"checkpoint_latest_task.*24"):
        build_trainer(config)
    config["trainer"]["task_weights"] = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        build_trainer(config)


def test_training_nothing_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="nothing to train"):
        tiny_trainer("ntp", tmp_path, train_gaze=False)
    with pytest.raises(TrainingError, match=r"\btask \(.*no weights\b"):
        tiny_trainer("ntp", tmp_path, train_task=True, detach_task=False)
    with pytest.raises(TrainingError, match="detach_task=False"):
        tiny_trainer("task", tmp_path, detach_task=True)
    with pytest.raises(TrainingError, match=r"dummy .*trainer\.train_gaze=False"):
        tiny_trainer("task", tmp_path, train_gaze=True)


def test_ntp_needs_labels(tmp_path):
    config = tiny_config("ntp", tmp_path)
    del config["dataset"]["greedy_labels"]
    with pytest.raises(TrainingError, match=r"dataset\.gt_gazing_pos_paths\.train"):
        build_trainer(config)


def video_config(tmp_path, **dataset):
    config = tiny_config("ntp", tmp_path)
    config["dataset"] = {"name": "video_folder", "clip_len": 3, **dataset}
    return config


def test_folders_without_videos_are_named(tmp_path):
    (tmp_path / "videos" / "train").mkdir(parents=True)
    config = video_config(tmp_path, root=str(tmp_path / "videos"), greedy_labels={})
    with pytest.raises(TrainingError, match=r"no videos .*videos/train"):
        build_trainer(config)
    config["dataset"]["root"] = str(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="nowhere: no such folder"):
        build_trainer(config)
    config["dataset"]["root"] = None
    with pytest.raises(TrainingError, match="names no folder"):
        build_trainer(config)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "loop"])
@pytest.mark.parametrize("option", ["root", "labels", "gaze_weights", "task_weights"])
def test_names_that_no_file_has_are_refused(option, name, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = str(tmp_path / name)
    if option == "root":
        config = video_config(tmp_path, root=path, greedy_labels={})
    else:
        config = tiny_config("ntp", tmp_path)
        if option == "labels":
            config["dataset"]["gt_gazing_pos_paths"] = {"train": path}
            del config["dataset"]["greedy_labels"]
        else:
            config["trainer"][option] = path
    with pytest.raises((TrainingError, CheckpointError), match=name[:40]):
        build_trainer(config)


def test_validating_needs_clips_to_validate_on(tmp_path):
    folder = tmp_path / "videos" / "train"
    folder.mkdir(parents=True)
    make_video(folder / "a.mp4", num_frames=4)
    config = video_config(tmp_path, root=str(tmp_path / "videos"))
    config["trainer"]["val_only"] = True
    with pytest.raises(TrainingError, match=r"no videos .*videos/val"):
        build_trainer(config)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"other/train/x.mp4": {"gazing_pos": [[0], [20], [40]]}},
            r"gazing_labels\.json .*none of the 1 .*\bvideos/train/a\.mp4\b.*"
            r"\bother/train/x\.mp4\b.*dataset\.gt_gazing_pos_paths.*`autogaze label`",
        ),
        ({"videos/train/a.mp4": {"gazing_pos": [[200], [265], [530]]}}, "another pyramid"),
        ({"videos/train/a.mp4": {"gazing_pos": [[0], [5], [10]]}}, "another pyramid"),
        ({"videos/train/a.mp4": {"gazing_pos": [[0], [20]]}}, "clip_len=2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message, tmp_path):
    import json

    folder = tmp_path / "videos" / "train"
    folder.mkdir(parents=True)
    make_video(folder / "a.mp4", num_frames=4)
    path = tmp_path / "gazing_labels.json"
    path.write_text(json.dumps(labels))
    config = video_config(
        tmp_path, root=str(tmp_path / "videos"), gt_gazing_pos_paths={"train": str(path)}
    )
    with pytest.raises(TrainingError, match=message):
        build_trainer(config)


@pytest.mark.parametrize(
    ("package", "extra"), [("accelerate", "train"), ("tensorboard", "trackers")]
)
def test_missing_packages_name_the_extra(package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"autogaze\[{extra}\]"):
        tiny_trainer("ntp", tmp_path, tracker="tensorboard")


class Damaged(ProceduralClips):
    """Some clips cannot be read."""

    broken: frozenset[int] = frozenset()

    def __getitem__(self, key):
        number = key.number if isinstance(key, ClipKey) else key
        if number in self.broken:
            return UnreadableClip(f"clip {number}", "its packets are noise")
        return super().__getitem__(key)


def damaged(monkeypatch, *numbers):
    monkeypatch.setattr(Damaged, "broken", frozenset(numbers))
    monkeypatch.setattr("autogaze.training.datasets.ProceduralClips", Damaged)


@pytest.mark.parametrize("kind", ["ntp", "grpo", "task"])
def test_unreadable_clips_are_skipped_named_and_counted(kind, tmp_path, monkeypatch, caplog):
    damaged(monkeypatch, 3)
    config = tiny_config(kind, tmp_path, max_steps=5)
    config["dataset"]["max_unreadable"] = 0.2
    state = build_trainer(config).fit()
    assert (state.unreadable, state.seen) == (2, 20)
    assert re.search(r"skipped.*\bclip 3: its packets are noise", caplog.text)
    assert read_metrics(tmp_path / "tiny" / "metrics.jsonl")[-1]["unreadable"] == 2
    assert (tmp_path / "tiny" / "unreadable.jsonl").read_text().count("clip 3") == 2


def test_too_many_unreadable_clips_end_training(tmp_path, monkeypatch):
    damaged(monkeypatch, *range(9))
    allowed = r"dataset\.max_unreadable=0\.05"
    with pytest.raises(TrainingError, match=allowed):
        tiny_trainer("ntp", tmp_path).fit()


def test_unreadable_clips_to_validate_on_are_counted_and_too_many_end_training(
    tmp_path, monkeypatch, caplog
):
    damaged(monkeypatch, 3)
    config = tiny_config("task", tmp_path, val_only=True, val_clips=10)
    config["dataset"]["max_unreadable"] = 0.1
    build_trainer(config).fit()
    written = tmp_path / "tiny" / "validation" / "metrics.jsonl"
    assert read_metrics(written)[-1]["val/unreadable"] == 1
    assert re.search(r"skipped.*\bclip 3: its packets are noise", caplog.text)
    config["dataset"]["max_unreadable"] = 0.05
    with pytest.raises(TrainingError, match=r"1 of 10 clips .*max_unreadable=0\.05"):
        build_trainer(config).fit()
    damaged(monkeypatch, *range(10))
    config["dataset"]["max_unreadable"] = 1.0
    with pytest.raises(TrainingError, match=r"\b10\b.*\bclip \d .*packets are noise"):
        build_trainer(config).fit()


def test_a_batch_of_nothing_but_unreadable_clips_changes_nothing(tmp_path, monkeypatch):
    damaged(monkeypatch, *range(10))
    config = tiny_config("ntp", tmp_path, max_steps=2)
    config["dataset"]["max_unreadable"] = 1.0
    trainer = build_trainer(config)
    before = {name: value.clone() for name, value in trainer.objective.model.state_dict().items()}
    trainer.fit()
    after = trainer.objective.model.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_few_unreadable_clips_are_tolerated_until_a_share_is_meaningful():
    check_unreadable(10, 20, planned=10_000, most=0.05)
    check_unreadable(10, 200, planned=10_000, most=0.05)
    remedy = r"11 of 200 .*set dataset\.max_unreadable=0\.06"
    with pytest.raises(TrainingError, match=remedy):
        check_unreadable(11, 200, planned=10_000, most=0.05)
    with pytest.raises(TrainingError):
        check_unreadable(2, 4, planned=20, most=0.05)


def test_options_of_the_last_release_still_work(tmp_path, caplog):
    config = tiny_config("ntp", tmp_path)
    config["algorithm"] |= {"own_gazes": 0.5, "hint_weight": 0.25, "scale_alpha": None}
    options = build_trainer(config).objective.algorithm.options
    assert (options.on_policy, options.auxiliary_weight) == (0.5, 0.25)
    for old, new in (("own_gazes", "on_policy"), ("hint_weight", "auxiliary_weight")):
        (line,) = (record.getMessage() for record in caplog.records if old in record.getMessage())
        assert f"algorithm.{new}" in line


def test_a_former_option_of_datasets_works_in_the_parts_of_a_mixture(tmp_path, caplog):
    parts = {
        "pans": {"name": "camera", "root": "photos", "clips_a_picture": 3},
        "drawn": {"name": "procedural"},
    }
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump({"name": "mixture", "parts": parts}))
    _, pans = DatasetFile.load(tmp_path / "mixture.yaml").config.members()
    assert pans.clips_per_picture == 3
    assert "dataset.clips_per_picture" in caplog.text
    (tmp_path / "pans.yaml").write_text(yaml.safe_dump(parts["pans"]))
    assert DatasetFile.load(tmp_path / "pans.yaml").config.clips_per_picture == 3
