"""ViT blocks over packed tokens, under the parameter names of published MAE checkpoints."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.vision_encoders.attention import packed_attention
from autogaze.vision_encoders.layout import TokenLayout


class SelfAttention(nn.Module):
    """Queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)


class Dense(nn.Module):
    """A linear layer that checkpoints keep one level down."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "*N inputs"]) -> Float[Tensor, "*N outputs"]:
        return self.dense(x)


class Attention(nn.Module):
    """Attention of packed tokens, and its output projection."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = SelfAttention(width)
        self.output = Dense(width, width)

    def forward(self, x: Float[Tensor, "N C"], layout: TokenLayout) -> Float[Tensor, "N C"]:
        part = self.attention
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)  # (H, N, D)
            for project in (part.query, part.key, part.value)
        )
        return self.output(packed_attention(q, k, v, layout).flatten(1))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, num_heads: int, intermediate: int, eps: float) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads)
        self.intermediate = Dense(width, intermediate)
        self.output = Dense(intermediate, width)
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Float[Tensor, "N C"], layout: TokenLayout) -> Float[Tensor, "N C"]:
        x = x + self.attention(self.layernorm_before(x), layout)
        return x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))
