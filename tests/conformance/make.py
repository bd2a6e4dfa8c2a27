"""Makes the numbers in frozen.json and frozen.safetensors.

Inputs and weights are drawn by numpy's RandomState, whose stream is fixed for good, and are drawn
again where they are needed; only what the code computed from them is kept. So the files change
only where behaviour changes:

    PYTHONPATH=CHECKOUT python tests/conformance/make.py

writes what the package in CHECKOUT computes.
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent

VIDEO_MAE = {
    "scales": "16+32",
    "max_num_frames": 6,
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
SIGLIP = {
    "scales": "32+64",
    "patch_size": 16,
    "image_size": 64,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
GRPO = {"group_size": 3, "discount_factor": 0.9, "optimize_task_loss_prediction": True}
KINDS = {"block_causal": False, "frame_independent": True}


def gaze_config(
    scales: str, num_patches: int, kv_heads: int = 4, K: int = 4, depth: int = 1, **more
):
    """Config of a tiny selector, as its `config.json` nests it."""
    decoder = {
        "vocab_size": num_patches + 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "num_multi_token_pred": K,
    }
    parts = {
        "input_img_size": 64,
        "num_vision_tokens_each_frame": num_patches,
        "vision_model_config": {"hidden_dim": 32, "out_dim": 32, "depth": depth},
        "connector_config": {"hidden_dim": 32, "num_tokens": 16},
        "gaze_decoder_config": decoder,
    }
    return {
        "scales": scales,
        "num_vision_tokens_each_frame": num_patches,
        "gaze_model_config": parts,
        **more,
    }


GAZE = {
    "gaze": gaze_config("32+64", 20),
    "gaze-gqa": gaze_config("16+32+64", 21, kv_heads=2, K=1, depth=2),
    "gaze-sequential": gaze_config("32+64", 20, decode_positions="sequential"),
    "gaze-inhibited": gaze_config("32+64", 20, inhibition_of_return=0.05),
}


def draw(name: str, *shape: int) -> Tensor:
    """Normal numbers that depend on nothing but `name` and the shape."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(state.standard_normal(shape).astype(np.float32))


