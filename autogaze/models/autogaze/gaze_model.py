"""The network: vision stem, position embedding and gaze decoder, under the checkpoint's names."""

from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.models.autogaze.configuration import (
    ConnectorConfig,
    GazeModelConfig,
    VisionModelConfig,
)
from autogaze.models.autogaze.decoder import GazeDecoder
from autogaze.models.autogaze.decoding import ConvHistory
from autogaze.models.autogaze.hook import GazingHook
from autogaze.models.autogaze.layer_ops import BLOCK, FUSED, is_usable, of_products
from autogaze.models.autogaze.static_shapes import StaticStates
from autogaze.utils.device import constant
from autogaze.utils.normalization import IMAGENET


class GazeModel(nn.Module):
    """All modules that carry weights.

    Attributes:
        hook: rules for what is chosen (`autogaze.models.autogaze.hook`); None: no more than the
            call's own limits.
        static_states: what gazing with shapes that never change allocates once; not part of the
            weights, and dropped when these move to another device or precision.
    """

    def __init__(self, config: GazeModelConfig) -> None:
        super().__init__()
        self.config = config
        self.hook: GazingHook | None = None
        self.vision_model = VisionStem(config.vision_model_config)
        self.connector = Connector(config.connector_config)
        self.gaze_decoder = GazeDecoder(config.gaze_decoder_config)
        self.static_states = StaticStates(config.connector_config.num_tokens)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.static_states.clear()
        return super()._apply(fn, recurse)

    def vision_tokens(
        self, video: Float[Tensor, "B T 3 H W"], history: ConvHistory | None = None
    ) -> tuple[Float[Tensor, "B T tokens C"], ConvHistory]:
        """Vision tokens of normalised frames, positions added, and the history of the next frames."""
        positions = self.connector.pos_embed  # (tokens, C)
        video = resize_clip(video, self.config.input_img_size).to(positions.dtype)
        tokens, history = self.vision_model(video, history)
        return tokens + positions, history

    def tokens_of_bytes(self, frames: UInt8[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T tokens C"]:
        """Vision tokens of RGB in bytes, which are normalised here."""
        side = self.config.input_img_size
        if frames.shape[-2:] != (side, side):
            return self.vision_tokens(normalise(frames.float() / 255, in_place=True))[0]
        tokens, _ = self.vision_model(frames)
        return tokens + self.connector.pos_embed


class Connector(nn.Module):
    """Position embedding of vision tokens."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(config.num_tokens, config.hidden_dim))


class VisionStem(nn.Module):
    """Patch embedding and causal 3-D convolutions: 14 x 14 vision tokens per 224-pixel frame."""

    def __init__(self, config: VisionModelConfig) -> None:
        super().__init__()
        width, patch = config.hidden_dim, config.kernel_size
        self.temporal_conv = nn.Conv3d(3, width, (1, patch, patch), stride=(1, patch, patch))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            CausalConv3d(width, config.trunk_temporal_kernel_size, config.trunk_spatial_kernel_size)
            for _ in range(config.depth)
        )
        self.out_proj = nn.Conv3d(width, config.out_dim, 1)

    def forward(
        self, video: Shaped[Tensor, "B T 3 S S"], history: ConvHistory | None = None
    ) -> tuple[Float[Tensor, "B T tokens C"], ConvHistory]:
        """Tokens of every frame, row-major, and the history of the next frames.

        Args:
            video: normalised, or RGB in bytes.
        """
        if video.device.type == "cpu" and not torch.is_grad_enabled():
            # Clip by clip: cutting patches copies all pixels.
            tokens = torch.cat([self._patch_tokens(clip) for clip in video.split(1)])
        else:
            tokens = self._patch_tokens(video)
        frames = self.norm(tokens).permute(0, 4, 1, 2, 3)  # (B, C, T, grid, grid)
        updated = []
        for index, block in enumerate(self.blocks):
            frames, last = block(frames, history[index] if history else None)
            updated.append(last)
        tokens = frames.permute(0, 2, 3, 4, 1).flatten(2, 3)  # (B, T, tokens, C)
        return F.linear(tokens, self.out_proj.weight.flatten(1), self.out_proj.bias), updated

    def _patch_tokens(self, video: Shaped[Tensor, "B T 3 S S"]) -> Float[Tensor, "B T h w C"]:
        """`temporal_conv`: patches do not overlap, so that the convolution is one matrix product."""
        B, T = video.shape[:2]
        patch = self.temporal_conv.kernel_size[-1]
        grid = video.shape[-1] // patch
        weight = self.temporal_conv.weight.flatten(1)
        patches = None
        if video.dtype == torch.uint8:
            patches = byte_patches(video, weight, patch)
            if patches is None:
                video = normalise(video.float() / 255, in_place=True).to(weight.dtype)
        if patches is None:
            cut = video.view(B, T, 3, grid, patch, grid, patch).permute(0, 1, 3, 5, 2, 4, 6)
            patches = cut.reshape(B, T, grid, grid, -1)  # of (3, patch, patch) values
        return F.linear(patches, weight, self.temporal_conv.bias)


class CausalConv3d(nn.Module):
    """A 3-D convolution over a frame and the two before it, then ReLU."""

    def __init__(self, channels: int, temporal_kernel: int, spatial_kernel: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(
            channels,
            channels,
            (temporal_kernel, spatial_kernel, spatial_kernel),
            padding=(0, spatial_kernel // 2, spatial_kernel // 2),
        )
        self.num_earlier = temporal_kernel - 1

    def forward(
        self, frames: Float[Tensor, "B C T h w"], history: Tensor | None
    ) -> tuple[Float[Tensor, "B C T h w"], Tensor]:
        if frames.is_cuda:
            # At once what autocast would make of them, so that channels stay together.
            frames = frames.to(of_products(frames))
        if history is None:
            B, C, _, h, w = frames.shape
            if _channels_last(frames):
                history = frames.new_zeros(B, self.num_earlier, h, w, C).permute(0, 4, 1, 2, 3)
            else:
                history = frames.new_zeros(B, C, self.num_earlier, h, w)
        frames = torch.cat([history, frames], dim=2)
        convolved = _in_float32(self.conv3d, frames) if _may_round(frames) else self.conv3d(frames)
        return F.relu(convolved), frames[:, :, frames.shape[2] - self.num_earlier :]


def _channels_last(frames: Float[Tensor, "B C T h w"]) -> bool:
    """Whether channels, which are side by side, stay so: half-precision convolutions of a GPU want it."""
    return frames.is_cuda and frames.dtype in (torch.float16, torch.bfloat16)


def _may_round(frames: Tensor) -> bool:
    """Whether cuDNN may round the factors of a float32 convolution to TF32, as it does by default."""
    return (
        frames.is_cuda
        and frames.dtype == torch.float32
        and not torch.is_autocast_enabled("cuda")
        and torch.version.hip is None
        and torch.backends.cudnn.is_available()
        and torch.backends.cudnn.enabled
    )


def _in_float32(conv: nn.Conv3d, frames: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B D t h w"]:
    """The convolution without TF32, so that gazes are a CPU's, whatever is set for all of PyTorch."""
    cudnn = torch.backends.cudnn
    convolved = torch.cudnn_convolution(
        frames,
        conv.weight,
        conv.padding,  # type: ignore[arg-type]
        conv.stride,
        conv.dilation,
        conv.groups,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
    return convolved if conv.bias is None else convolved + conv.bias[:, None, None, None]


def normalise(
    frames: Float[Tensor, "*B 3 H W"], *, in_place: bool = False
) -> Float[Tensor, "*B 3 H W"]:
    """Normalise float frames in [0, 1] that are already resized, as `AutoGazeImageProcessor` does."""
    mean, std = (
        constant(values, frames.device)[:, None, None].to(frames.dtype)
        for values in (IMAGENET.mean, IMAGENET.std)
    )
    scaled = frames.mul_(2 / std) if in_place else frames * (2 / std)
    return scaled.sub_((1 + mean) / std)


def normalised_at_once(
    frames: Float[Tensor, "*B 3 H W"], dtype: torch.dtype
) -> Float[Tensor, "*B 3 H W"]:
    """As `normalise`, then rounded to another precision, in one kernel: a GPU is bound by memory here."""
    pairs = list(zip(IMAGENET.mean, IMAGENET.std, strict=True))
    scale = constant(tuple(2 / std for _, std in pairs), frames.device)[:, None, None]
    start = constant(tuple(-(1 + mean) / std for mean, std in pairs), frames.device)
    out = torch.empty_like(frames, dtype=dtype)
    return torch.addcmul(start[:, None, None], frames, scale, out=out)


def resize_clip(video: Float[Tensor, "B T 3 H W"], side: int) -> Float[Tensor, "B T 3 side side"]:
    """Resize frames (bicubic, not antialiased, corners not aligned) unless they have this size."""
    if video.shape[-2:] == (side, side):
        return video
    frames = F.interpolate(video.flatten(0, 1), (side, side), mode="bicubic", align_corners=False)
    return frames.unflatten(0, video.shape[:2])


FACTORS = (
    *(2 / std for std in IMAGENET.std),
    *((1 + mean) / std for mean, std in zip(IMAGENET.mean, IMAGENET.std, strict=True)),
)
"""What each colour in [0, 1] is multiplied by, and what is subtracted then: as `normalise`."""


def byte_patches(
    frames: UInt8[Tensor, "B T 3 S S"], weight: Float[Tensor, "C values"], patch: int
) -> Float[Tensor, "B T h w values"] | None:
    """Normalised patches for a product with `weight`, their values in the order of a convolution's.

    None where there is no kernel for them.
    """
    dtype = of_products(weight)
    device = frames.device
    usable = is_usable(
        f"patches of {patch} pixels",
        device,
        dtype,
        lambda: _difference_of_patches(device, dtype, patch),
    )
    return _patches_in_triton(frames, dtype, patch) if usable else None


def _patches_in_triton(
    frames: UInt8[Tensor, "B T 3 S S"], dtype: torch.dtype, patch: int
) -> Float[Tensor, "B T h w values"]:
    from autogaze.models.autogaze import layer_triton_kernels as kernels

    B, T, _, S, _ = frames.shape
    grid, factors = S // patch, constant(FACTORS, frames.device)
    cut = torch.empty(B, T, grid, grid, 3 * patch**2, dtype=dtype, device=frames.device)
    with torch.cuda.device_of(frames):
        kernels.cut_patches[(max(1, -(-cut.numel() // BLOCK)),)](
            *(frames.contiguous(), factors, cut, cut.numel(), S),
            **{"GRID": grid, "PATCH": patch, "BLOCK": BLOCK},
            **FUSED,
        )
    return cut


def _difference_of_patches(device: torch.device, dtype: torch.dtype, patch: int) -> float:
    """The largest difference of the kernel from PyTorch's, as a share of the largest."""
    pixels = torch.arange(2 * 3 * (3 * patch) ** 2, device=device) * 7 % 256
    frames = pixels.to(torch.uint8).view(1, 2, 3, 3 * patch, 3 * patch)
    factor, shift = constant(FACTORS, device).view(2, 3, 1, 1)
    video = (frames.float() / 255 * factor - shift).view(2, 3, 3, patch, 3, patch)
    expected = video.permute(0, 2, 4, 1, 3, 5).reshape(1, 2, 3, 3, -1)
    found = _patches_in_triton(frames, dtype, patch).float()
    return float((found - expected).abs().max() / expected.abs().max())
