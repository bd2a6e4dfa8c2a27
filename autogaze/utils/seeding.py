"""Seeding: random generators determined by their purpose, not by earlier draws.

A resumed training draws the same numbers as an uninterrupted one, in any order and any number
of processes, without saved generator states.
"""

import hashlib

import torch


def seeded(*parts: int | str) -> torch.Generator:
    """CPU generator seeded by the parts: `seeded("video", seed, epoch, index)`."""
    text = "/".join(map(str, parts)).encode(errors="surrogateescape")
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(seed & (2**63 - 1))


def seed_weights(seed: int) -> None:
    """Seed PyTorch's global generators, which modules draw their initial weights from."""
    torch.manual_seed(seed)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, stop: int) -> int:
    """One integer from [0, stop)."""
    return int(torch.randint(stop, (), generator=generator))
