"""From features of gazed patches to a feature of every cell of the finest scale."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.video_mae.blocks import Block
from autogaze.reconstruction.video_mae.packing import DecoderCells, LedClips
from autogaze.reconstruction.video_mae.positions import grid_positions, resized_2d


class FeatureDecoder(nn.Module):
    """VideoMAE's decoder with features in place of pixels.

    A frame to be filled enters with all its cells, a mask token where nobody gazed, other
    frames with their gazed patches; attention is block-causal over frames.

    Args:
        pyramid: of the gazes.
        num_features: C, of the encoder.
        width, num_layers, num_heads: of the decoder.
        max_num_frames: frames that have a time embedding.
    """

    positions: Tensor

    def __init__(
        self,
        pyramid: PatchPyramid,
        num_features: int,
        width: int = 512,
        num_layers: int = 4,
        num_heads: int = 8,
        max_num_frames: int = 256,
    ) -> None:
        super().__init__()
        if width % num_heads or width % 4:
            raise TrainingError(
                f"a decoder's width must be a multiple of 4 and of its {num_heads} heads, got {width}"
            )
        self.pyramid = pyramid
        self.max_num_frames = max_num_frames
        self.embed = nn.Linear(num_features, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.leader = nn.Parameter(torch.zeros(width))
        self.scale_embed = nn.Parameter(torch.zeros(len(pyramid.scales), width))
        self.time_embed = nn.Parameter(torch.zeros(max_num_frames, width))
        table = grid_positions(pyramid.cells[-1], width)[1:]
        positions = torch.cat([resized_2d(table, grid) for grid in pyramid.grids])
        self.register_buffer("positions", positions, persistent=False)
        self.layers = nn.ModuleList(
            Block(width, num_heads, 4 * width, 1e-6) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, num_features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for parameter in (self.mask_token, self.leader, self.scale_embed, self.time_embed):
            nn.init.normal_(parameter, std=0.02)

    def forward(
        self, features: Float[Tensor, "N C"], gaze: Gaze, frames: Sequence[int]
    ) -> Float[Tensor, "B F cells C"]:
        """Features of the finest cells of some frames, ascending.

        Args:
            features: of the gazed patches, in the gaze's order.
            gaze: which they are.
            frames: those to be filled, ascending.
        """
        if gaze.num_frames > self.max_num_frames:
            raise TrainingError(
                f"the clip has {gaze.num_frames} frames, this decoder knows {self.max_num_frames}"
            )
        cells = DecoderCells.of(gaze, frames).to(features.device)
        clips = LedClips(cells.lengths, features.device)
        known = self.embed(features)
        tokens = self.mask_token.to(known).expand(len(cells.ids), -1)
        tokens = tokens.index_copy(0, cells.gazed, known)
        levels = self.pyramid.levels.to(features.device)[cells.ids]
        tokens = (
            tokens
            + self.positions[cells.ids]
            + self.scale_embed[levels]
            + self.time_embed[cells.frame]
        )
        x = clips.join(self.leader.to(tokens).expand(gaze.num_clips, -1), tokens)
        for block in self.layers:
            x = block(x, clips.layout)
        fine = cells.is_shown & (levels == len(self.pyramid.scales) - 1)
        filled = self.predict(self.norm(x[~clips.is_leader][fine]))
        return filled.view(gaze.num_clips, len(frames), self.pyramid.cells[-1], -1)
