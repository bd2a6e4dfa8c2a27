"""EfficientNet-Lites with random weights."""

import torch
from torch import nn

from autogaze.reconstruction.efficientnet import EfficientNetLite


def random_efficientnet(variant="lite0", seed=0):
    """Of weights that neither let signals die nor explode on the way."""
    generator = torch.Generator().manual_seed(seed)
    network = EfficientNetLite(variant)
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, generator=generator)
        else:
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return network.eval().requires_grad_(False)
