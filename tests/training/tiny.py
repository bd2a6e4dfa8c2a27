"""Trainings that take a second: 64-pixel frames, 20 patches, a model of some 100k weights."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig, save_video_mae
from autogaze.trainer import Trainer
from autogaze.training.factory import build_trainer

MODEL = {
    "scales": "32+64",
    "decode_positions": "sequential",
    "gaze_model_config": {
        "vision_model_config": {"hidden_dim": 24, "out_dim": 24},
        "connector_config": {"hidden_dim": 24},
        "gaze_decoder_config": {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_multi_token_pred": 3,
            "initializer_range": 0.1,
        },
    },
}
VIDEO_MAE = {
    "name": "video_mae_reconstruction",
    "scales": "32+64",
    "recon_sample_rate": 0.5,
    "recon_model_config": {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    },
}
CANVAS = {"name": "canvas_reconstruction", "scales": "32+64", "recon_sample_rate": 0.5}
SELF = {
    "gazing_ratio_config": {
        "sample_strategy_during_training": "fixed",
        "sample_strategy_during_inference": "fixed",
        "fixed": {"gazing_ratio": 0.4},
    },
    "gazing_ratio_each_frame_config": {
        "sample_strategy_during_training": "self",
        "sample_strategy_during_inference": "uniform",
    },
    # Around what the untrained model predicts, so that lengths differ.
    "task_loss_requirement_config": {
        "sample_strategy_during_training": "uniform",
        "sample_strategy_during_inference": "fixed",
        "fixed": {"task_loss_requirement": 0.1},
        "uniform": {"task_loss_requirement_min": -0.4, "task_loss_requirement_max": 0.2},
    },
}
RANDOM = {
    "gazing_ratio_config": {
        "sample_strategy_during_training": "exponential",
        "sample_strategy_during_inference": "fixed",
        "fixed": {"gazing_ratio": 0.2},
        "exponential": {"gazing_ratio_min": 0.1, "gazing_ratio_max": 1, "lambda": 10},
    },
    "gazing_ratio_each_frame_config": {
        "sample_strategy_during_training": "dirichlet",
        "sample_strategy_during_inference": "uniform",
        "dirichlet": {"alpha": 0.5},
    },
}
TRAINER = {
    "batch_size": 4,
    "per_gpu_max_batch_size": 4,
    "num_workers": 0,
    "max_steps": 3,
    "lr": 1e-2,
    "val_nsteps": 0,
    "save_nsteps": 2,
    "log_nsteps": 1,
    "val_clips": 4,
    "device": "cpu",
}
NTP = {"algorithm": {"name": "ntp"}, "dataset": {"greedy_labels": {"high": 0.4}}}
GRPO = {
    "algorithm": {"name": "grpo", "group_size": 2, "discount_factor": 0.9},
    "model": SELF,
    "trainer": {"temp_schedule_args": {"start": 1.5, "end": 0.5}},
}
TASK = {
    "algorithm": {"name": "dummy"},
    "model": RANDOM,
    "task": VIDEO_MAE,
    "trainer": {"train_gaze": False, "train_task": True, "detach_task": False},
}
RECIPES = {"ntp": NTP, "grpo": GRPO, "task": TASK}


def save_tiny_video_mae(folder):
    """A VideoMAE of these patches, which asks for pixels alone, as labels and trainings take it."""
    torch.manual_seed(0)
    shape = {**VIDEO_MAE["recon_model_config"], "image_size": 64, "scales": MODEL["scales"]}
    model = VideoMAE(VideoMAEConfig.of(shape))
    save_video_mae(model, folder, loss_type="l1", loss_weights="1")
    return model


def tiny_config(kind: str, folder: Path | str, **trainer: Any) -> dict[str, Any]:
    """Options of a tiny training: `ntp`, `grpo` or `task`."""
    recipe = copy.deepcopy(RECIPES[kind])
    return {
        "algorithm": recipe["algorithm"],
        "dataset": {"name": "procedural", "num_clips": 10, "clip_len": 2}
        | recipe.get("dataset", {}),
        "model": copy.deepcopy(MODEL) | recipe.get("model", {}),
        "task": recipe.get("task", dict(CANVAS)),
        "trainer": {**TRAINER, "exp_folder": str(folder), "exp_name": "tiny"}
        | recipe.get("trainer", {})
        | trainer,
    }


def tiny_trainer(kind: str, folder: Path | str, **trainer: Any) -> Trainer:
    """The trainer of such options."""
    return build_trainer(tiny_config(kind, folder, **trainer))


def weights_after(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """What the latest checkpoint of a finished training holds."""
    part = "task" if kind == "task" else "gaze"
    return load_file(folder / "tiny" / f"checkpoint_latest_{part}" / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit by bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """To float tolerance."""
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=2e-3, atol=2e-4)
