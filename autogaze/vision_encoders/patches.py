"""Pixels of gazed patches, cut from the frames at the patches' scales.

A frame is resized only to the scales of its gazed patches (bicubic, not antialiased, as the
published encoder was trained), and of each scale only the gazed cells are copied. A GPU would have to
be waited for to learn which cells these are: there one kernel computes the gazed ones alone
(`cut_in_triton`), or, where it cannot be had, all cells are cut, and one index takes the gazed ones
of all scales.
"""

import logging
from collections.abc import Sequence
from functools import cache, lru_cache

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from autogaze.geometry import PatchPyramid
from autogaze.utils.device import sent
from autogaze.utils.kernels import failure_of, power_of_two

log = logging.getLogger(__name__)


def gazed_patches(
    frames: Float[Tensor, "F 3 H W"],
    ids: Int[Tensor, " N"],
    frame_of_patch: Int[Tensor, " N"],
    pyramid: PatchPyramid,
    frames_at_once: int = 64,
    offsets: Sequence[int] | None = None,
) -> Float[Tensor, "N 3 p p"]:
    """Pixels of the gazed patches, in their order.

    Args:
        frames: square frames of the pyramid's side; of another size they are resized to it too.
        ids: frame-relative patch ids.
        frames_at_once: frames resized together, which bounds memory.
        offsets: where the patches of each frame begin and the last ones end (F + 1 places), if
            they stand frame by frame.
    """
    if frames.is_cuda and _by_kernel(frames):
        return cut_in_triton(frames, ids, frame_of_patch, pyramid)
    if not may_wait(frames.device):
        return _by_index(frames, ids, frame_of_patch, pyramid, frames_at_once, offsets)
    p = pyramid.patch_size
    patches = frames.new_empty(len(ids), 3, p, p)
    levels = pyramid.levels.to(ids.device)[ids]
    for level, scale in enumerate(pyramid.scales):
        slots = (levels == level).nonzero()[:, 0]
        if not len(slots):
            continue
        cells = ids[slots] - pyramid.offsets[level]
        if frames.shape[-2:] == (scale, scale):
            patches[slots] = cut_cells(frames, frame_of_patch[slots], cells, p)
            continue
        needed, frame = frame_of_patch[slots].unique(return_inverse=True)
        for start in range(0, len(needed), frames_at_once):
            chunk = needed[start : start + frames_at_once]
            here = ((frame >= start) & (frame < start + len(chunk))).nonzero()[:, 0]
            small = resize(frames[chunk], scale)
            patches[slots[here]] = cut_cells(small, frame[here] - start, cells[here], p)
    return patches


def may_wait(device: torch.device) -> bool:
    """Whether values of a tensor can be read without waiting for a queue of operators."""
    return device.type == "cpu"


def _by_kernel(frames: Tensor) -> bool:
    """Whether our kernel can cut patches of these frames of a GPU."""
    if torch.compiler.is_compiling() or (frames.requires_grad and torch.is_grad_enabled()):
        return False
    return not triton_failure(frames.device, frames.dtype)


@cache
def triton_failure(device: torch.device, dtype: torch.dtype) -> str:
    """Why our kernel cannot cut patches on a device; nothing where it can.

    It is tried out on frames of noise.
    """

    def trial() -> str:
        return "" if _cuts_as_pytorch(device, dtype) else "its pixels differ from PyTorch's"

    failure = failure_of(trial)
    if failure:
        log.warning("frames are resized in full to cut patches, which takes longer: %s", failure)
    return failure


