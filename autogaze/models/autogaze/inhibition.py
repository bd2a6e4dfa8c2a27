"""Inhibition of return: what was seen is seldom looked at again before it has changed.

All gazes at earlier frames are in the decoder's memory, but weights that were trained
for hours hardly learn to use it: in a still scene they take the same patches in every
frame. People do not (Posner and Cohen, 1984), and no weights are needed for it: the
probability of a patch is multiplied by how much of it has changed since it was gazed at,

    min(1, mean |pixels now - pixels then| / full_change + FLOOR),

pixels being those of its scale. A patch over which a coarser one was painted later is
no longer shown, and counts as new. Not part of AutoGaze's paper.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import check_inhibition
from autogaze.models.autogaze.processing import to_unit_steps
from autogaze.reconstruction.resample import shrink

FLOOR = 0.02
"""What is left of the probability of a patch that has not changed at all."""


class ReturnMemory:
    """What was shown of B rows, patch by patch, when it was last gazed at.

    Args:
        pyramid: the patches.
        full_change: mean difference of pixel values in [0, 1] from which on a patch is as
            likely as if it had never been gazed at.

    Raises:
        CheckpointError: a change that is not finite and above 0.
    """

    def __init__(self, pyramid: PatchPyramid, full_change: float) -> None:
        check_inhibition(full_change)
        self.pyramid, self.full_change = pyramid, full_change
        self.shown: Float[Tensor, "B V values"] | None = None
        self.is_shown: Bool[Tensor, "B V"] | None = None

    def log_weights(self, patches: Float[Tensor, "B V values"]) -> Float[Tensor, "B V"]:
        """What is added to the logits of a frame: 0 where a patch would show something new.

        Args:
            patches: of the frame, see `patch_pixels`.
        """
        if self.shown is None or self.is_shown is None:
            return patches.new_zeros(patches.shape[:2])
        change = (patches - self.shown).abs_().mean(-1)
        share = (change / self.full_change + FLOOR).clamp_(max=1)
        return torch.where(self.is_shown, share.log_(), 0)

    def remember(
        self,
        patches: Float[Tensor, "B V values"],
        ids: Int[Tensor, "B k"],
        kept: Bool[Tensor, "B k"],
    ) -> None:
        """Note what the frame's gazes have shown: those of `ids` that are `kept`."""
        B, V = patches.shape[:2]
        mask = kept.new_zeros(B, V + 1).scatter_(1, torch.where(kept, ids, V), True)[:, :V]
        if self.shown is None or self.is_shown is None:
            self.shown, self.is_shown = patches.clone(), mask
            return
        self.shown = torch.where(mask[..., None], patches, self.shown)
        hidden = (mask.float() @ _finer_beneath(self.pyramid, mask.device)).bool()
        self.is_shown = (self.is_shown & ~hidden) | mask


def patch_pixels(
    frames: Float[Tensor, "*batch 3 S S"], pyramid: PatchPyramid
) -> Float[Tensor, "*batch V values"]:
    """The pixels of all patches, each as its own scale shows it, up to a constant.

    Args:
        frames: normalised, of side `pyramid.side`.

    Returns:
        Colours in steps of [0, 1]: differences of two frames' are those of their pixels.
    """
    size = pyramid.patch_size
    colours, parts = to_unit_steps(frames.float()), []
    for scale, grid in zip(pyramid.scales, pyramid.grids, strict=True):
        small = colours if scale == pyramid.side else shrink(colours, scale)
        cells = small.unflatten(-1, (grid, size)).unflatten(-3, (grid, size))
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
