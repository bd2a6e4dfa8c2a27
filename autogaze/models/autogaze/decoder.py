"""The small Llama that gazes: parameters under the checkpoint's names, and the
teacher-forced pass over whole sequences. Gazing itself is in `decoding.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import CheckpointError
from autogaze.models.autogaze.configuration import GazeDecoderConfig
from autogaze.models.autogaze.products import Product, product

# Rotary positions with Llama 3's frequency scaling.


def rope_frequencies(parameters: dict[str, Any], head_dim: int) -> Float[Tensor, " half"]:
    """Radians a position, one for every pair of channels.

    "llama3" slows wavelengths longer than original / low_freq_factor down by
    `factor`, leaves those shorter than original / high_freq_factor as they are and
    blends in between.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (parameters["rope_theta"] ** exponents)
    if kind == "default":
        return frequencies
    if kind != "llama3":
        raise CheckpointError(f"rope_type must be 'default' or 'llama3', got {kind!r}")
    factor = parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    original = parameters["original_max_position_embeddings"]
    turns = original * frequencies / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (blend + (1 - blend) / factor)


def head_rotations(
    frequencies: Float[Tensor, " half"], positions: Int[Tensor, " N"], turned: int, kept: int
) -> Complex[Tensor, "N pairs"]:
    """exp(i * position * frequency) for `turned` heads, and 1 for the `kept` heads after them.

    Multiplying a channel pair by it rotates the pair; heads of values are not to be rotated.
    """
    angles = positions[:, None].float() * frequencies
    turns = torch.polar(torch.ones_like(angles), angles)
    still = turns.new_ones(len(turns), kept * len(frequencies))
    return torch.cat([*[turns] * turned, still], 1)


