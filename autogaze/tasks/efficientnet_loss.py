"""A perceptual term whose weights come in a package, so that no hub is needed."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.reconstruction.efficientnet import EfficientNetLite
from autogaze.reconstruction.efficientnet_weights import load_efficientnet
from autogaze.tasks.loss_networks import State

DEPTHS = (3, 5, 7)
"""Texture, parts and things: features of every 8, 16 and 32 pixels.

On real frames the three are alike in size: after halving the resolution .16, .18 and .23,
between two different videos 1.7 each.
"""


class EfficientNetLoss(nn.Module):
    """Mean squared distance between directions of features, from 0 to 4.

        loss = mean over depths d, mean over places p of |u_d(made)_p - u_d(real)_p|^2,
        u_d(x)_p = f_d(x)_p / |f_d(x)_p|

    where f_d are the frozen network's features at depth d, vectors of the channels: LPIPS
    (https://arxiv.org/abs/1801.03924) without learned weights, averaged over depths. That is
    2 - 2 cosine: the same picture costs 0, an unrelated one about 2.

    Args:
        network: see `load_efficientnet`.
    """

    def __init__(self, network: EfficientNetLite) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(
        self, made: Float[Tensor, "N 3 S S"], real: Float[Tensor, "M 3 S S"]
    ) -> Float[Tensor, " N"]:
        with torch.no_grad():
            wanted = self.network(real, DEPTHS)
        distances = [
            (F.normalize(found, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean((1, 2))
            for found, target in zip(self.network(made, DEPTHS), wanted, strict=True)
        ]
        return torch.stack(distances).mean(0)


def efficientnet(state: State | None = None) -> EfficientNetLoss:
    """`efficientnet`: EfficientNet-Lite0, of a state dict or from its package."""
    return EfficientNetLoss(load_efficientnet("lite0", state))
