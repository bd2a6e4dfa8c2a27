"""Seeding: random generators determined by their purpose, not by earlier draws.

A resumed training draws the same numbers as an uninterrupted one, in any order and any number
of processes, without saved generator states.
"""

import hashlib

import torch

from autogaze.checks import describe_value, whole
from autogaze.errors import AutoGazeError

LEAST, GREATEST = -(2**63), 2**64 - 1
"""Seeds that PyTorch takes."""


def generator_of(seed: float) -> torch.Generator:
    """CPU generator of a seed that somebody gave.

    Raises:
        AutoGazeError: not a whole number, or beyond what PyTorch takes.
    """
    return torch.Generator().manual_seed(check_seed(seed))


def check_seed(seed: float) -> int:
    """The seed as an integer; `AutoGazeError` unless it is a whole number that PyTorch takes."""
    number = whole(seed)
    if number is None or not LEAST <= number <= GREATEST:
        raise AutoGazeError(
            f"the seed must be a whole number from -2**63 to 2**64 - 1, got {describe_value(seed)}"
        )
    return number


def numpy_seed(seed: int) -> int:
    """The seed for NumPy, which takes none below 0: those count from 2**64 down."""
    return seed if seed >= 0 else seed % 2**64


def seeded(*parts: int | str) -> torch.Generator:
    """CPU generator seeded by the parts: `seeded("video", seed, epoch, index)`."""
    text = "/".join(map(str, parts)).encode(errors="surrogateescape")
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(seed & (2**63 - 1))


def seed_weights(seed: int) -> None:
    """Seed PyTorch's global generators, which modules draw their initial weights from.

    Raises:
        AutoGazeError: see `check_seed`.
    """
    torch.manual_seed(check_seed(seed))


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, stop: int) -> int:
    """One integer from [0, stop)."""
    return int(torch.randint(stop, (), generator=generator))
