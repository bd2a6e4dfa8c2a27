"""VideoMAE frame by frame, for many candidate gazes of the newest frame at once.

Attention is block-causal over frames, so a KV cache of earlier frames, in every layer of the
encoder and the decoder, is shared by all candidates. Only the newest frame is computed per
candidate, and in the last decoder layer only its finest cells, which form the picture. Exact:
the reconstructions are those of `VideoMAE.forward` where this frame alone is to be
reconstructed (a frame that enters the decoder whole is seen whole by later ones).
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.errors import GeometryError
from autogaze.reconstruction.video_mae.layers import Block, KeysValues
from autogaze.reconstruction.video_mae.modeling import VideoMAE
from autogaze.vision_encoders.patches import gazed_patches


class CandidateReconstruction:
    """A VideoMAE's state in one clip: `start` a frame, `reconstruct` it from gazes, `finish` it.

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
