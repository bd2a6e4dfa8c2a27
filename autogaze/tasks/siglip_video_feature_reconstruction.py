"""SigLIP feature reconstruction: dense features predicted from those of the gazed patches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.video_mae.layers import (
    Block,
    DecoderCells,
    PackedClips,
    grid_positions,
    resized_2d,
)
from autogaze.tasks.base import Task, TaskOutput
from autogaze.utils.device import exact
from autogaze.utils.hub import load_pretrained
from autogaze.utils.normalization import SIGLIP
from autogaze.vision_encoders.gazed import gazed
from autogaze.vision_encoders.layout import AttentionType


class SiglipVideoFeatureReconstruction(Task):
    """Loss of a frame: mean squared error of dense features predicted from those of gazed patches.

    The frozen encoder runs twice: densely on the scored frames (the target is its
    `last_hidden_state`, every feature normalised to mean 0 and variance 1), and on the gazed
    patches of all frames up to them. A small decoder, the only trained part, predicts the
    former from the latter. Predicting zeros costs 1.

    Args:
        encoder: a transformers SiglipVisionModel.
        scales: of the gazes; the largest is the side of the frames.
        decoder: options of `FeatureDecoder`.
        attn_type: see `autogaze.gazed`.
        recon_sample_rate: see `Task`.
    """

    metric = "SigLIP features"
    frozen = ("encoder",)
    statistics = SIGLIP

    def __init__(
        self,
        encoder: nn.Module,
        scales: str | tuple[int, ...] = "32+64+112+224",
        *,
        decoder: dict[str, Any] | None = None,
        attn_type: AttentionType = "block_causal",
        recon_sample_rate: float = 0.125,
    ) -> None:
        seen = gazed(encoder, attn_type=attn_type, empty_frames="hold")
        pyramid = PatchPyramid.parse(scales, seen.patch_size, crop=True)
        super().__init__(pyramid, recon_sample_rate)
        self.encoder = seen.eval().requires_grad_(False)
        self.decoder = FeatureDecoder(pyramid, seen.config.hidden_size, **(decoder or {}))

    @classmethod
    def from_pretrained(
        cls, name: str = "google/siglip2-base-patch16-224", **options: Any
    ) -> "SiglipVideoFeatureReconstruction":
        """The task with the encoder of a folder or hub id; options are those of the class.

        Raises:
            CheckpointError: there is none, or it cannot be fetched or read.
        """
        from transformers import SiglipVisionModel

        hint = "give the path of a folder that holds it in task.encoder"
        return cls(load_pretrained(SiglipVisionModel, name, hint), **options)

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        order = sorted(set(scored))
        places = [order.index(frame) for frame in scored]
        last = order[-1] + 1  # no frame sees later ones
        pixels, seen = self.statistics.normalise(frames[:, :last]), gaze.frames(0, last)
        with torch.no_grad():
            wanted = self.dense(pixels[:, order])
            known = self.encoder(pixels, seen).last_hidden_state
        made = self.decoder(known, seen, order)
        difference = (
            made.to(exact(made.dtype)) - wanted
        )  # under autocast both may be half precision
        losses = difference.square().mean((2, 3))[:, places]
        if self.training:  # pictures would take longer than all the rest
            return TaskOutput(tuple(scored), losses)
        pictures = feature_picture(wanted, made, self.pyramid.side)[:, places]
        return TaskOutput(tuple(scored), losses, pictures)

    def dense(self, pixels: Float[Tensor, "B F 3 S S"]) -> Float[Tensor, "B F cells C"]:
        """The targets: normalised features of whole frames."""
        options = {}
        if pixels.shape[-1] != self.encoder.config.image_size:
            options["interpolate_pos_encoding"] = True
        features = self.encoder.model(pixels.flatten(0, 1), **options).last_hidden_state
        features = F.layer_norm(features, features.shape[-1:])
        return features.unflatten(0, pixels.shape[:2])


class FeatureDecoder(nn.Module):
    """VideoMAE's decoder with features in place of pixels.

    A frame to be predicted enters with all its cells (mask tokens where no patch was gazed),
    other frames with their gazed patches. Attention is block-causal over frames.

    Args:
        num_features: C, of the encoder.
        max_num_frames: frames that have a time embedding.

    Raises:
        TrainingError: a width that heads do not divide.
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
        self.leader = nn.Parameter(torch.zeros(width))  # the class token, as checkpoints name it
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
            gaze: these patches.
            frames: those to be predicted, ascending.
        """
        if gaze.num_frames > self.max_num_frames:
            raise TrainingError(
                f"the clip has {gaze.num_frames} frames, this decoder knows {self.max_num_frames}"
            )
        cells = DecoderCells.of(gaze, frames, features.device)
        clips = PackedClips(cells.lengths, features.device)
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
        fine = cells.is_target & (levels == len(self.pyramid.scales) - 1)
        predicted = self.predict(self.norm(x[~clips.is_class_token][fine]))
        return predicted.view(gaze.num_clips, len(frames), self.pyramid.cells[-1], -1)


@torch.no_grad()
def feature_picture(
    wanted: Float[Tensor, "B F cells C"], made: Float[Tensor, "B F cells C"], side: int
) -> Float[Tensor, "B F 3 {side} {side}"]:
    """Pictures of target features (upper half) and predicted ones (lower half).

    Colours are the three principal components of a clip's target features.
    """
    grid = round(wanted.shape[2] ** 0.5)
    upper = side // 2
    clips = []
    for target, guess in zip(wanted.float(), made.float(), strict=True):
        flat = target.flatten(0, 1)
        mean = flat.mean(0)
        _, axes = torch.linalg.eigh((flat - mean).T @ (flat - mean))  # draws no random numbers
        main = axes[:, -3:]
        spread = ((flat - mean) @ main).abs().amax(0).clamp(min=1e-6)
        halves = [
            F.interpolate(
                ((features - mean) @ main / spread / 2 + 0.5).mT.unflatten(2, (grid, grid)),
                (height, side),
            )
            for features, height in ((target, upper), (guess, side - upper))
        ]
        clips.append(torch.cat(halves, dim=2).clamp(0, 1))
    return torch.stack(clips)
