"""Changes of bytes, of JSON values and of arguments."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 16, 255, 1000, 10**6, 2**31, 2**63, -(2**63), 10**25),
    *(0.0, 0.5, 1.5, -0.25, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")),
    *("", "text", "16", "0.5", "32+64", "é\ud800", "x" * 5000, "../..", "null"),
    *([], {}, [1, 2], [[]], {"a": 1}, [None], ["x"], [float("nan")], DEEP),
)
"""Values that are wrong in most places."""


def arrays() -> tuple[Any, ...]:
    """Objects that only a program can give."""
    return (
        np.zeros(3),
        np.zeros((2, 2, 2), dtype=object),
        np.array("text"),
        np.int64(3),
        np.float32("nan"),
        torch.zeros(2, 2),
        torch.zeros(1, 2, 3, 64, 64),
        torch.zeros(1, 2, 3, 64, 64, dtype=torch.complex64),
        torch.zeros(1, 2, 3, 64, 64, dtype=torch.int32),
        torch.full((1, 2, 3, 64, 64), float("nan")),
        torch.zeros(0, 2, 3, 64, 64),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).to_sparse(),
        torch.tensor(5),
        torch.tensor([], dtype=torch.long),
        torch.zeros(1, 2, dtype=torch.bool),
        object(),
        print,
        Path("/nonexistent"),
        b"bytes",
        "a\0b",
        "x" * 300,
        {1, 2},
        range(3),
        3 + 4j,
    )


def change_bytes(data: bytes, random: Random) -> bytes:
    """One to six changes of some bytes."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        size = len(content)
        if size == 0:
            return bytes(random.randbytes(random.randrange(40)))
        # Most of what a format says stands at its beginning or its end.
        place = random.choice((random.randrange(size), random.randrange(min(size, 400)), size - 1))
        width = min(random.choice((1, 1, 2, 4, 8, 64, 1000)), size - place)
        kind = random.randrange(8)
        if kind == 0:
            content[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            content[place : place + width] = random.randbytes(width)
        elif kind == 2:
            content[place : place + width] = random.choice((b"\0", b"\xff", b"\x7f")) * width
        elif kind == 3:
            del content[place:]
        elif kind == 4:
            del content[place : place + width]
        elif kind == 5:
            content[place:place] = random.randbytes(width)
        elif kind == 6:
            start = random.randrange(size)
            content[place:place] = content[start : start + width]
        else:
            start = random.randrange(size)
            content[place : place + width] = content[start : start + width]
    return bytes(content)


def change_values(tree: Any, random: Random, extra: tuple[Any, ...] = ()) -> tuple[Any, list[str]]:
    """One to three changes of nested values; the changed tree, and the names that lead there."""
    tree, names = copy.deepcopy(tree), []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree, ()))
        if not places:
            return copy.deepcopy(random.choice(VALUES)), names
        holder, key, path = random.choice(places)
        names.append(".".join(map(str, path)))
        kind = random.randrange(10)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        elif kind == 2 and isinstance(holder[key], int | float):
            holder[key] = random.choice((-1, 2, 0.5, 1000, 10**9)) * holder[key]
        else:
            holder[key] = copy.deepcopy(random.choice((*VALUES, *extra)))
    return tree, names


def _places(tree: Any, path: tuple[Any, ...]) -> Any:
    items: Any = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for key, value in items:
        yield tree, key, (*path, key)
        if len(path) < 8:
            yield from _places(value, (*path, key))


def to_json(tree: Any) -> str:
    """JSON, with lone surrogates and NaN as Python writes them."""
    return json.dumps(tree)
