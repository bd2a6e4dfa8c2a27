"""A tiny random selector (two scales, 16 vision tokens, K = 4) and videos for it."""

import torch

from autogaze.models.autogaze import AutoGaze, AutoGazeConfig

POSITIONS = ["as_released", "sequential"]


def tiny_config(**changes) -> AutoGazeConfig:
    decoder = {
        "vocab_size": 21,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": changes.pop("kv_heads", 4),
        "num_multi_token_pred": changes.pop("K", 4),
        # Large weights, so that different frames are gazed at differently.
        "initializer_range": 0.3,
    }
    return AutoGazeConfig(
        scales="32+64",
        num_vision_tokens_each_frame=20,
        gaze_model_config={
            "input_img_size": 64,
            "num_vision_tokens_each_frame": 20,
            "vision_model_config": {"hidden_dim": 48, "out_dim": 48, "depth": 2},
            "connector_config": {"hidden_dim": 48, "num_tokens": 16},
            "gaze_decoder_config": decoder,
        },
        **changes,
    )


def tiny_model(seed: int = 0, **changes) -> AutoGaze:
    torch.manual_seed(seed)
    return AutoGaze(tiny_config(**changes)).eval()


def tiny_video(clips: int, frames: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, frames, 3, 64, 64, generator=generator)


def still_video(clips: int, frames: int, seed: int = 0) -> torch.Tensor:
    """One picture each, under noise of 0.02 of the way from black to white."""
    noise = tiny_video(clips, frames, seed + 100)
    return tiny_video(clips, 1, seed) + 0.08 * noise


def threshold_of(model, video) -> float:
    """A predicted loss at which some frames stop early and others late.

    It lies in the widest gap between predicted losses around the median: on one of
    them, rounding would decide who stops.
    """
    scores = model.score(video, model.generate(video))
    losses = scores.predicted_losses.detach().flatten().sort().values
    middle = losses[len(losses) // 4 : -len(losses) // 4]
    gap = (middle[1:] - middle[:-1]).argmax()
    return float(middle[gap : gap + 2].mean())
