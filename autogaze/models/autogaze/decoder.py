"""The small Llama that gazes: parameters under the checkpoint's names, and the
teacher-forced pass over whole sequences. Gazing itself is in `decoding.py`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.models.autogaze.configuration import GazeDecoderConfig
from autogaze.models.autogaze.rope import pair_channels, rope_frequencies, rotate


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

    Attributes:
        qkv: (q + k + v outputs, C), q and k with rotary pairs adjacent and the input
            norm's gain multiplied in.
        gate_up: (2 * intermediate, C), the post-attention norm's gain multiplied in.
    """

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float

    @classmethod
    def of(cls, layer: DecoderLayer, config: GazeDecoderConfig) -> "FusedLayer":
        attn, mlp, D = layer.self_attn, layer.mlp, config.head_dim
        qkv = torch.cat(
            [
                pair_channels(attn.q_proj.weight, D),
                pair_channels(attn.k_proj.weight, D),
                attn.v_proj.weight,
            ]
        )
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        return cls(
            qkv * layer.input_layernorm.weight,
            attn.o_proj.weight,
            gate_up * layer.post_attention_layernorm.weight,
            mlp.down_proj.weight,
            config.num_attention_heads,
            config.num_key_value_heads,
            D,
            config.rms_norm_eps,
        )

    def project(
        self, x: Float[Tensor, "*N C"], rotation: Complex[Tensor, "*#N half"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (*N, heads, D) and keys (*N, kv heads, D), and values."""
        H, G, D = self.num_heads, self.num_kv_heads, self.head_dim
        qkv = F.linear(_normed(x, self.eps), self.qkv).unflatten(-1, (H + 2 * G, D))
        qk = rotate(qkv[..., : H + G, :], rotation.unsqueeze(-2))
        return qk[..., :H, :], qk[..., H:, :], qkv[..., H + G :, :]

    def keys_values(
        self, x: Float[Tensor, "*N C"], rotation: Complex[Tensor, "*#N half"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Like `project` without the queries: the normed input, keys and values."""
        H, G, D = self.num_heads, self.num_kv_heads, self.head_dim
        normed = _normed(x, self.eps)
        kv = F.linear(normed, self.qkv[H * D :]).unflatten(-1, (2 * G, D))
        return normed, rotate(kv[..., :G, :], rotation.unsqueeze(-2)), kv[..., G:, :]

    def queries(
        self, normed: Float[Tensor, "*N C"], rotation: Complex[Tensor, "*#N half"]
    ) -> Tensor:
        """Rotated queries (*N, heads, D) of an already normed input."""
        H, D = self.num_heads, self.head_dim
        return rotate(
            F.linear(normed, self.qkv[: H * D]).unflatten(-1, (H, D)), rotation.unsqueeze(-2)
        )

    def finish(
        self, x: Float[Tensor, "*N C"], attended: Float[Tensor, "*N HD"]
    ) -> Float[Tensor, "*N C"]:
        """What follows attention: output projection and SwiGLU, each added to `x`."""
        x = x + F.linear(attended, self.out)
        gate, up = F.linear(_normed(x, self.eps), self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


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

    def fused_layers(self) -> list[FusedLayer]:
        return [FusedLayer.of(layer, self.config) for layer in self.model.layers]  # type: ignore[arg-type]

    def frequencies(self) -> Float[Tensor, " half"]:
        device = self.lm_head.weight.device
        return rope_frequencies(self.config.rope_parameters, self.config.head_dim).to(device)

    def forward(
        self, x: Float[Tensor, "B N C"], rotation: Complex[Tensor, "#B N half"]
    ) -> Float[Tensor, "B N C"]:
        """Final hidden states of whole sequences; every token sees itself and what is before."""
        for layer in self.fused_layers():
            q, k, v = (part.transpose(1, 2) for part in layer.project(x, rotation))
            attended = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=layer.num_heads != layer.num_kv_heads
            )
            x = layer.finish(x, attended.transpose(1, 2).flatten(2))
        return self.model.norm(x)

    def heads(
        self, hidden: Float[Tensor, "*N C"]
    ) -> tuple[Float[Tensor, "*N K V1"], Float[Tensor, "*N K"]]:
        """K x (V + 1) logits and K predicted losses of each hidden state."""
        logits = self.lm_head(hidden).unflatten(-1, (-1, self.config.vocab_size))
        return logits, self.predicted_losses(hidden)

    def predicted_losses(self, hidden: Float[Tensor, "*N C"]) -> Float[Tensor, "*N K"]:
        """K predicted losses: before each of the K patches proposed next is added."""
        return self.task_loss_prediction_head(hidden)


def _normed(x: Tensor, eps: float) -> Tensor:
    """RMSNorm without its gain, which the following projection carries."""
    return F.rms_norm(x, (x.shape[-1],), eps=eps)
