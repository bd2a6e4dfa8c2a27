"""The vision stem: 16-pixel patches, then convolutions causal in time."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.models.autogaze.configuration import VisionModelConfig

ConvHistory = list[Tensor]
"""Per block its last two input frames, (B, C, 2, h, w): what streaming carries on."""


class CausalConv3d(nn.Module):
    """One block: a 3-D convolution over this frame and the two before it, and ReLU."""

    def __init__(self, channels: int, temporal_kernel: int, spatial_kernel: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(
            channels,
            channels,
            (temporal_kernel, spatial_kernel, spatial_kernel),
            padding=(0, spatial_kernel // 2, spatial_kernel // 2),
        )

        self.num_earlier = temporal_kernel - 1

    def forward(
        self, frames: Float[Tensor, "B C T h w"], history: Tensor | None
    ) -> tuple[Float[Tensor, "B C T h w"], Tensor]:
        if history is None:
            B, C, _, h, w = frames.shape
            history = frames.new_zeros(B, C, self.num_earlier, h, w)
        frames = torch.cat([history, frames], dim=2)
        return F.relu(self.conv3d(frames)), frames[:, :, frames.shape[2] - self.num_earlier :]


class VisionStem(nn.Module):
    """Frames to vision tokens, 14 x 14 of them for 224 pixels."""

    def __init__(self, config: VisionModelConfig) -> None:
        super().__init__()
        width, patch = config.hidden_dim, config.kernel_size
        self.temporal_conv = nn.Conv3d(3, width, (1, patch, patch), stride=(1, patch, patch))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            CausalConv3d(width, config.trunk_temporal_kernel_size, config.trunk_spatial_kernel_size)
            for _ in range(config.depth)
        )
        self.out_proj = nn.Conv3d(width, config.out_dim, 1)

    def forward(
        self, video: Float[Tensor, "B T 3 S S"], history: ConvHistory | None = None
    ) -> tuple[Float[Tensor, "B T tokens C"], ConvHistory]:
        """Tokens of every frame, row-major, and the history the next frames need."""
        B, T = video.shape[:2]
        patch = self.temporal_conv.kernel_size[-1]
        # Patches do not overlap, so the convolution is one matrix product.
        grid = video.shape[-1] // patch
        patches = video.view(B, T, 3, grid, patch, grid, patch).permute(0, 1, 3, 5, 2, 4, 6)
        # (B, T, grid, grid, 3, patch, patch)
        weight = self.temporal_conv.weight.flatten(1)
        tokens = F.linear(patches.reshape(B, T, grid, grid, -1), weight, self.temporal_conv.bias)
        frames = self.norm(tokens).permute(0, 4, 1, 2, 3)  # (B, C, T, grid, grid)
        updated = []
        for index, block in enumerate(self.blocks):
            frames, last = block(frames, history[index] if history else None)
            updated.append(last)
        tokens = frames.permute(0, 2, 3, 4, 1).flatten(2, 3)  # (B, T, tokens, C)
        return F.linear(tokens, self.out_proj.weight.flatten(1), self.out_proj.bias), updated
