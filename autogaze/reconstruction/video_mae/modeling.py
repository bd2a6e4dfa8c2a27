"""VideoMAE: a reconstruction model, frames decoded from gazed patches (AutoGaze, section 3.2).

Tokens of a clip are packed without padding. A frame that is to be reconstructed enters the
decoder with all its cells. `VideoMAE` reconstructs frames of whole clips, `CandidateReconstruction` the
newest frame of a clip from many candidate gazes at once.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import GeometryError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.video_mae.configuration import VideoMAEConfig
from autogaze.reconstruction.video_mae.layers import (
    Block,
    DecoderCells,
    KeysValues,
    PackedClips,
    grid_positions,
    resized_1d,
    resized_2d,
)
from autogaze.vision_encoders.patches import gazed_patches


class VideoMAE(nn.Module):
    """Reconstruction of whole frames from the gazed patches of these and earlier frames."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = ViT(config)
        self.decoder = Decoder(config)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for parameter in (
            self.vit.embeddings.cls_token,
            self.decoder.mask_token,
            self.vit.embeddings.scale_embed,
            self.vit.embeddings.time_embed,
            self.decoder.decoder_scale_embed,
            self.decoder.time_embed,
        ):
            nn.init.normal_(parameter, std=0.02)

    def forward(
        self, video: Float[Tensor, "B T 3 S S"], gaze: Gaze, frames: Sequence[int]
    ) -> Float[Tensor, "B F 3 S S"]:
        """Reconstructions of some frames, normalised as the video is.

        Args:
            video: normalised frames of the finest scale's side.
            gaze: the patches of them that are encoded.
            frames: those to be reconstructed, in [0, T).

        Raises:
            GeometryError: a gaze of another pyramid, or more frames than have a time embedding.
        """
        pyramid = self.config.pyramid
        B, T = gaze.lengths.shape
        if gaze.pyramid.scales != pyramid.scales or gaze.pyramid.patch_size != pyramid.patch_size:
            raise GeometryError(
                f"the gaze was made for {gaze.pyramid}, this VideoMAE for {pyramid}"
            )
        if tuple(video.shape) != (B, T, 3, pyramid.side, pyramid.side):
            raise GeometryError(
                f"expected video {(B, T, 3, pyramid.side, pyramid.side)}, got {tuple(video.shape)}"
            )
        if not frames or not all(0 <= frame < T for frame in frames):
            raise GeometryError(f"frames to reconstruct must lie in [0, {T}), got {list(frames)}")
        if self.config.max_num_frames < T:
            raise GeometryError(
                f"the clip has {T} frames, this VideoMAE knows {self.config.max_num_frames}"
            )
        # No frame sees later ones, so what follows the last frame asked for is not computed.
        last = max(frames) + 1
        seen = gaze.frames(0, last)
        cells = self.decode(self.encode(video[:, :last], seen), seen, frames)
        return frames_of_cells(cells, pyramid)

    def encode(self, video: Float[Tensor, "B T 3 S S"], gaze: Gaze) -> Float[Tensor, "tokens C"]:
        """Tokens of the gazed patches, each clip's behind its class token."""
        embeddings, pyramid = self.vit.embeddings, self.config.pyramid
        clips = PackedClips(gaze.lengths, video.device)
        ids, slot = gaze.ids.to(video.device), gaze.frame_of_patch.to(video.device)
        patches = gazed_patches(video.flatten(0, 1), ids, slot, pyramid)
        tokens = (
            embeddings.patch_embeddings(patches)
            + self.encoder_positions()[ids]
            + embeddings.scale_embed[pyramid.levels.to(ids.device)[ids]]
            + embeddings.time_embed[slot % gaze.num_frames]
        )
        class_token = embeddings.cls_token[0] + embeddings.position_embeddings[0, :1]
        x = clips.join(class_token.expand(gaze.num_clips, -1), tokens)
        for block in self.vit.encoder.layer:
            x = block(x, clips.layout)
        return self.vit.layernorm(x)

    def decode(
        self, encoded: Float[Tensor, "tokens C"], gaze: Gaze, frames: Sequence[int]
    ) -> Float[Tensor, "B F cells pixels"]:
        """The finest cells of `frames` of every clip, from the tokens of `encode`."""
        decoder, pyramid, device = self.decoder, self.config.pyramid, encoded.device
        cells = DecoderCells.of(gaze, frames, device)
        clips = PackedClips(cells.lengths, device)
        narrow = decoder.decoder_embed(encoded)
        is_class_token = PackedClips(gaze.lengths, device).is_class_token
        masked = decoder.mask_token[0].expand(len(cells.ids), -1)
        # Under autocast the projection is in half precision, the mask token is not.
        known = narrow[~is_class_token].to(masked.dtype)
        levels = pyramid.levels.to(device)[cells.ids]
        tokens = (
            masked.index_copy(0, cells.gazed, known)
            + self.decoder_positions()[cells.ids]
            + decoder.decoder_scale_embed[levels]
            + decoder.time_embed[cells.frame]
        )
        x = clips.join(narrow[is_class_token] + decoder.decoder_pos_embed[0, :1], tokens)
        for block in decoder.decoder_layers:
            x = block(x, clips.layout)
        # Only the finest cells form the picture.
        fine = cells.is_target & (levels == len(pyramid.scales) - 1)
        pixels = decoder.pixels(x[~clips.is_class_token][fine])
        # Clip by clip, frames ascending; a frame may be asked for twice, and in any order.
        order = sorted(set(frames))
        pixels = pixels.view(gaze.num_clips, len(order), pyramid.cells[-1], -1)
        return pixels[:, [order.index(frame) for frame in frames]]

    def encoder_positions(self) -> Float[Tensor, "V C"]:
        """Position embeddings of all patches, for the encoder."""
        table = self.vit.embeddings.position_embeddings[0, 1:]
        return torch.cat([resized_2d(table, grid) for grid in self.config.pyramid.grids])

    def decoder_positions(self) -> Float[Tensor, "V D"]:
        """Position embeddings of all patches, for the decoder."""
        table = self.decoder.decoder_pos_embed[0, 1:]
        return torch.cat([resized_1d(table, count) for count in self.config.pyramid.cells])


