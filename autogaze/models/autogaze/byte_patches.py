"""Patches of frames in bytes, cut and normalised by one kernel on a GPU, where PyTorch copies all pixels six times."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.models.autogaze.triton_layer_ops import BLOCK, FUSED, is_usable, of_products
from autogaze.utils.device import constant
from autogaze.utils.normalization import IMAGENET

FACTORS = (
    *(2 / std for std in IMAGENET.std),
    *((1 + mean) / std for mean, std in zip(IMAGENET.mean, IMAGENET.std, strict=True)),
)
"""What each colour in [0, 1] is multiplied by, and what is subtracted then: as `gaze_model.normalise`."""


def byte_patches(
    frames: UInt8[Tensor, "B T 3 S S"], weight: Float[Tensor, "C values"], patch: int
) -> Float[Tensor, "B T h w values"] | None:
    """Normalised patches for a product with `weight`, their values in the order of a convolution's.

    None where there is no kernel for them.
    """
    dtype = of_products(weight)
    device = frames.device
    usable = is_usable(
        f"patches of {patch} pixels", device, dtype, lambda: _difference(device, dtype, patch)
    )
    return _in_triton(frames, dtype, patch) if usable else None


def _in_triton(
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


def _difference(device: torch.device, dtype: torch.dtype, patch: int) -> float:
    """The largest difference of the kernel from PyTorch's, as a share of the largest."""
    pixels = torch.arange(2 * 3 * (3 * patch) ** 2, device=device) * 7 % 256
    frames = pixels.to(torch.uint8).view(1, 2, 3, 3 * patch, 3 * patch)
    factor, shift = constant(FACTORS, device).view(2, 3, 1, 1)
    video = (frames.float() / 255 * factor - shift).view(2, 3, 3, patch, 3, patch)
    expected = video.permute(0, 2, 4, 1, 3, 5).reshape(1, 2, 3, 3, -1)
    found = _in_triton(frames, dtype, patch).float()
    return float((found - expected).abs().max() / expected.abs().max())
