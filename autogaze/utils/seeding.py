"""Seeding: random generators that follow from what they are for, not from earlier draws.

A resumed training draws what the uninterrupted one would have drawn, in any order and
in any number of processes: no generator's state is saved.
"""

import hashlib

import torch


def seeded(*parts: int | str) -> torch.Generator:
    """CPU generator seeded by the parts: `seeded("video", seed, epoch, index)`."""
    text = "/".join(map(str, parts)).encode()
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(seed & (2**63 - 1))


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, stop: int) -> int:
    """One integer from [0, stop)."""
    return int(torch.randint(stop, (), generator=generator))
