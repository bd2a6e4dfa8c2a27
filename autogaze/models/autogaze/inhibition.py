"""Inhibition of return: a patch gazed at before has its probability scaled by its change since.

The decoder attends to all earlier gazes, but after a few hours of training it hardly uses them:
in a static scene it takes the same patches in every frame. Human gaze does not (Posner and Cohen,
1984), and no weights are needed for that: the probability of a patch is multiplied by how much it
has changed since it was gazed at,

    min(1, mean |pixels now - pixels then| / full_change + FLOOR),

pixels being those of its scale. A patch that a later, coarser one covers counts as new. Not part
of the AutoGaze paper.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import check_inhibition
from autogaze.reconstruction.resample import shrink
from autogaze.utils.device import constant
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
        self,
        now: Float[Tensor, "B V values"],
        ids: Int[Tensor, "B k"],
        kept: Bool[Tensor, "B k"],
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
