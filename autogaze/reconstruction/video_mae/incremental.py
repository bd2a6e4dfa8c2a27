"""VideoMAE frame by frame, for many candidate gazes of the newest frame at once.

Attention is block-causal over frames, so what earlier frames contribute to a new one is
their keys and values, layer by layer, in the encoder and in the decoder: computed when a
frame is finished, kept, and the same for every candidate. What is left to compute for a
candidate is its own frame; the last decoder layer only for the finest cells, which form
the picture. Exact: the reconstructions are those of `VideoMAE.forward` where this frame alone
is to be reconstructed (one that is shown whole is seen whole by later ones).
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import GeometryError
from autogaze.reconstruction.video_mae.layers import Block
from autogaze.reconstruction.video_mae.modeling import VideoMAE
from autogaze.vision_encoders.patches import gazed_patches

Memory = tuple[Float[Tensor, "_ _ _"], Float[Tensor, "_ _ _"]]
"""Keys and values that a layer has of what came before: (heads, tokens, channels) each."""


class FrameByFrame:
    """One clip under a VideoMAE.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: VideoMAE) -> None:
        self.model = model
        self.pyramid = model.config.pyramid
        vit, decoder = model.vit, model.decoder
        self.encoder_layers = [cast(Block, layer) for layer in vit.encoder.layer]
        self.decoder_layers = [cast(Block, layer) for layer in decoder.decoder_layers]
        levels = self.pyramid.levels.to(decoder.mask_token.device)
        self.encoder_places = (
            model.encoder_positions() + vit.embeddings.scale_embed[levels]
        )  # (V, C)
        self.decoder_places = (
            model.decoder_positions() + decoder.decoder_scale_embed[levels]
        )  # (V, D)
        self.num_frames = 0
        # The class token stands before the first frame and sees itself only.
        leader = vit.embeddings.cls_token + vit.embeddings.position_embeddings[:, :1]
        encoded, self.encoder_memory = _remember(leader, self.encoder_layers, None)
        led = decoder.decoder_embed(vit.layernorm(encoded)) + decoder.decoder_pos_embed[:, :1]
        _, self.decoder_memory = _remember(led, self.decoder_layers, None)

    def show(self, frame: Float[Tensor, "3 S S"]) -> None:
        """The next frame, normalised: what candidates are judged on from now on."""
        if self.num_frames >= self.model.config.max_num_frames:
            raise GeometryError(
                f"this VideoMAE knows {self.model.config.max_num_frames} frames, got one more"
            )
        everyone = torch.arange(self.pyramid.num_patches, device=frame.device)
        patches = gazed_patches(frame[None], everyone, torch.zeros_like(everyone), self.pyramid)
        projection = self.model.vit.embeddings.patch_embeddings.projection
        tokens = F.linear(patches.flatten(1), projection.weight.flatten(1), projection.bias)
        time = self.model.vit.embeddings.time_embed[self.num_frames]
        self.tokens = tokens + self.encoder_places + time  # (V, C)
        self.cells = self.decoder_places + self.model.decoder.time_embed[self.num_frames]  # (V, D)

    def predict(
        self,
        gazes: Int[Tensor, "M n"],
        canvas: Float[Tensor, "M cells pixels"] | None = None,
    ) -> Float[Tensor, "M cells pixels"]:
        """The frame's finest cells as each of M gazes of n patches would show them.

        Args:
            gazes: ids, none twice in a row.
            canvas: what each of them has painted, where the model starts from that.
        """
        decoder, pyramid = self.model.decoder, self.pyramid
        narrow = self._encode(gazes)
        masked = decoder.mask_token[0] + self.cells  # (V, D)
        rows = torch.arange(len(gazes), device=gazes.device)[:, None]
        x = masked.repeat(len(gazes), 1, 1)
        x[rows, gazes] = narrow.to(x.dtype) + self.cells[gazes]
        fine = slice(pyramid.offsets[-1], None)
        if canvas is not None:
            x[:, fine] += decoder.canvas_embed(canvas).to(x.dtype)
        *first, last = zip(self.decoder_layers, self.decoder_memory, strict=True)
        for block, memory in first:
            x, _ = _attend(block, x, memory)
        x, _ = _attend(last[0], x, last[1], fine)
        pixels: Tensor = decoder.pixels(x, canvas)
        return pixels

    def keep(self, ids: Sequence[int]) -> None:
        """Finish the frame: these are the patches that later frames see of it."""
        gaze = torch.tensor([ids], device=self.tokens.device)
        x, new = _remember(self.tokens[gaze], self.encoder_layers, self.encoder_memory)
        self.encoder_memory = new
        narrow = self.model.decoder.decoder_embed(self.model.vit.layernorm(x))
        known = narrow + self.cells[gaze]
        _, self.decoder_memory = _remember(known, self.decoder_layers, self.decoder_memory)
        self.num_frames += 1

    def _encode(self, gazes: Int[Tensor, "M n"]) -> Float[Tensor, "M n D"]:
        x = self.tokens[gazes]
        for block, memory in zip(self.encoder_layers, self.encoder_memory, strict=True):
            x, _ = _attend(block, x, memory)
        return self.model.decoder.decoder_embed(self.model.vit.layernorm(x))


def _remember(
    x: Float[Tensor, "one n C"], blocks: Iterable[Block], past: Sequence[Memory] | None
) -> tuple[Float[Tensor, "one n C"], list[Memory]]:
    """What layers make of a frame's tokens, and the past with that frame in it."""
    memories: list[Memory] = []
    for number, block in enumerate(blocks):
        memory = None if past is None else past[number]
        x, (key, value) = _attend(block, x, memory)
        memories.append((key[0], value[0]))
    return x, memories


def _attend(
    block: Block,
    x: Float[Tensor, "M n C"],
    memory: Memory | None,
    queries: slice = slice(None),
) -> tuple[Float[Tensor, "M q C"], tuple[Tensor, Tensor]]:
    """One layer: a frame's tokens see each other and the past.

    Returns:
        The tokens of `queries`, and all keys and values, past ones first.
    """
    attention, normed = block.attention, block.layernorm_before(x)
    part, heads = attention.attention, attention.num_heads
    q = part.query(normed[:, queries]).unflatten(-1, (heads, -1)).transpose(1, 2)  # (M, H, q, D)
    k = part.key(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
    v = part.value(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
    if memory is not None:
        k, v = (
            torch.cat([past.to(new.dtype).expand(len(x), -1, -1, -1), new], dim=2)
            for past, new in zip(memory, (k, v), strict=True)
        )
    seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x[:, queries] + attention.output(seen)
    return x + block.output(F.gelu(block.intermediate(block.layernorm_after(x)))), (k, v)
