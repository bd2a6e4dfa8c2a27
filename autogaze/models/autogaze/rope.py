"""Rotary positions with Llama 3's frequency scaling."""

import math
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from autogaze.errors import CheckpointError


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
