"""Kernels compiled for a GPU that is not here."""

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

    aligned = {
        (number,): [["tt.divisibility", 16]]
        for number, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
