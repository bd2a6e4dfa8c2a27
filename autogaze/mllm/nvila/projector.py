"""The projector: patches of the tower, several side by side, to tokens of the LLM."""

from jaxtyping import Float
from torch import Tensor, nn


class Projector(nn.Sequential):
    """LayerNorm, Linear, GELU, LayerNorm, Linear, GELU, Linear.

    Args:
        inner: channels of the patches of one token, side by side.
        hidden: channels between the layers.
        outer: channels of the LLM's embeddings.
    """

    def __init__(self, inner: int, hidden: int, outer: int) -> None:
        super().__init__(
            nn.LayerNorm(inner),
            nn.Linear(inner, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, outer),
        )

    def forward(self, tokens: Float[Tensor, "N inner"]) -> Float[Tensor, "N outer"]:
        return super().forward(tokens)
