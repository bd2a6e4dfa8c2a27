"""Gazes for encoders with another patch size and other scales, as many as the selector has.

The encoder's finest grid is covered with tiles of the selector's frame size. Each tile is gazed
at by itself, the tiles' masks are stitched scale by scale, and cells outside the encoder's grid
are dropped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import GeometryError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.gaze_model import resize_clip


@dataclass(frozen=True)
class GridAdaptation:
    """Tiling of frames for a selector with pyramid `own`, and its gazes on pyramid `target`.

    Raises:
        GeometryError: another number of scales than the selector has.
    """

    own: PatchPyramid
    target: PatchPyramid

    def __post_init__(self) -> None:
        if len(self.target.scales) != len(self.own.scales):
            raise GeometryError(
                f"{len(self.target.scales)} target scales {self.target.scales} given, but this "
                f"selector has {len(self.own.scales)} scales {self.own.scales}; give one for each"
            )

    @property
    def tiles(self) -> int:
        """Tiles along each side."""
        return math.ceil(self.target.grids[-1] / self.own.grids[-1])

    def cut(self, video: Float[Tensor, "B T 3 S S"]) -> Float[Tensor, "tiles T 3 s s"]:
        """Tiles of normalised frames, clip-major and row-major, at the selector's size.

        Frames are padded with zeros on the right and at the bottom.
        """
        side = self.target.side
        if video.shape[-2:] != (side, side):
            raise GeometryError(
                f"target scales {self.target.scales} need frames of {side} x {side} pixels, "
                f"got {video.shape[-2]} x {video.shape[-1]}"
            )
        n, tile = self.tiles, self.own.grids[-1] * self.target.patch_size
        video = F.pad(video, (0, max(0, n * tile - side), 0, max(0, n * tile - side)))
        cut = video[..., : n * tile, : n * tile].unflatten(-1, (n, tile)).unflatten(-3, (n, tile))
        tiles = cut.permute(0, 3, 5, 1, 2, 4, 6).flatten(0, 2)
        return resize_clip(tiles, self.own.side)

    def tile_cap(self, cap: int) -> int:
        """Patches that each tile of a frame may take, at least 1, so that all keep the frame's cap.

        `stitch` does the rest where there are more tiles than patches.
        """
        return min(self.own.num_patches, max(1, cap // self.tiles**2))

    def stitch(self, gaze: Gaze, caps: Sequence[int] | None = None, first_frame: int = 0) -> Gaze:
        """The tiles' gazes as one gaze per clip on the encoder's pyramid, ids ascending.

        Args:
            gaze: of every tile of every clip.
            caps: patches that each frame may take. Every tile takes one or more, so where a cap
                is below the number of tiles some of them are dropped: tiles take turns, from
                frame to frame.
            first_frame: number of the first frame in its stream, which says whose turn it is.
        """
        n = self.tiles
        parts = []
        for mask, own, target in zip(gaze.masks(), self.own.grids, self.target.grids, strict=True):
            T = mask.shape[1]
            # (clip, tile row, tile column, frame, row, column) to one grid per frame.
            grid = mask.view(-1, n, n, T, own, own).permute(0, 3, 1, 4, 2, 5)
            wide = grid.reshape(-1, T, n * own, n * own)[..., :target, :target]
            missing = target - wide.shape[-1]
            parts.append(F.pad(wide, (0, missing, 0, missing)).flatten(2))
        mask = torch.cat(parts, -1)  # (B, T, V)
        for index, cap in enumerate(caps or ()):
            if cap < n * n:
                turns = (self._tile_of_patch() - (first_frame + index) * cap) % (n * n)
                order = turns.argsort(stable=True).to(mask.device)
                chosen = mask[:, index, order]
                mask[:, index, order] = chosen & (chosen.cumsum(-1) <= cap)
        losses = gaze.predicted_losses
        if losses is not None:  # a frame's is the mean of its tiles'
            losses = losses.unflatten(0, (-1, n * n)).mean(1)
        return Gaze.from_mask(self.target, mask, predicted_losses=losses)

    def _tile_of_patch(self) -> Int[Tensor, " V"]:
        """The tile that proposes each patch of the target pyramid, row-major."""
        tiles = []
        for own, target in zip(self.own.grids, self.target.grids, strict=True):
            # Cells beyond the last tile are proposed by none.
            tile = (torch.arange(target) // own).clamp(max=self.tiles - 1)
            tiles.append((tile[:, None] * self.tiles + tile).flatten())
        return torch.cat(tiles)
