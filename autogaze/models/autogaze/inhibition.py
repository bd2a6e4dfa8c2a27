"""Inhibition of return: a patch gazed at before has its probability scaled by its change since.

The decoder attends to all earlier gazes, but after a few hours of training it hardly uses them:
in a static scene it takes the same patches in every frame. Human gaze does not (Posner and Cohen,
1984), and no weights are needed for that: the probability of a patch is multiplied by how much it
has changed since it was gazed at,

    min(1, mean |pixels now - pixels then| / full_change + FLOOR),

pixels being those of its scale. A patch that a later, coarser one covers counts as new. Not part
of the AutoGaze paper.

`new_inhibition` takes two kernels (`frame_triton_kernels.py`) in place of forty operators where a GPU has
Triton; they are compared with PyTorch's operators first. There the change of patches that were not gazed
at is not computed.
"""

import logging
from functools import cache, lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import check_inhibition
from autogaze.reconstruction.resample import shrink
from autogaze.utils.device import constant
from autogaze.utils.kernels import failure_of, power_of_two
from autogaze.utils.normalization import IMAGENET

FLOOR = 0.02
"""Factor on the probability of an unchanged patch."""

DEVIATION = tuple(std / 2 for std in IMAGENET.std)
"""Of which differences of normalised colours are multiples, so that they are differences in [0, 1]."""


class InhibitionOfReturn:
    """Weights on patch probabilities of B rows, from every patch's pixels at its last gaze.

    Args:
        full_change: mean difference of pixel values in [0, 1] from which on a patch is not
            inhibited.

    Attributes:
        then: pixels of all patches at their last gaze, and a slot for padding behind them; None
            before the first frame.
        visible: True where a patch was gazed at and has not been covered since.

    Raises:
        CheckpointError: a change that is not finite and above 0.
    """

    def __init__(self, pyramid: PatchPyramid, full_change: float) -> None:
        check_inhibition(full_change)
        self.pyramid, self.full_change = pyramid, float(full_change)
        self.then: Float[Tensor, "B V1 values"] | None = None
        self.visible: Bool[Tensor, "B V"] | None = None

    def pixels(self, frames: Float[Tensor, "B T 3 S S"]) -> Float[Tensor, "B T V values"]:
        """As `patch_pixels`."""
        return patch_pixels(frames, self.pyramid)

    def log_weights(self, now: Float[Tensor, "B V values"]) -> Float[Tensor, "B V"]:
        """Terms to add to the logits of a frame, at most 0.

        Args:
            now: the frame's patches, see `patch_pixels`.
        """
        if self.then is None or self.visible is None:
            return now.new_zeros(now.shape[:2])
        change = (now - self.then[:, :-1]).abs_().mean(-1)
        share = (change / self.full_change + FLOOR).clamp_(max=1)
        return torch.where(self.visible, share.log_(), 0)

    def update(
        self, now: Float[Tensor, "B V values"], ids: Int[Tensor, "B k"], kept: Bool[Tensor, "B k"]
    ) -> None:
        """Record the frame's gazes: those of `ids` that are `kept`."""
        B, V, _ = now.shape
        then, visible = self.memory(now)
        rows, slots = torch.arange(B, device=ids.device)[:, None], torch.where(kept, ids, V)
        # Few patches are gazed at, so only their pixels are written.
        then[rows, slots] = now[rows, slots.clamp(max=V - 1)]
        gazed = kept.new_zeros(B, V + 1).scatter_(1, slots, True)[:, :V]
        covered = (gazed.float() @ finer_beneath(self.pyramid, gazed.device)).bool()
        torch.logical_or(visible & ~covered, gazed, out=visible)

    def memory(
        self, now: Float[Tensor, "B V values"]
    ) -> tuple[Float[Tensor, "B V1 values"], Bool[Tensor, "B V"]]:
        """`then` and `visible`, which are made before the first update."""
        if self.then is None or self.visible is None:
            B, V, values = now.shape
            with torch.inference_mode(False):  # so that every mode may write them
                self.then = now.new_zeros(B, V + 1, values)
                self.visible = torch.zeros(B, V, dtype=torch.bool, device=now.device)
        return self.then, self.visible


