"""Random numbers that follow from what they are for, not from what was drawn before.

A resumed training draws what the uninterrupted one would have drawn, in any order and
any number of processes, because no generator's state has to be carried along.
"""

import hashlib

import torch


def seeded(*parts: int | str) -> torch.Generator:
    """A generator for one purpose: the same parts, the same numbers."""
    text = "/".join(map(str, parts)).encode()
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(seed & (2**63 - 1))


def fingerprint(*parts: object) -> str:
    """Eight hexadecimal digits that tell other parts apart, by how they are printed."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=4).hexdigest()


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: torch.Generator, stop: int) -> int:
    """One whole number from [0, stop)."""
    return int(torch.randint(stop, (), generator=generator))
