"""Pixels of gazed patches by one kernel, which resizes nothing but them."""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.utils.device import sent


def cut_in_triton(
    frames: Float[Tensor, "F 3 H W"],
    ids: Int[Tensor, " N"],
    frame_of_patch: Int[Tensor, " N"],
    pyramid: PatchPyramid,
) -> Float[Tensor, "N 3 p p"]:
    """As `patches.gazed_patches`; it has no gradients.

    Raises:
        ImportError: Triton is not installed.
    """
    import triton.language as tl

    from autogaze.vision_encoders import triton_kernels

    p = pyramid.patch_size
    patches = frames.new_empty(len(ids), 3, p, p)
    if not len(ids):
        return patches
    # Within a colour the kernel counts in 32 bits.
    far = max(
        size * stride for size, stride in zip(frames.shape[-2:], frames.stride()[-2:], strict=True)
    )
    frames = frames if far < 2**30 else frames.contiguous()
    with torch.cuda.device_of(frames):  # where Triton launches is the current device, not theirs
        triton_kernels.cut_patches[(len(ids), 3)](
            frames,
            *frames.stride(),
            *frames.shape[-2:],
            ids.contiguous(),
            frame_of_patch.contiguous(),
            _places(pyramid, frames.device),
            patches,
            SIDE=p,
            BLOCK=1 << (p - 1).bit_length(),
            SUM=tl.float64 if frames.dtype == torch.float64 else tl.float32,
            num_warps=1,
            enable_fp_fusion=True,  # as PyTorch's kernel is compiled; Triton warns where nothing is said
        )
    return patches


@lru_cache(maxsize=64)
def _places(pyramid: PatchPyramid, device: torch.device) -> Int[Tensor, "V 3"]:
    """Side of the scale of every patch, and its first row and column there, in pixels."""
    rows = [
        (scale, row * pyramid.patch_size, column * pyramid.patch_size)
        for scale, grid in zip(pyramid.scales, pyramid.grids, strict=True)
        for row in range(grid)
        for column in range(grid)
    ]
    with torch.inference_mode(False):  # kept, so usable in every mode
        return sent(torch.tensor(rows, dtype=torch.int32), device)
