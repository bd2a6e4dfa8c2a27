"""The compiled kernel, called with tensors."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.models.autogaze.native.build import NotBuiltError

GROUP = 16
"""Keys that lie side by side in a cache: its capacity is a multiple of it."""


class _Feed(ctypes.Structure):
    """`Feed` of attention.c."""

    _fields_ = (
        ("parallel", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("num_rows", ctypes.c_int32),
        ("row_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("row", ctypes.c_void_p),
        ("held", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
    )


class Fed:
    """Which tokens are new in a cache, in the kernel's words; the same for all layers.

    Args:
        cache: one layer's, (B, 2 * kv heads, capacity, D), contiguous in each row.
        rows, held, counts: a fed row each: which, tokens it held before, new ones.
    """

    def __init__(
        self,
        library: "Library",
        cache: Float[Tensor, "B KV capacity D"],
        rows: Sequence[int],
        held: Sequence[int],
        counts: Sequence[int],
    ) -> None:
        firsts = [sum(counts[:index]) for index in range(len(counts))]
        numbers = (*rows, *held, *counts, *firsts)
        self.num_tokens = sum(counts)
        self._numbers = (ctypes.c_int64 * len(numbers))(*numbers)
        start, step = ctypes.addressof(self._numbers), 8 * len(rows)
        self._feed = _Feed(
            library.parallel,
            torch.get_num_threads(),
            cache.shape[1] // 2,
            len(rows),
            cache.stride(0),
            cache.stride(1),
            *(start + step * index for index in range(4)),
        )
        self.address = ctypes.addressof(self._feed)


class Library:
    """Attention and storing for one head dimension.

    Args:
        path: of the compiled kernel.

    Raises:
        NotBuiltError: it cannot be loaded, or PyTorch's threads cannot be had.
    """

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise NotBuiltError(f"the compiled kernel cannot be loaded: {error}") from error
        self.parallel = _parallel()
        self._attend, self._store = library.attend, library.store
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._attend.argtypes = [pointer, pointer, pointer, integer, ctypes.c_int32, pointer]
        self._store.argtypes = [pointer, pointer, pointer, integer]
        self._attend.restype = self._store.restype = None

    def attend(
        self, fed: Fed, cache: Float[Tensor, "B KV capacity D"], queries: Float[Tensor, "N H D"]
    ) -> Float[Tensor, "N HD"]:
        """Attention of new tokens, which must have been stored, over their rows up to themselves.

        Queries come scaled.
        """
        attended = queries.new_empty(queries.shape[0], queries.shape[1] * queries.shape[2])
        queries = _heads_together(queries)
        self._attend(
            fed.address,
            cache.data_ptr(),
            queries.data_ptr(),
            queries.stride(0),
            queries.shape[1],
            attended.data_ptr(),
        )
        return attended

    def store(
        self,
        fed: Fed,
        cache: Float[Tensor, "B KV capacity D"],
        keys_values: Float[Tensor, "N KV D"],
    ) -> None:
        """Put the new tokens' keys and values where the cache has them."""
        keys_values = _heads_together(keys_values)
        self._store(fed.address, cache.data_ptr(), keys_values.data_ptr(), keys_values.stride(0))


def _heads_together(x: Float[Tensor, "N H D"]) -> Float[Tensor, "N H D"]:
    """The same with the heads of a token side by side."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _parallel() -> int:
    """Address of the GOMP_parallel that PyTorch itself calls.

    A second pool of threads would fight with PyTorch's over the same cores.
    """
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(path)).GOMP_parallel
    except (OSError, AttributeError) as error:
        raise NotBuiltError(f"PyTorch's threads cannot be had: {error}") from error
    return ctypes.cast(function, ctypes.c_void_p).value or 0
