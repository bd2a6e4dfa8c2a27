"""Tiny VideoMAEs and encoders, gazes and clips."""

import torch
import transformers as tf

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig

TINY = VideoMAEConfig(
    scales="16+32",
    max_num_frames=6,
    image_size=32,
    patch_size=8,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=48,
    decoder_hidden_size=16,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=32,
)


def tiny_mae(seed=0, std=0.3, config=TINY):
    """Weights large enough that mistakes show."""
    torch.manual_seed(seed)
    model = VideoMAE(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def some_clips(clips=2, frames=4, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(clips, frames, 3, side, side, generator=generator)


def some_gaze(pyramid: PatchPyramid, clips=2, frames=4, seed=0, least=1):
    generator = torch.Generator().manual_seed(seed)
    V = pyramid.num_patches
    lengths = torch.randint(least, V, (clips, frames), generator=generator)
    ids = [torch.randperm(V, generator=generator)[:n] for n in lengths.flatten().tolist()]
    return Gaze(pyramid, torch.cat(ids), lengths)


def _large(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


def tiny_dinov2(layers=4):
    config = tf.Dinov2WithRegistersConfig(
        hidden_size=64, num_hidden_layers=layers, num_attention_heads=1, image_size=28,
        patch_size=14, num_register_tokens=3, mlp_ratio=2,
    )  # fmt: skip
    return _large(tf.Dinov2WithRegistersModel(config))


def tiny_siglip(layers=4, side=32, patch_size=8, width=64):
    config = tf.SiglipVisionConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=1, image_size=side,
        patch_size=patch_size, intermediate_size=96,
    )  # fmt: skip
    return _large(tf.SiglipVisionModel(config))


def published_names(state):
    """Names as transformers 4 and the published files have them."""
    olden = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
    }
    renamed = {}
    for name, value in state.items():
        for new, old in olden.items():
            name = name.replace(new, old)
        renamed[name] = value
    return renamed
