"""Inhibition of return in two kernels, where a GPU has Triton: PyTorch's operators are forty.

Of most patches the change since their last gaze is not needed, since they were not gazed at: here it
is not computed. `new_inhibition` takes these kernels where they work; they are compared with PyTorch's
operators first.
"""

import functools
import logging

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.inhibition import (
    DEVIATION,
    FLOOR,
    InhibitionOfReturn,
    finer_beneath,
)
from autogaze.utils.device import constant
from autogaze.utils.kernels import failure_of

log = logging.getLogger(__name__)


class TritonInhibition(InhibitionOfReturn):
    """`InhibitionOfReturn` in kernels: a frame's gazes are remembered with the next frame's weights.

    Until then `then` and `visible` are of the frame before.
    """

    def __init__(self, pyramid: PatchPyramid, full_change: float) -> None:
        super().__init__(pyramid, full_change)
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None  # pixels, ids, and which are kept

    def pixels(self, frames: Float[Tensor, "B T 3 S S"]) -> Float[Tensor, "B T V values"]:
        from autogaze.models.autogaze import inhibition_triton_kernels as kernels

        pyramid, size = self.pyramid, self.pyramid.patch_size
        if not frames[0, 0].is_contiguous():
            frames = frames.contiguous()
        (B, T), V = frames.shape[:2], pyramid.num_patches
        with torch.cuda.device_of(frames):  # where Triton launches is the current device
            factors = constant(DEVIATION, frames.device)
            out = torch.empty(B, T, V, 3 * size**2, device=frames.device)
            first = 0
            for scale, grid in zip(pyramid.scales, pyramid.grids, strict=True):
                kernels.cut[B * T, grid**2](
                    *(frames, *frames.stride()[:2], T, factors, out, V, first),
                    SIDE=pyramid.side,
                    SCALE=scale,
                    GRID=grid,
                    SIZE=size,
                    TAPS=_most_taps(pyramid.side, scale),
                    BLOCK=_padded(size**2),
                    enable_fp_fusion=True,  # Triton warns where nothing is said
                )
                first += grid**2
        return out

    def log_weights(self, now: Float[Tensor, "B V values"]) -> Float[Tensor, "B V"]:
        if self.then is None or self.visible is None:
            return super().log_weights(now)
        weights = now.new_empty(now.shape[:2])
        self._turn(now, weights)
        return weights

    def update(
        self,
        now: Float[Tensor, "B V values"],
        ids: Int[Tensor, "B k"],
        kept: Bool[Tensor, "B k"],
    ) -> None:
        if self._latest is not None:
            self._turn(now, None)
        self.memory(now)
        self._latest = now, ids, kept

    def _turn(self, now: Float[Tensor, "B V values"], weights: Float[Tensor, "B V"] | None) -> None:
        """Remember the latest gaze, if it is not yet, and write weights for a frame, if asked to."""
        from autogaze.models.autogaze import inhibition_triton_kernels as kernels

        B, V, values = now.shape
        then, visible = self.memory(now)
        remembers, weighs = self._latest is not None, weights is not None
        nothing = now, visible, visible  # which is not read
        before, ids, kept = self._latest or nothing
        with torch.cuda.device_of(now):  # where Triton launches is the current device
            kernels.turn[B, V](
                *(then, visible.view(torch.uint8), V, values, before, before.stride(0)),
                *(ids, ids.stride(0), kept.view(torch.uint8), kept.stride(0), ids.shape[1]),
                *(_covers(self.pyramid, now.device), now, now.stride(0)),
                *(self.full_change, FLOOR, now if weights is None else weights),
                BLOCK=_padded(values),
                IDS=_padded(ids.shape[1]) if remembers else 2,
                REMEMBERS=remembers,
                WEIGHS=weighs,
                enable_fp_fusion=False,
            )
        self._latest = None


@functools.cache
def _most_taps(side: int, scale: int) -> int:
    """Pixels of an axis of `side` that one of `scale` overlaps, at most."""
    return max(-(-(i + 1) * side // scale) - i * side // scale for i in range(scale))


def _padded(number: int) -> int:
    """The least power of two that is not below a number, and at least 2."""
    return 1 << max(1, (number - 1).bit_length())


@functools.lru_cache(maxsize=16)
def _covers(pyramid: PatchPyramid, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept, so it must be usable in every mode
        return finer_beneath(pyramid, device).to(torch.uint8)


def new_inhibition(
    pyramid: PatchPyramid, full_change: float, device: torch.device
) -> InhibitionOfReturn:
    """The fastest inhibition of return for a device."""
    usable = device.type == "cuda" and not triton_failure(pyramid, device)
    return (TritonInhibition if usable else InhibitionOfReturn)(pyramid, full_change)


@functools.lru_cache(maxsize=64)
def triton_failure(pyramid: PatchPyramid, device: torch.device) -> str:
    """Why Triton's kernels cannot be used for a pyramid; nothing where they can."""
    failure = failure_of(lambda: differing(pyramid, device))
    if failure:
        log.warning("return is inhibited by PyTorch's operators, which takes longer: %s", failure)
    return failure


@torch.no_grad()
def differing(pyramid: PatchPyramid, device: torch.device) -> str:
    """What Triton's kernels compute otherwise than PyTorch's, on random frames; empty if nothing."""
    generator = torch.Generator().manual_seed(0)
    V = pyramid.num_patches
    both = [kind(pyramid, 0.3) for kind in (InhibitionOfReturn, TritonInhibition)]
    frames = torch.randn(2, 3, 3, pyramid.side, pyramid.side, generator=generator).to(device)
    pixels = [each.pixels(frames) for each in both]
    if not _close(*pixels):
        return "pixels of patches differ from PyTorch's"
    for t in range(3):
        ids = torch.rand(2, V, generator=generator).argsort(1)[:, : max(1, V // 8)].to(device)
        kept = (torch.rand(ids.shape, generator=generator) < 0.8).to(device)
        weights = []
        for one, now in zip(both, pixels, strict=True):
            weights.append(one.log_weights(now[:, t]))
            one.update(now[:, t], ids, kept)
        if not _close(*weights):
            return "it weighs patches otherwise than PyTorch"
    return ""


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)