def patch_pixels(
    frames: Float[Tensor, "*batch 3 S S"], pyramid: PatchPyramid
) -> Float[Tensor, "*batch V values"]:
    """The pixels of all patches, each at its own scale, up to a constant.

    Args:
        frames: normalised (`processing.normalise`), of side `pyramid.side`.

    Returns:
        Colours of which differences are those of pixels in [0, 1].
    """
    size = pyramid.patch_size
    deviation = constant(DEVIATION, frames.device)[:, None, None]
    colours, parts = frames.float() * deviation, []
    for scale, grid in zip(pyramid.scales, pyramid.grids, strict=True):
        small = colours if scale == pyramid.side else shrink(colours, scale)
        cells = small.unflatten(-1, (grid, size)).unflatten(-3, (grid, size))
        # (..., 3, row, y, column, x) to (..., cells, 3 * y * x)
        parts.append(cells.movedim((-4, -2), (-5, -4)).flatten(-5, -4).flatten(-3))
    return torch.cat(parts, -2)


@lru_cache(maxsize=16)
def finer_beneath(pyramid: PatchPyramid, device: torch.device) -> Float[Tensor, "V V"]:
    """1 where the patch of the row overlaps the finer patch of the column."""
    with torch.inference_mode(False):  # cached, so it must be usable in every mode
        beneath = torch.zeros(pyramid.num_patches, pyramid.num_patches)
        for patch, level in enumerate(pyramid.levels.tolist()):
            for scale in pyramid.scales[level + 1 :]:
                beneath[patch, list(pyramid.overlapping(patch, scale))] = 1
        return beneath.to(device)


log = logging.getLogger(__name__)


class TritonInhibition(InhibitionOfReturn):
    """`InhibitionOfReturn` in kernels: a frame's gazes are remembered with the next frame's weights.

    Until then `then` and `visible` are of the frame before.
    """

    def __init__(self, pyramid: PatchPyramid, full_change: float) -> None:
        super().__init__(pyramid, full_change)
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None  # pixels, ids, and which are kept

    def pixels(self, frames: Float[Tensor, "B T 3 S S"]) -> Float[Tensor, "B T V values"]:
        from autogaze.models.autogaze import frame_triton_kernels as kernels

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
                    BLOCK=power_of_two(size**2, 2),
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
        self, now: Float[Tensor, "B V values"], ids: Int[Tensor, "B k"], kept: Bool[Tensor, "B k"]
    ) -> None:
        if self._latest is not None:
            self._turn(now, None)
        self.memory(now)
        self._latest = now, ids, kept

    def _turn(self, now: Float[Tensor, "B V values"], weights: Float[Tensor, "B V"] | None) -> None:
        """Remember the latest gaze, if it is not yet, and write weights for a frame, if asked to."""
        from autogaze.models.autogaze import frame_triton_kernels as kernels

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
                BLOCK=power_of_two(values, 2),
                IDS=power_of_two(ids.shape[1], 2) if remembers else 2,
                REMEMBERS=remembers,
                WEIGHS=weighs,
                enable_fp_fusion=False,
            )
        self._latest = None


@cache
def _most_taps(side: int, scale: int) -> int:
    """Pixels of an axis of `side` that one of `scale` overlaps, at most."""
    return max(-(-(i + 1) * side // scale) - i * side // scale for i in range(scale))


@lru_cache(maxsize=16)
def _covers(pyramid: PatchPyramid, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept, so it must be usable in every mode
        return finer_beneath(pyramid, device).to(torch.uint8)


def new_inhibition(
    pyramid: PatchPyramid, full_change: float, device: torch.device
) -> InhibitionOfReturn:
    """The fastest inhibition of return for a device."""
    usable = device.type == "cuda" and not triton_failure(pyramid, device)
    return (TritonInhibition if usable else InhibitionOfReturn)(pyramid, full_change)


@lru_cache(maxsize=64)
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
