"""Triton's interpreter, in a third of its time: `pytest -p tests.quick_interpreter`, with TRITON_INTERPRET=1.

It puts functions of its own into Triton's language at every call, of device functions too: once is
enough. It computes whether integers overflow with a dozen operations of the language and then, unless
it debugs, asserts nothing: here NumPy computes it, and it is asserted.
"""

import functools
from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def assert_no_overflow(semantic: Any, one: Any, other: Any, operation: Any) -> None:
    kind = one.type.scalar
    if kind.int_bitwidth >= 64:
        return
    wide = (side.handle.data.astype(np.int64) for side in (one, other))
    result = OPERATIONS[operation.__name__](*wide)
    least, most = kind.get_int_min_value(), kind.get_int_max_value()
    assert least <= result.min() <= result.max() <= most, (
        f"{kind} overflows in {operation.__name__}"
    )


patch = functools.cache(interpreter._patch_lang)


def patch_once(function: Any) -> Any:
    patch(function)
    return interpreter._LangPatchScope()  # of which nothing is taken back


number_type = functools.cache(interpreter._get_np_dtype)


def numpy_type(dtype: Any) -> np.dtype[Any]:
    scalar = dtype.scalar
    return np.dtype(np.uint64) if isinstance(scalar, tl.pointer_type) else number_type(scalar)


interpreter._patch_lang = patch_once
interpreter._get_np_dtype = numpy_type
TritonSemantic.binary_op_sanitize_overflow_impl = assert_no_overflow
