"""Kernels compiled for a GPU that is not here."""

import inspect
from typing import Any


def compile_for_gpu(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    capability: int = 90,
    **options: Any,
) -> Any:
    """A kernel compiled for a GPU of this compute capability, times ten; pointers are to aligned memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = [number for number, kind in enumerate(signature.values()) if kind.startswith("*")]
    if "constexprs" in inspect.signature(ASTSource).parameters:
        aligned: Any = {(number,): [["tt.divisibility", 16]] for number in pointers}
    else:  # Triton 3.2
        from triton.backends.compiler import AttrsDescriptor

        aligned = AttrsDescriptor.from_dict(
            {"arg_properties": {"tt.divisibility": pointers}, "cls": "AttrsDescriptor"}
        )
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