def draw_videos(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Videos (clips, frames, 3, side, side): left halves stand still, right halves always change."""
    videos = {name: draw(name, *shape) for name, shape in shapes.items()}
    for video in videos.values():
        half = video.shape[-1] // 2
        video[..., :half] = video[:, :1, ..., :half]
    return videos


def draw_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights large enough that mistakes show; gains of norms are about one."""
    return {
        name: 0.3 * draw(name, *shape) + float("norm" in name and name.endswith("weight"))
        for name, shape in shapes.items()
    }


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


@cache
def frozen() -> dict[str, dict]:
    """Per model: `config`, `cases` (name -> arguments of the call), `weights` (name -> shape)."""
    return json.loads((HERE / "frozen.json").read_text())


@cache
def load(name: str) -> tuple[dict, dict, dict[str, Tensor]]:
    """Config, cases and tensors of one model: inputs and weights as well as what was computed."""
    kept = frozen()[name]
    prefix = f"{name}/"
    tensors = {
        key.removeprefix(prefix): value
        for key, value in load_file(HERE / "frozen.safetensors").items()
        if key.startswith(prefix)
    }
    tensors |= draw_videos(kept["videos"])
    for key, value in draw_weights(kept["weights"]).items():
        tensors[f"weights.{key}"] = value
    return kept["config"], kept["cases"], tensors


# What the code computes of them.


def stream(model, video: Tensor, **call) -> dict[str, Tensor]:
    """One clip (1, T, 3, H, W) frame by frame through the caches that AutoGaze's users know."""
    past, positions, padding, counts = {}, [], [], []
    for index, frame in enumerate(video.unbind(1)):
        output = model(
            {"video": frame[:, None]}, generate_only=True, use_cache=True, **call, **past
        )
        past = {
            "past_key_values": output["past_key_values"],
            "past_inputs_embeds": output["past_input_embeds"],
            "past_attention_mask": output["past_attention_mask"],
            "past_conv_values": output["past_conv_values"],
        }
        positions.append(output["gazing_pos"] + model.num_vision_tokens_each_frame * index)
        padding.append(output["if_padded_gazing"])
        counts.append(int(output["num_gazing_each_frame"][0]))
    return {
        "gazing_pos": torch.cat(positions, 1),
        "if_padded_gazing": torch.cat(padding, 1),
        "num_gazing_each_frame": torch.tensor(counts),
    }


@torch.no_grad()
def freeze_gaze(name: str) -> tuple[dict, dict[str, Tensor]]:
    """Gazes by ratio and by threshold, their scores, other grids, and frame by frame."""
    from autogaze.models.autogaze import AutoGaze, AutoGazeConfig

    model = AutoGaze(AutoGazeConfig(**GAZE[name])).eval()
    shapes = shapes_of(model)
    model.load_state_dict(draw_weights(shapes))
    videos = {"video": [2, 4, 3, 64, 64]}
    video = draw_videos(videos)["video"]
    predictions = model({"video": video}, gazing_ratio=0.75)["task_loss_prediction"].flatten()
    low, high = (round(float(predictions.quantile(q)), 4) for q in (0.05, 0.3))
    assert min((predictions - t).abs().min() for t in (low, high)) > 1e-5
    cases = {
        "ratio": {"gazing_ratio": 0.75},
        "threshold": {"gazing_ratio": 0.75, "task_loss_requirement": high},
        "threshold_low": {"gazing_ratio": 0.75, "task_loss_requirement": low},
        "threshold_only": {"task_loss_requirement": high},
        "ratio_per_frame": {"gazing_ratio": [0.1, 0.15, 0.2, 0.25]},
        "streaming": {"gazing_ratio": 0.75, "task_loss_requirement": high},
    }
    if name == "gaze":
        for key, scales, size in (("grid16", [64, 128], 16), ("grid14", [56, 112], 14)):
            cases[key] = {**cases["threshold"], "target_scales": scales, "target_patch_size": size}
            videos[f"{key}.video"] = [1, 3, 3, scales[-1], scales[-1]]
    tensors = {}
    for case, call in cases.items():
        if case == "streaming":
            output = stream(model, video[:1], **call)
        else:
            key = f"{case}.video" if f"{case}.video" in videos else "video"
            output = model({"video": draw_videos(videos)[key]}, **call)
            for level, mask in enumerate(output["gazing_mask"]):
                tensors[f"{case}.gazing_mask.{level}"] = mask
            if case in ("threshold", "threshold_low"):
                tensors[f"{case}.log_action_probs"] = output["log_action_probs"]
                tensors[f"{case}.task_loss_prediction"] = output["task_loss_prediction"]
        for key in ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame"):
            tensors[f"{case}.{key}"] = output[key]
    kept = {"config": GAZE[name], "cases": cases, "weights": shapes, "videos": videos}
    return kept, tensors


def draw_gaze(scales: str, patch_size: int, clips: int, frames: int) -> dict[str, Tensor]:
    """A ragged gaze as the padded dict."""
    from autogaze import Gaze, PatchPyramid

    pyramid = PatchPyramid.parse(scales, patch_size)
    state = np.random.RandomState(zlib.crc32(scales.encode()))
    lengths = torch.from_numpy(state.randint(1, pyramid.num_patches // 3, (clips, frames)))
    ids = [state.permutation(pyramid.num_patches)[:n] for n in lengths.flatten().tolist()]
    padded = Gaze(pyramid, torch.from_numpy(np.concatenate(ids)), lengths).padded()
    wanted = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame")
    return {f"gaze.{key}": torch.as_tensor(padded[key]) for key in wanted}


@torch.no_grad()
def freeze_siglip() -> tuple[dict, dict[str, Tensor]]:
    """Features of gazed patches, with and without the sight of earlier frames."""
    from autogaze.vision_encoders.siglip import SiglipVisionConfig, SiglipVisionModel

    videos = {"video": [2, 3, 3, 64, 64]}
    tensors = draw_gaze(SIGLIP["scales"], SIGLIP["patch_size"], 2, 3)
    gaze = {key.removeprefix("gaze."): value for key, value in tensors.items()}
    for kind, alone in KINDS.items():
        config = SiglipVisionConfig(**SIGLIP, frame_independent_encoding=alone)
        model = SiglipVisionModel(config).eval()
        shapes = {
            f"vision_model.{name.removeprefix('vision_model.')}": shape
            for name, shape in shapes_of(model).items()
        }
        model.load_state_dict(draw_weights(shapes))
        video = draw_videos(videos)["video"]
        out = model(video, gazing_info=gaze, output_hidden_states=True)
        tensors[f"{kind}.last_hidden_state"] = out.last_hidden_state
        tensors[f"{kind}.hidden_states.1"] = out.hidden_states[1]
    return {"config": SIGLIP, "cases": {}, "weights": shapes, "videos": videos}, tensors


@torch.no_grad()
def freeze_video_mae() -> tuple[dict, dict[str, Tensor]]:
    """Two frames reconstructed from gazed patches."""
    from autogaze import Gaze
    from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig

    model = VideoMAE(VideoMAEConfig.of(VIDEO_MAE)).eval()
    shapes = shapes_of(model)
    model.load_state_dict(draw_weights(shapes))
    videos = {"video": [2, 3, 3, 32, 32]}
    tensors = draw_gaze(VIDEO_MAE["scales"], VIDEO_MAE["patch_size"], 2, 3)
    gaze = {key.removeprefix("gaze."): value for key, value in tensors.items()}
    frames = [1, 2]
    video = draw_videos(videos)["video"]
    found = model(video, Gaze.from_padded(gaze, model.config.pyramid), frames)
    tensors["reconstruction"] = found
    tensors["loss_each_reconstruction_frame"] = (found - video[:, frames]).abs().flatten(2).mean(-1)
    tensors["frame_idx_to_reconstruct"] = torch.tensor(frames)
    return {"config": VIDEO_MAE, "cases": {}, "weights": shapes, "videos": videos}, tensors


def freeze_algorithms() -> tuple[dict, dict[str, Tensor]]:
    """Losses of NTP and GRPO by row, and their gradients: six rows of nine slots, two rewards."""
    from autogaze.algorithms.grpo import grpo_loss
    from autogaze.algorithms.ntp import ntp_loss
    from autogaze.algorithms.rollout import Rollout

    tensors = {
        "in.log_action_probs": -draw("log_action_probs", 6, 9).abs(),
        "in.if_padded_gazing": draw("if_padded_gazing", 6, 9) > 0.8,
        "in.task_loss_prediction": draw("task_loss_prediction", 6, 9),
        "in.task_losses": draw("task_losses", 6, 9),
        "in.task_losses_mask": (draw("task_losses_mask", 6, 9) > 0).float(),
        "in.reward": draw("reward", 6, 2),
        "in.traj_len_each_reward": torch.tensor([4, 9]),
    }
    for name in ("ntp", "grpo"):
        rollout = Rollout(
            tensors["in.log_action_probs"].clone().requires_grad_(),
            tensors["in.if_padded_gazing"],
            tensors["in.task_loss_prediction"].clone().requires_grad_(),
            tensors["in.task_losses"],
            tensors["in.task_losses_mask"].bool(),
        )
        if name == "ntp":
            loss = ntp_loss(rollout)
        else:
            ends = tensors["in.traj_len_each_reward"].tolist()
            loss = grpo_loss(rollout, tensors["in.reward"], ends, **GRPO)
        gradients = torch.autograd.grad(loss.mean(), [rollout.log_probs, rollout.predicted_losses])
        tensors[f"{name}.loss"] = loss.detach()
        tensors[f"{name}.grad_log_action_probs"] = gradients[0]
        tensors[f"{name}.grad_task_loss_prediction"] = gradients[1]
    return {"config": GRPO, "cases": {}, "weights": {}, "videos": {}}, tensors


def freeze_processor() -> tuple[dict, dict[str, Tensor]]:
    """One frame, resized both ways and normalised."""
    from autogaze.models.autogaze import AutoGazeImageProcessor

    frames = (draw("frames", 1, 30, 41, 3) * 60 + 128).clamp(0, 255).to(torch.uint8)
    tensors = {"0.frames": frames}
    for mode, size in (
        ("shortest_edge", {"shortest_edge": 24}),
        ("square", {"height": 24, "width": 24}),
    ):
        processor = AutoGazeImageProcessor(size=size)
        videos = processor(list(frames.numpy()), return_tensors="pt")["pixel_values"]
        tensors[f"0.{mode}"] = videos[0]
    return {"config": {}, "cases": {}, "weights": {}, "videos": {}}, tensors


def main() -> None:
    """Write both files."""
    made = {name: freeze_gaze(name) for name in GAZE}
    made["siglip"] = freeze_siglip()
    made["video-mae"] = freeze_video_mae()
    made["algorithms"] = freeze_algorithms()
    made["processor"] = freeze_processor()
    settings = {name: kept for name, (kept, _) in made.items()}
    (HERE / "frozen.json").write_text(json.dumps(settings, separators=(",", ":")) + "\n")
    tensors = {
        f"{name}/{key}": value.detach().contiguous()
        for name, (_, computed) in made.items()
        for key, value in computed.items()
    }
    save_file(tensors, HERE / "frozen.safetensors")


if __name__ == "__main__":
    main()