def pair_channels(weight: Float[Tensor, "out C"], head_dim: int) -> Float[Tensor, "out C"]:
    """Reorder a q or k projection so that the two channels of a pair stand side by side.

    Llama rotates channel i with channel i + head_dim / 2. With the pairs adjacent a
    rotation is one complex product; queries and keys reordered alike keep their dot
    products.
    """
    C = weight.shape[-1]
    return weight.view(-1, 2, head_dim // 2, C).transpose(1, 2).reshape(-1, C)


def rotate(x: Float[Tensor, "N D"], by: Complex[Tensor, "N half"]) -> Float[Tensor, "N D"]:
    """Rotate adjacent channel pairs, in float32 whatever the precision of `x`."""
    pairs = torch.view_as_complex(x.float().unflatten(1, (-1, 2)))
    return torch.view_as_real(pairs * by).flatten(1).to(x.dtype)


class Attention(nn.Module):
    """Projections of one attention layer; key and value heads may be grouped."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(width, config.num_attention_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * head_dim, width, bias=False)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)


class DecoderLayer(nn.Module):
    """One Llama block."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)


@dataclass(frozen=True)
class FusedLayer:
    """The weights of one block, joined so that each half is one matrix product.

    Gazing feeds a few tokens at a time, hundreds of times a clip, so what counts is
    how few operations a block takes: norms' gains and attention's 1 / sqrt(D) are
    multiplied into the projections, residuals are added by the products, and one
    complex product rotates queries and keys while it leaves values as they are.

    Attributes:
        q, kv: the rows of `qkv` that make queries, and keys and values.
        qkv: C -> q + k + v outputs, rotary pairs of q and k adjacent.
        out: heads * D -> C.
        gate_up: C -> 2 * intermediate.
        down: intermediate -> C.
        shortest: sqrt(C * eps), added at right angles to the length of what is normed.
    """

    q: Product
    kv: Product
    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    num_heads: int
    num_kv_heads: int
    head_dim: int
    shortest: Float[Tensor, ""]

    @classmethod
    def of(cls, layer: DecoderLayer, config: GazeDecoderConfig, *, fixed: bool) -> "FusedLayer":
        """Join a block's weights; `fixed` where neither they nor a gradient will change."""
        attn, mlp, D = layer.self_attn, layer.mlp, config.head_dim
        qkv = torch.cat(
            [
                pair_channels(attn.q_proj.weight, D) * D**-0.5,
                pair_channels(attn.k_proj.weight, D),
                attn.v_proj.weight,
            ]
        )
        # `normed` divides by a row's length, RMSNorm by its root mean square.
        root = config.hidden_size**0.5
        qkv = qkv * (layer.input_layernorm.weight * root)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        width = config.num_attention_heads * D

        def by(weight: Tensor) -> Product:
            return product(weight, fixed=fixed)

        return cls(
            by(qkv[:width]),
            by(qkv[width:]),
            by(qkv),
            by(attn.o_proj.weight),
            by(gate_up * (layer.post_attention_layernorm.weight * root)),
            by(mlp.down_proj.weight),
            config.num_attention_heads,
            config.num_key_value_heads,
            D,
            torch.tensor((config.hidden_size * config.rms_norm_eps) ** 0.5).to(qkv),
        )

    def project(
        self, x: Float[Tensor, "N C"], rotation: Complex[Tensor, "N pairs"]
    ) -> tuple[Float[Tensor, "N H D"], Float[Tensor, "N KV D"]]:
        """Queries, and keys and values side by side; `rotation` as of `head_rotations`."""
        return self._split(self.qkv(self.normed(x)), rotation)

    def keys_values(
        self, normed: Float[Tensor, "N C"], rotation: Complex[Tensor, "N pairs"]
    ) -> Float[Tensor, "N KV D"]:
        """Keys and values side by side, of an input already normed."""
        width = self.num_heads * self.head_dim
        kv = self.kv(normed)
        return rotate(kv, rotation[:, width // 2 :]).unflatten(1, (-1, self.head_dim))

    def queries(
        self, normed: Float[Tensor, "N C"], rotation: Complex[Tensor, "N pairs"]
    ) -> Float[Tensor, "N H D"]:
        """Queries of an input already normed."""
        width = self.num_heads * self.head_dim
        q = self.q(normed)
        return rotate(q, rotation[:, : width // 2]).unflatten(1, (-1, self.head_dim))

    def normed(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """RMSNorm without its gain and sqrt(C), which the projection that follows carries.

            x / sqrt(mean(x^2) + eps)  =  sqrt(C) * x / sqrt(|x|^2 + C eps)

        In three operations instead of five, which counts where a block is ten rows.
        """
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(length, self.shortest)

    def finish(
        self, x: Float[Tensor, "N C"], attended: Float[Tensor, "N HD"]
    ) -> Float[Tensor, "N C"]:
        """What follows attention: output projection and SwiGLU, each added to `x`."""
        x = self.out.added_to(x, attended)
        gate, up = self.gate_up(self.normed(x)).chunk(2, dim=-1)
        return self.down.added_to(x, F.silu(gate) * up)

    def _split(self, qkv: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        heads = rotate(qkv, rotation).unflatten(1, (-1, self.head_dim))
        return heads[:, : self.num_heads], heads[:, self.num_heads :]


class DecoderModel(nn.Module):
    """Embeddings, blocks and final norm."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class GazeDecoder(nn.Module):
    """The decoder with its two heads, each predicting K tokens at once."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.config = config
        K = config.num_multi_token_pred
        self.model = DecoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, K * config.vocab_size, bias=False)
        self.task_loss_prediction_head = nn.Linear(config.hidden_size, K, bias=False)

    def fused_layers(self, *, fixed: bool) -> list[FusedLayer]:
        """All blocks; `fixed` where neither weights nor a gradient will change."""
        return [
            FusedLayer.of(layer, self.config, fixed=fixed)  # type: ignore[arg-type]
            for layer in self.model.layers
        ]

    def frequencies(self) -> Float[Tensor, " half"]:
        """RoPE's radians a position, on the decoder's device."""
        config = self.config
        frequencies = rope_frequencies(config.rope_parameters, config.head_dim)
        return frequencies.to(self.lm_head.weight.device)

    def rotations(
        self, positions: Int[Tensor, " N"], frequencies: Float[Tensor, " half"]
    ) -> Complex[Tensor, "N pairs"]:
        """What `FusedLayer.project` multiplies with at these positions, for all its heads."""
        values = self.config.num_key_value_heads
        turned = self.config.num_attention_heads + values
        return head_rotations(frequencies, positions, turned, values)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Final hidden states of whole sequences; every token sees itself and what is before."""
        B, N, _ = x.shape
        positions = torch.arange(N, device=x.device)
        rotation = self.rotations(positions, self.frequencies()).repeat(B, 1)
        x = x.flatten(0, 1)
        for layer in self.fused_layers(fixed=False):
            q, kv = (
                part.unflatten(0, (B, N)).transpose(1, 2) for part in layer.project(x, rotation)
            )
            k, v = kv.chunk(2, dim=1)
            attended = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=1.0, enable_gqa=q.shape[1] != k.shape[1]
            )
            x = layer.finish(x, attended.transpose(1, 2).flatten(2).flatten(0, 1))
        return self.model.norm(x).unflatten(0, (B, N))

    def heads(
        self, hidden: Float[Tensor, "*N C"]
    ) -> tuple[Float[Tensor, "*N K V1"], Float[Tensor, "*N K"]]:
        """K x (V + 1) logits and K predicted losses of each hidden state."""
        logits = self.lm_head(hidden).unflatten(-1, (-1, self.config.vocab_size))
        return logits, self.predicted_losses(hidden)

    def predicted_losses(self, hidden: Float[Tensor, "*N C"]) -> Float[Tensor, "*N K"]:
        """K predicted losses: before each of the K patches proposed next is added."""
        return self.task_loss_prediction_head(hidden)