class ViT(nn.Module):
    """Embeddings, blocks and norm of the encoder."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Embeddings(nn.Module):
    """Embeddings of the encoder: patch, class token, position, scale and time."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(
            grid_positions(config.num_positions, width)[None], requires_grad=False
        )
        self.patch_embeddings = PatchEmbeddings(width, config.patch_size)
        self.scale_embed = nn.Parameter(torch.zeros(len(config.pyramid.scales), width))
        self.time_embed = nn.Parameter(torch.zeros(config.max_num_frames, width))


class PatchEmbeddings(nn.Module):
    """The patch projection: a convolution, computed as a matrix product of cut patches."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, patches: Float[Tensor, "N 3 p p"]) -> Float[Tensor, "N C"]:
        weight = self.projection.weight.flatten(1)
        return F.linear(patches.flatten(1), weight, self.projection.bias)


class Encoder(nn.Module):
    """The encoder's blocks."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Block(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                config.layer_norm_eps,
            )
            for _ in range(config.num_hidden_layers)
        )


class Decoder(nn.Module):
    """Embeddings, blocks, norm and projection to pixels of the decoder."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.decoder_embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(
            grid_positions(config.num_positions, width)[None], requires_grad=False
        )
        self.decoder_scale_embed = nn.Parameter(torch.zeros(len(config.pyramid.scales), width))
        self.time_embed = nn.Parameter(torch.zeros(config.max_num_frames, width))
        self.decoder_layers = nn.ModuleList(
            Block(
                width,
                config.decoder_num_attention_heads,
                config.decoder_intermediate_size,
                config.layer_norm_eps,
            )
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder_pred = nn.Linear(width, config.patch_size**2 * 3)

    def pixels(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n pixels"]:
        """Pixels of cells that have passed all blocks."""
        return self.decoder_pred(self.decoder_norm(x))


def frames_of_cells(
    cells: Float[Tensor, "*batch cells pixels"], pyramid: PatchPyramid
) -> Float[Tensor, "*batch 3 S S"]:
    """Frames put together from their finest cells."""
    grid, p = pyramid.grids[-1], pyramid.patch_size
    rows = cells.unflatten(-2, (grid, grid)).unflatten(-1, (p, p, 3))  # (*, g, g, p, p, 3)
    return rows.movedim(-1, -5).transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)


def cells_of_frames(
    frames: Float[Tensor, "*batch 3 S S"], pyramid: PatchPyramid
) -> Float[Tensor, "*batch cells pixels"]:
    """Frames cut into their finest cells: the inverse of `frames_of_cells`."""
    grid, p = pyramid.grids[-1], pyramid.patch_size
    squares = frames.unflatten(-1, (grid, p)).unflatten(-3, (grid, p))  # (*, 3, g, p, g, p)
    return squares.movedim(-5, -1).transpose(-4, -3).flatten(-3).flatten(-3, -2)


class CandidateReconstruction:
    """A VideoMAE's state in one clip: `start` a frame, `reconstruct` it from gazes, `finish` it.

    Attention is block-causal over frames, so a KV cache of earlier frames, in every layer of the
    encoder and the decoder, is shared by all candidates. Only the newest frame is computed per
    candidate, and in the last decoder layer only its finest cells, which form the picture. Exact:
    the reconstructions are those of `VideoMAE.forward` where this frame alone is to be
    reconstructed (a frame that enters the decoder whole is seen whole by later ones).

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: VideoMAE) -> None:
        self.model = model
        self.pyramid = model.config.pyramid
        self.num_frames = 0
        vit, decoder = model.vit, model.decoder
        self._encoder = _CachedBlocks([cast(Block, block) for block in vit.encoder.layer])
        self._decoder = _CachedBlocks([cast(Block, block) for block in decoder.decoder_layers])
        levels = self.pyramid.levels.to(decoder.mask_token.device)
        scale = vit.embeddings.scale_embed, decoder.decoder_scale_embed
        self._encoder_positions = model.encoder_positions() + scale[0][levels]  # (V, C)
        self._decoder_positions = model.decoder_positions() + scale[1][levels]  # (V, D)
        # The class token stands before the first frame and sees itself only.
        token = vit.embeddings.cls_token + vit.embeddings.position_embeddings[:, :1]
        encoded = vit.layernorm(self._encoder.append(token))
        self._decoder.append(decoder.decoder_embed(encoded) + decoder.decoder_pos_embed[:, :1])

    def start(self, frame: Float[Tensor, "3 S S"]) -> None:
        """Begin the next frame, given normalised."""
        if self.num_frames >= self.model.config.max_num_frames:
            raise GeometryError(
                f"this VideoMAE knows {self.model.config.max_num_frames} frames, got one more"
            )
        ids = torch.arange(self.pyramid.num_patches, device=frame.device)
        patches = gazed_patches(frame[None], ids, torch.zeros_like(ids), self.pyramid)
        embeddings, decoder = self.model.vit.embeddings, self.model.decoder
        tokens = embeddings.patch_embeddings(patches)
        time = embeddings.time_embed[self.num_frames]
        self._tokens = tokens + self._encoder_positions + time  # (V, C)
        self._cells = self._decoder_positions + decoder.time_embed[self.num_frames]  # (V, D)

    def reconstruct(self, gazes: Int[Tensor, "M n"]) -> Float[Tensor, "M cells pixels"]:
        """The frame's finest cells as reconstructed from each of M gazes of n patches.

        Args:
            gazes: ids, none twice in a row.
        """
        decoder = self.model.decoder
        encoded = self.model.vit.layernorm(self._encoder(self._tokens[gazes]))
        x = (decoder.mask_token[0] + self._cells).repeat(len(gazes), 1, 1)  # (M, V, D)
        rows = torch.arange(len(gazes), device=gazes.device)[:, None]
        x[rows, gazes] = decoder.decoder_embed(encoded).to(x.dtype) + self._cells[gazes]
        return decoder.pixels(self._decoder(x, slice(self.pyramid.offsets[-1], None)))

    def finish(self, ids: Sequence[int]) -> None:
        """Finish the frame: these are the patches that later frames see of it."""
        gaze = torch.tensor([ids], device=self._tokens.device)
        encoded = self.model.vit.layernorm(self._encoder.append(self._tokens[gaze]))
        self._decoder.append(self.model.decoder.decoder_embed(encoded) + self._cells[gaze])
        self.num_frames += 1


class _CachedBlocks:
    """Transformer blocks with the keys and values of all earlier tokens of one clip."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.cache: list[KeysValues | None] = [None] * len(blocks)

    def __call__(
        self, x: Float[Tensor, "M n C"], queries: slice = slice(None)
    ) -> Float[Tensor, "M q C"]:
        """M alternatives of the next tokens; of the last block only the tokens of `queries`."""
        *first, last = zip(self.blocks, self.cache, strict=True)
        for block, past in first:
            x, _ = block.after(past, x)
        return last[0].after(last[1], x, queries)[0]

    def append(self, x: Float[Tensor, "one n C"]) -> Float[Tensor, "one n C"]:
        """Compute the next tokens and cache their keys and values."""
        for number, block in enumerate(self.blocks):
            x, (key, value) = block.after(self.cache[number], x)
            self.cache[number] = key[0], value[0]
        return x
