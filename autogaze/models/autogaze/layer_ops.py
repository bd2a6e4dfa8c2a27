"""What a decoder's layer does between its products, when whole sequences are scored or trained on.

`LayerOps` are PyTorch's operators. On a GPU most of a training step was spent on these, not on products:
`triton_layer_ops.py` has the same as one kernel each.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F


class LayerOps:
    """The operators, all of them differentiable."""

    def add_norm(
        self, x: Float[Tensor, "*N C"], added: Float[Tensor, "*N C"] | None, norm: nn.RMSNorm
    ) -> tuple[Float[Tensor, "*N C"], Float[Tensor, "*N C"]]:
        """`x` with what a layer adds to it, and this normed, as products take it."""
        x = x if added is None else x + added
        return x, norm(x)

    def heads(
        self,
        projected: Float[Tensor, "B N outputs"],
        widths: Sequence[int],
        num_rotated: int,
        head_dim: int,
        rotation: Complex[Tensor, "N half"],
    ) -> list[Float[Tensor, "B heads N D"]]:
        """Queries, keys or values by their heads, of which the first are rotated.

        Args:
            widths: outputs that belong to each of these.
            num_rotated: how many of these are rotated.
        """
        parts = [
            part.unflatten(-1, (-1, head_dim)).transpose(1, 2)
            for part in projected.split(list(widths), -1)
        ]
        rotated = [rotate_halves(part, rotation) for part in parts[:num_rotated]]
        return [*rotated, *parts[num_rotated:]]

    def gated(self, gate_up: Float[Tensor, "*N both"]) -> Float[Tensor, "*N inner"]:
        """SwiGLU's inner channels of its two products, which lie side by side."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


def rotate_halves(
    x: Float[Tensor, "B H N D"], rotation: Complex[Tensor, "... N half"]
) -> Float[Tensor, "B H N D"]:
    """Rotate channel i with channel i + D / 2, in float32 whatever the precision of `x`."""
    pairs = torch.complex(*x.float().chunk(2, dim=-1)) * rotation
    return torch.cat([pairs.real, pairs.imag], dim=-1).to(x.dtype)
