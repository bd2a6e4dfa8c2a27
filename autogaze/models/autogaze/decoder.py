"""The gaze decoder: a small Llama that proposes K patches and predicts K losses at a time.

`GazeDecoder` has the parameters under the checkpoint's names and the teacher-forced pass over
whole sequences. `FusedDecoder` is the same decoder with fused weights, for the gaze loop, which
feeds a few tokens at a time against a KV cache (`decoding.py`).
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from autogaze.errors import CheckpointError
from autogaze.models.autogaze.configuration import GazeDecoderConfig
from autogaze.models.autogaze.layer_ops import LayerOps, layer_ops, rotate_halves
from autogaze.utils.device import exact, sent

MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What a GPU computes attention with a mask by."""


class GazeDecoder(nn.Module):
    """Llama decoder with two heads: K next patches, and the K losses before them."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.config = config
        K = config.num_multi_token_pred
        self.model = DecoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, K * config.vocab_size, bias=False)
        self.task_loss_prediction_head = nn.Linear(config.hidden_size, K, bias=False)
        self._fused: tuple[list[Tensor], FusedDecoder] | None = None  # and the weights it is of

    def forward(
        self, x: Float[Tensor, "B N C"], read: Int[Tensor, "B P"] | None = None
    ) -> Float[Tensor, "B P C"]:
        """Final hidden states of whole sequences, with causal attention.

        Args:
            read: positions whose states are wanted; None for all. Of the others the last layer
                computes keys and values alone.
        """
        positions = torch.arange(x.shape[1], device=x.device)
        rotation = rotations(positions, rope_frequencies(self.config, x.device))
        ops = layer_ops(x, self.config.head_dim, self.config.intermediate_size)
        added: Tensor | None = None
        *layers, last = self.model.layers
        for layer in layers:
            x, added = layer(x, added, rotation, ops)
        x, added = last(x, added, rotation, ops, read)
        return self.model.norm(x + added)

    def heads(
        self, hidden: Float[Tensor, "*N C"]
    ) -> tuple[Float[Tensor, "*N K V1"], Float[Tensor, "*N K"]]:
        """K x (V + 1) logits and K predicted losses of each hidden state."""
        logits = self.lm_head(hidden).unflatten(-1, (-1, self.config.vocab_size))
        return logits, self.predicted_losses(hidden)

    def predicted_losses(self, hidden: Float[Tensor, "*N C"]) -> Float[Tensor, "*N K"]:
        """K predicted losses: before each of the K patches proposed next is added."""
        return self.task_loss_prediction_head(hidden)

    def fused(self) -> "FusedDecoder":
        """The decoder with fused weights, fused anew when weights have changed.

        Values are compared, at a third of the cost of fusing: neither an address nor a version
        tells of `parameter.data.copy_(average)`.
        """
        weights: list[Tensor] = list(self.parameters())
        with torch.no_grad():
            values = _to_compare(weights)
        if self._fused is None or not _equal(values, self._fused[0]):
            copies = values if values is not weights else [weight.clone() for weight in weights]
            self._fused = [copy.detach() for copy in copies], FusedDecoder(self)
        return self._fused[1]


class DecoderModel(nn.Module):
    """Embeddings, blocks and final norm."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class DecoderLayer(nn.Module):
    """One Llama block."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Float[Tensor, "B N C"],
        added: Float[Tensor, "B N C"] | None,
        rotation: Complex[Tensor, "N half"],
        ops: LayerOps,
        read: Int[Tensor, "B P"] | None = None,
    ) -> tuple[Float[Tensor, "B P C"], Float[Tensor, "B P C"]]:
        """The tokens at the positions `read` (None: all), and what is still to be added to them.

        Args:
            added: to be added to `x`, by the layer before.
        """
        x, normed = ops.add_norm(x, added, self.input_layernorm)
        attended = self.self_attn(normed, rotation, ops, read)
        x = x if read is None else _taken(x, read)
        x, normed = ops.add_norm(x, attended, self.post_attention_layernorm)
        return x, self.mlp(normed, ops)


class Attention(nn.Module):
    """Causal self-attention; key and value heads may be grouped."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        width, self.head_dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(width, config.num_attention_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B N C"],
        rotation: Complex[Tensor, "N half"],
        ops: LayerOps,
        read: Int[Tensor, "B P"] | None = None,
    ) -> Float[Tensor, "B P C"]:
        """What the tokens at the positions `read` (None: all) find in those up to their own."""
        # One product for all: under autocast `x` is converted once, and its gradients come as one.
        weights = [self.k_proj.weight, self.v_proj.weight]
        if read is None:
            weights.insert(0, self.q_proj.weight)
        projected = F.linear(x, torch.cat(weights))
        widths = [len(weight) for weight in weights]
        *q_of_all, k, v = ops.heads(projected, widths, len(widths) - 1, self.head_dim, rotation)
        mask = None
        if read is None:
            (q,) = q_of_all  # (B, H, N, D)
        else:
            q = self.q_proj(_taken(x, read)).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            q = rotate_halves(q, rotation[read][:, None])  # (B, H, P, D)
            mask = (torch.arange(x.shape[1], device=x.device) <= read[..., None])[:, None]
        # cuDNN would plan anew for every number of states.
        with sdpa_kernel(MASKED) if mask is not None and q.is_cuda else nullcontext():
            attended = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=read is None, enable_gqa=q.shape[1] != k.shape[1]
            )
        return self.o_proj(attended.transpose(1, 2).flatten(2))  # (B, P, H D) to (B, P, C)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "B N C"], ops: LayerOps) -> Float[Tensor, "B N C"]:
        both = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight]))
        return self.down_proj(ops.gated(both))