@torch.inference_mode()
def _cuts_as_pytorch(device: torch.device, dtype: torch.dtype) -> bool:
    pyramid = PatchPyramid((8, 12, 28), 4)
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(3, 3, 28, 28, generator=generator).to(device, dtype)
    ids = torch.randperm(pyramid.num_patches, generator=generator)[:24].to(device)
    frame = torch.randint(3, (len(ids),), generator=generator).to(device)
    found = cut_in_triton(frames, ids, frame, pyramid)
    wanted = _by_index(frames, ids, frame, pyramid, 64, None)
    # Pixels are about 1 at most. Half precision may be rounded otherwise once, other sums often.
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype, 2 * torch.finfo(dtype).eps)
    finest = ids >= pyramid.offsets[-1]
    if not torch.equal(found[finest], wanted[finest]):
        return False
    return torch.allclose(found.double(), wanted.double(), rtol=0, atol=tolerance)


def _by_index(
    frames: Float[Tensor, "F 3 H W"],
    ids: Int[Tensor, " N"],
    frame_of_patch: Int[Tensor, " N"],
    pyramid: PatchPyramid,
    frames_at_once: int,
    offsets: Sequence[int] | None,
) -> Float[Tensor, "N 3 p p"]:
    """As `gazed_patches`, from all cells of all frames, with shapes known beforehand."""
    p = pyramid.patch_size
    parts: list[Tensor] = []
    anywhere = frames.new_empty(len(ids), 3, p, p)
    for start in range(0, len(frames), frames_at_once):
        cells = _all_cells(frames[start : start + frames_at_once], pyramid)
        count = len(cells)
        if offsets is not None:
            here = slice(offsets[start], offsets[start + count])
            frame = frame_of_patch[here]
            parts.append(cells[frame - start if start else frame, ids[here]])
            continue
        frame = frame_of_patch - start
        inside = (frame >= 0) & (frame < count)
        taken = cells[frame.clamp(0, count - 1), ids]
        anywhere = torch.where(inside[:, None, None, None], taken, anywhere)
    if not parts:
        return anywhere
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _all_cells(
    frames: Float[Tensor, "F 3 H W"], pyramid: PatchPyramid
) -> Float[Tensor, "F V 3 p p"]:
    """The cells of all scales of frames, by id."""
    p = pyramid.patch_size
    cells = frames.new_empty(len(frames), pyramid.num_patches, 3, p, p)
    for scale, grid, first in zip(pyramid.scales, pyramid.grids, pyramid.offsets, strict=True):
        small = frames if frames.shape[-2:] == (scale, scale) else resize(frames, scale)
        place = cells[:, first : first + grid**2].unflatten(1, (grid, grid))
        place.copy_(_cells(small, p).permute(0, 2, 4, 1, 3, 5))  # (F, grid, grid, 3, p, p)
    return cells


def resize(frames: Float[Tensor, "F 3 H W"], scale: int) -> Float[Tensor, "F 3 s s"]:
    """Frames at another scale: bicubic, not antialiased."""
    return F.interpolate(frames, size=(scale, scale), mode="bicubic", align_corners=False)


def cut_cells(
    frames: Shaped[Tensor, "F 3 s s"],
    frame: Int[Tensor, " n"],
    cell: Int[Tensor, " n"],
    patch_size: int,
) -> Shaped[Tensor, "n 3 p p"]:
    """Cells of frames, numbered row by row; a remainder at the border belongs to none."""
    grid = frames.shape[-1] // patch_size
    return _cells(frames, patch_size)[frame, :, cell // grid, :, cell % grid]


def _cells(
    frames: Shaped[Tensor, "F 3 s s"], patch_size: int
) -> Shaped[Tensor, "F 3 grid p grid2 p2"]:
    """A view of all whole cells, by row and column."""
    grid = frames.shape[-1] // patch_size
    covered = frames[..., : grid * patch_size, : grid * patch_size]
    return covered.unflatten(-1, (grid, patch_size)).unflatten(-3, (grid, patch_size))


def cut_in_triton(
    frames: Float[Tensor, "F 3 H W"],
    ids: Int[Tensor, " N"],
    frame_of_patch: Int[Tensor, " N"],
    pyramid: PatchPyramid,
) -> Float[Tensor, "N 3 p p"]:
    """As `gazed_patches`; it has no gradients.

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
            BLOCK=power_of_two(p),
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
