"""Every family that can be gazed, tiny and with random weights, and how it is called dense."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

from autogaze import Gaze, PatchPyramid

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
DINOV2 = {key: value for key, value in SMALL.items() if key != "intermediate_size"} | {
    "mlp_ratio": 2
}


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        build: makes the model.
        side: side of the images it was configured for.
        other_side: another side, for which its positions have to be interpolated.
        interpolates: whether its forward has to be asked for that.
    """

    build: Callable[..., nn.Module]
    side: int = 64
    other_side: int = 96
    patch_size: int = 16
    options: dict[str, Any] = field(default_factory=dict)
    interpolates: bool = True

    def model(self, seed: int = 0, **changes: Any) -> Any:
        torch.manual_seed(seed)
        return with_large_weights(self.build(**{**self.options, **changes}).eval(), seed)

    def pyramid(self, *scales: int) -> PatchPyramid:
        return PatchPyramid(scales or (self.side,), self.patch_size, crop=True)

    def dense(self, model: nn.Module, images: Tensor, **options: Any) -> Any:
        """What the untouched model says to images (F, 3, S, S)."""
        if isinstance(model, tf.Siglip2VisionModel):
            return model(**naflex_input(images, self.patch_size), **options)
        if isinstance(model, tf.InternVLVisionModel):
            # transformers 4 asks its configuration alone.
            model.config.output_hidden_states = options.pop("output_hidden_states", False)
        if self.interpolates and images.shape[-1] != self.side:
            options["interpolate_pos_encoding"] = True
        return model(images, **options)


def _siglip(**options: Any) -> nn.Module:
    config = {"image_size": 64, "patch_size": 16, **{**SMALL, **options}}
    return tf.SiglipVisionModel(tf.SiglipVisionConfig(**config))


def _siglip2(**options: Any) -> nn.Module:
    return tf.Siglip2VisionModel(tf.Siglip2VisionConfig(num_patches=16, **{**SMALL, **options}))


def _dinov2(**options: Any) -> nn.Module:
    return tf.Dinov2Model(tf.Dinov2Config(image_size=64, patch_size=16, **{**DINOV2, **options}))


def _dinov2_with_registers(**options: Any) -> nn.Module:
    config = tf.Dinov2WithRegistersConfig(
        image_size=64, patch_size=16, num_register_tokens=3, **{**DINOV2, **options}
    )
    return tf.Dinov2WithRegistersModel(config)


def _dinov3(**options: Any) -> nn.Module:
    config = tf.DINOv3ViTConfig(
        image_size=64, patch_size=16, num_register_tokens=2, **{**SMALL, **options}
    )
    return tf.DINOv3ViTModel(config)


def _clip(**options: Any) -> nn.Module:
    config = tf.CLIPVisionConfig(image_size=64, patch_size=16, **{**SMALL, **options})
    return tf.CLIPVisionModel(config)


def _vit(pooler: bool = True, **options: Any) -> nn.Module:
    config = tf.ViTConfig(image_size=64, patch_size=16, **{**SMALL, **options})
    return tf.ViTModel(config, add_pooling_layer=pooler)


def _smolvlm(**options: Any) -> nn.Module:
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    config = SmolVLMVisionConfig(image_size=64, patch_size=16, **{**SMALL, **options})
    return tf.SmolVLMVisionTransformer(config)


def _internvl(**options: Any) -> nn.Module:
    sides = {"image_size": [64, 64], "patch_size": [16, 16]}
    config = tf.InternVLVisionConfig(
        **sides, use_absolute_position_embeddings=True, **{**SMALL, **options}
    )
    return tf.InternVLVisionModel(config)


FAMILIES = {
    "siglip": Family(_siglip),
    # 4 cells of 14 pixels and 8 pixels left over, as SO400M/14-384 has.
    "siglip-cropped": Family(_siglip, other_side=90, patch_size=14, options={"patch_size": 14}),
    "siglip-headless": Family(_siglip, options={"vision_use_head": False}),
    "siglip2-naflex": Family(_siglip2, interpolates=False),
    "dinov2": Family(_dinov2, interpolates=False),
    "dinov2-swiglu": Family(_dinov2, interpolates=False, options={"use_swiglu_ffn": True}),
    "dinov2-registers": Family(_dinov2_with_registers, interpolates=False),
    "dinov3": Family(_dinov3, interpolates=False),
    "dinov3-gated": Family(
        _dinov3, interpolates=False, options={"use_gated_mlp": True, "key_bias": True}
    ),
    "clip": Family(_clip),
    "vit": Family(_vit),
    "vit-without-pooler": Family(_vit, options={"pooler": False}),
    "smolvlm": Family(_smolvlm, interpolates=False),
    "internvl": Family(_internvl, interpolates=False),
    "internvl-normed": Family(
        _internvl,
        interpolates=False,
        options={"use_mean_pooling": False, "use_qk_norm": True, "norm_type": "rms_norm"},
    ),
}


def with_large_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights so large that whatever is done otherwise shows: positions as large as
    pixels, attention far from even, norms and layer scales that do something.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if any(part in name for part in ("position", "token", "probe", "class_embedding")):
            value = drawn
        elif parameter.ndim > 1:
            value = 1.5 * drawn / parameter[0].numel() ** 0.5
        elif name.endswith("bias"):
            value = 0.3 * drawn
        else:
            value = 1 + 0.3 * drawn
        parameter.data.copy_(value)
    return model


def naflex_input(images: Tensor, p: int) -> dict[str, Tensor]:
    """Images as SigLIP2 NaFlex's processor cuts them: flat patches, colours last."""
    count, grid = len(images), images.shape[-1] // p
    cells = images.view(count, 3, grid, p, grid, p).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": cells.reshape(count, grid * grid, -1),
        "pixel_attention_mask": torch.ones(count, grid * grid, dtype=torch.long),
        "spatial_shapes": torch.tensor([[grid, grid]] * count),
    }


def random_frames(clips: int, frames: int, side: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, frames, 3, side, side, generator=generator)


def random_gaze(
    pyramid: PatchPyramid, clips: int, frames: int, seed: int = 0, most: int = 9
) -> Gaze:
    """1 to `most` patches of every frame, in random order."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(
        1, min(most, pyramid.num_patches) + 1, (clips, frames), generator=generator
    )
    ids = [
        torch.randperm(pyramid.num_patches, generator=generator)[:count]
        for count in lengths.flatten().tolist()
    ]
    return Gaze(pyramid, torch.cat(ids), lengths)


def assert_close(found: Tensor | None, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
