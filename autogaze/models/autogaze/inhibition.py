"""Inhibition of return: a patch gazed at before is as likely as it has changed since.

The decoder attends to all earlier gazes, but weights that were trained for hours hardly
learn to use them: in a still scene they take the same patches in every frame. People do not
(Posner and Cohen, 1984), and no weights are needed for it: the probability of a patch is
multiplied by how much of it has changed since it was gazed at,

    min(1, mean |pixels now - pixels then| / full_change + FLOOR),

pixels being those of its scale. A patch over which a coarser one was painted later is
no longer visible, and counts as new. Not part of AutoGaze's paper.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import check_inhibition
from autogaze.reconstruction.resample import shrink
from autogaze.utils.normalization import IMAGENET

FLOOR = 0.02
"""What is left of the probability of a patch that has not changed at all."""


class InhibitionOfReturn:
    """Pixels of B rows, patch by patch, as they were when last gazed at.

    Args:
        pyramid: the patches.
        full_change: mean difference of pixel values in [0, 1] from which on a patch is as
            likely as if it had never been gazed at.

    Attributes:
        then: pixels of all patches at their last gaze; None before the first frame.
        visible: whether a patch was gazed at and not painted over since.

    Raises:
        CheckpointError: a change that is not finite and above 0.
    """

    def __init__(self, pyramid: PatchPyramid, full_change: float) -> None:
        check_inhibition(full_change)
        self.pyramid, self.full_change = pyramid, full_change
        self.then: Float[Tensor, "B V values"] | None = None
        self.visible: Bool[Tensor, "B V"] | None = None

    def log_weights(self, now: Float[Tensor, "B V values"]) -> Float[Tensor, "B V"]:
        """What is added to the logits of a frame: 0 where a patch would show something new.

        Args:
            now: the frame's patches, see `patch_pixels`.
        """
        if self.then is None or self.visible is None:
            return now.new_zeros(now.shape[:2])
        change = (now - self.then).abs_().mean(-1)
        share = (change / self.full_change + FLOOR).clamp_(max=1)
        return torch.where(self.visible, share.log_(), 0)

    def update(
        self,
        now: Float[Tensor, "B V values"],
        ids: Int[Tensor, "B k"],
        kept: Bool[Tensor, "B k"],
    ) -> None:
        """Count the frame's gazes in: those of `ids` that are `kept`."""
        B, V = now.shape[:2]
        gazed = kept.new_zeros(B, V + 1).scatter_(1, torch.where(kept, ids, V), True)[:, :V]
        if self.then is None or self.visible is None:
            self.then, self.visible = now.clone(), gazed
            return
        self.then = torch.where(gazed[..., None], now, self.then)
        covered = (gazed.float() @ _finer_beneath(self.pyramid, gazed.device)).bool()
        self.visible = (self.visible & ~covered) | gazed


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
    deviation = torch.tensor(IMAGENET.std, device=frames.device)[:, None, None]
    colours, parts = frames.float() * (deviation / 2), []
    for scale, grid in zip(pyramid.scales, pyramid.grids, strict=True):
        small = colours if scale == pyramid.side else shrink(colours, scale)
        cells = small.unflatten(-1, (grid, size)).unflatten(-3, (grid, size))
        # (..., 3, row, y, column, x) to (..., cells, 3 * y * x)
        parts.append(cells.movedim((-4, -2), (-5, -4)).flatten(-5, -4).flatten(-3))
    return torch.cat(parts, -2)


@lru_cache(maxsize=16)
def _finer_beneath(pyramid: PatchPyramid, device: torch.device) -> Float[Tensor, "V V"]:
    """1 where the patch of the row lies over some of the finer one of the column."""
    with torch.inference_mode(False):  # kept for good, so usable in every mode
        beneath = torch.zeros(pyramid.num_patches, pyramid.num_patches)
        for patch, level in enumerate(pyramid.levels.tolist()):
            for scale in pyramid.scales[level + 1 :]:
                beneath[patch, list(pyramid.overlapping(patch, scale))] = 1
        return beneath.to(device)