def _taken(x: Float[Tensor, "B N C"], positions: Int[Tensor, "B P"]) -> Float[Tensor, "B P C"]:
    """The tokens at these positions of every row."""
    first = x.shape[1] * torch.arange(len(x), device=x.device)[:, None]
    flat = (positions + first).flatten()
    return x.flatten(0, 1).index_select(0, flat).unflatten(0, positions.shape)


def _to_compare(weights: list[Tensor]) -> list[Tensor]:
    """The weights; those on a GPU one after the other in one tensor: one wait compares them all."""
    if weights[0].device.type == "cpu" or len({(w.dtype, w.device) for w in weights}) > 1:
        return weights
    return [torch.cat([weight.flatten() for weight in weights])]


def _equal(weights: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(weights) == len(others) and all(
        (a.dtype, a.device) == (b.dtype, b.device) and torch.equal(a, b)
        for a, b in zip(weights, others, strict=True)
    )


def rope_frequencies(config: GazeDecoderConfig, device: torch.device) -> Float[Tensor, " half"]:
    """Radians per position, one for every pair of channels.

    "llama3" slows wavelengths longer than original / low_freq_factor down by
    `factor`, leaves those shorter than original / high_freq_factor as they are and
    blends in between.

    Raises:
        CheckpointError: another `rope_type` than "default" and "llama3".
    """
    parameters: dict[str, Any] = config.rope_parameters
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (parameters["rope_theta"] ** exponents)
    if kind == "default":
        return sent(frequencies, device)
    if kind != "llama3":
        raise CheckpointError(f"rope_type must be 'default' or 'llama3', got {kind!r}")
    factor = parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = parameters["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return sent(frequencies * (blend + (1 - blend) / factor), device)


def rotations(
    positions: Int[Tensor, " N"], frequencies: Float[Tensor, " half"]
) -> Complex[Tensor, "N half"]:
    """exp(i * position * frequency): multiplying a channel pair by it rotates the pair."""
    angles = positions[:, None].float() * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def rotate_pairs_(x: Float[Tensor, "N channels"], rotation: Complex[Tensor, "N pairs"]) -> None:
    """Rotate adjacent channels of `x` in place, in float32 whatever its precision.

    Args:
        rotation: of at least as many pairs; those beyond are not used.
    """
    pairs = torch.view_as_complex(x.float().unflatten(1, (-1, 2)))
    pairs *= rotation[:, : pairs.shape[1]]
    if x.dtype != torch.float32:  # otherwise `pairs` is a view of it
        x.copy_(torch.view_as_real(pairs).flatten(1))


class FusedLayer:
    """One Llama block with fused weights.

    Gazing feeds a few tokens at a time, hundreds of times per clip, so the number of operations
    counts: q, k and v are one projection, and so are gate and up; the norms' gains and 1 / sqrt(D)
    are multiplied into them; one complex product rotates queries and keys. Together worth 7 to
    12 % of gazing on a CPU.

    Attributes:
        qkv: (C, q + k + v outputs), the two channels of a rotary pair side by side.
        out: (heads * D, C).
        gate_up: (C, 2 * intermediate).
        down: (intermediate, C).
        num_queries, num_keys: outputs of `qkv` that are channels of queries, and of keys.
        root_eps: sqrt(C * eps), see `_normed`; in float32 at least, as norms are computed.
    """

    def __init__(self, layer: DecoderLayer, config: GazeDecoderConfig) -> None:
        attn, mlp, D = layer.self_attn, layer.mlp, config.head_dim
        root = config.hidden_size**0.5  # `_normed` divides by a row's length, RMSNorm by its RMS
        qkv = torch.cat(
            [
                _pairs_adjacent(attn.q_proj.weight, D) * D**-0.5,
                _pairs_adjacent(attn.k_proj.weight, D),
                attn.v_proj.weight,
            ]
        )
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        # Transposed once: few rows are multiplied by them again and again.
        self.qkv = (qkv * (layer.input_layernorm.weight * root)).mT.contiguous()
        self.out = attn.o_proj.weight.mT.contiguous()
        self.gate_up = (gate_up * (layer.post_attention_layernorm.weight * root)).mT.contiguous()
        self.down = mlp.down_proj.weight.mT.contiguous()
        self.head_dim = D
        self.num_queries, self.num_keys = len(attn.q_proj.weight), len(attn.k_proj.weight)
        self.root_eps = torch.tensor(
            (config.hidden_size * config.rms_norm_eps) ** 0.5,
            dtype=exact(qkv.dtype),
            device=qkv.device,
        )

    def project(
        self, x: Float[Tensor, "N C"], rotation: Complex[Tensor, "N pairs"]
    ) -> tuple[Float[Tensor, "N H D"], Float[Tensor, "N KV D"]]:
        """Queries, scaled and rotated, and rotated keys beside values.

        Args:
            rotation: as of `FusedDecoder.rotations`.
        """
        qkv = torch.mm(self._normed(x), self.qkv)
        rotate_pairs_(qkv[:, : self.num_queries + self.num_keys], rotation)
        heads = qkv.unflatten(1, (-1, self.head_dim))  # (N, H + KV, D)
        return heads.tensor_split((self.num_queries // self.head_dim,), 1)

    def project_last(
        self, x: Float[Tensor, "N C"], rotation: Complex[Tensor, "N pairs"], last: Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, "R H D"], Float[Tensor, "N KV D"]]:
        """As `project`, with the queries of tokens `last` only."""
        normed = self._normed(x)
        queries = torch.mm(normed[last], self.qkv[:, : self.num_queries])
        keys_values = torch.mm(normed, self.qkv[:, self.num_queries :])
        rotate_pairs_(queries, rotation[last])
        rotate_pairs_(keys_values[:, : self.num_keys], rotation)
        shape = (-1, self.head_dim)
        return queries.unflatten(1, shape), keys_values.unflatten(1, shape)

    def finish(
        self, x: Float[Tensor, "N C"], attended: Float[Tensor, "N HD"]
    ) -> Float[Tensor, "N C"]:
        """Output projection and SwiGLU, each added to `x`."""
        x = x + torch.mm(attended, self.out)
        gate, up = torch.mm(self._normed(x), self.gate_up).chunk(2, dim=-1)
        return x + torch.mm(F.silu(gate) * up, self.down)

    def _normed(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """RMSNorm without its gain and sqrt(C), which the projection that follows carries.

        x / sqrt(mean(x^2) + eps)  =  sqrt(C) * x / sqrt(|x|^2 + C eps)
        """
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / torch.hypot(length, self.root_eps)).to(self.qkv.dtype)


class FusedDecoder:
    """The gaze decoder with a fused copy of its weights, without gradients.

    Tokens between layers, norms, logits and predicted losses are float32 in half precision too:
    patches of nearly equal probability are told apart by digits that a half does not have.

    Attributes:
        dtype: of the weights, and so of keys and values.
        exact: the precision of all else.
        layers: the blocks.
        embed_tokens: the decoder's own embedding.
        embedding, gain, lm_head, loss_head: the weights of these in exact precision.
        frequencies: of rotary positions.
    """

    @torch.no_grad()
    def __init__(self, decoder: GazeDecoder) -> None:
        self.config = decoder.config
        self.embed_tokens = decoder.model.embed_tokens
        self.dtype = self.embed_tokens.weight.dtype
        self.device = self.embed_tokens.weight.device
        self.exact = exact(self.dtype)
        self.layers = [FusedLayer(layer, self.config) for layer in decoder.model.layers]  # type: ignore[arg-type]
        self.embedding = self.embed_tokens.weight.detach().to(self.exact)
        self.gain = decoder.model.norm.weight.detach().to(self.exact)
        self.lm_head = decoder.lm_head.weight.to(self.exact).mT.contiguous()  # (C, K (V + 1))
        self.loss_head = decoder.task_loss_prediction_head.weight.detach().to(self.exact)
        self.frequencies = rope_frequencies(self.config, self.device)

    @cached_property
    def all_heads(self) -> Float[Tensor, "C outputs"]:
        """Both heads' weights in one: of K times V patches, without the end of sequence, and of K losses."""
        with torch.inference_mode(False), torch.no_grad():
            of_patches = self.lm_head.unflatten(1, (-1, self.config.vocab_size))[..., :-1]
            return torch.cat([of_patches.flatten(1), self.loss_head.mT], 1).contiguous()

    def embed(self, ids: Int[Tensor, "*N"]) -> Float[Tensor, "*N C"]:
        """Input tokens of patches."""
        return F.embedding(ids, self.embedding)

    def norm(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        """The final norm."""
        return F.rms_norm(x, self.gain.shape, self.gain, self.config.rms_norm_eps)

    def rotations(self, positions: Int[Tensor, " N"]) -> Complex[Tensor, "N pairs"]:
        """Rotations of all channel pairs of queries and keys: the same for every head."""
        config, rotation = self.config, rotations(positions, self.frequencies)  # (N, D / 2)
        return rotation.repeat(1, config.num_attention_heads + config.num_key_value_heads)

    def heads(
        self, hidden: Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B K V1"], Float[Tensor, "B K"]]:
        """As `GazeDecoder.heads`."""
        logits = torch.mm(hidden, self.lm_head).unflatten(-1, (-1, self.config.vocab_size))
        return logits, F.linear(hidden, self.loss_head)


def _pairs_adjacent(weight: Float[Tensor, "out C"], head_dim: int) -> Float[Tensor, "out C"]:
    """Reorder a q or k projection so that the two channels of a rotary pair are adjacent.

    Llama rotates channel i with channel i + D / 2. With the pairs adjacent a rotation is one
    complex product; queries and keys reordered alike keep their dot products.
    """
    C = weight.shape[-1]
    return weight.view(-1, 2, head_dim // 2, C).transpose(1, 2).reshape(-1, C)
