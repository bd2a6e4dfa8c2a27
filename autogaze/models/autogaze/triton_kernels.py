"""The one kernel of sampling on a GPU (Triton): `block_taker.py` launches it."""

import triton
import triton.language as tl


@triton.jit
def take_in_turn(
    logits, row_stride, head_stride, num_heads, num_patches, taken, ids, BLOCK: tl.constexpr,
):  # fmt: skip
    """The likeliest patch of each head in turn, never one that is taken; its programs are the rows.

    Args:
        logits: of row i and head k from `i * row_stride + k * head_stride` on.
        taken: (row, patch) bytes, to which the patches are added.
        ids: (row, head) where they go; 0 once no patch is left, as PyTorch has it.
        BLOCK: a power of two, no less than `num_patches`.
    """
    row = tl.program_id(0).to(tl.int64)
    patches = tl.arange(0, BLOCK)
    is_patch = patches < num_patches
    was_taken = tl.load(taken + row * num_patches + patches, mask=is_patch, other=1) != 0
    free = is_patch & (was_taken == 0)
    for head in range(num_heads):
        values = tl.load(
            logits + row * row_stride + head * head_stride + patches, mask=free, other=float("-inf")
        )
        # The lowest of several that are equally likely.
        likeliest = is_patch & (values == tl.max(values, 0))
        best = tl.min(tl.where(likeliest, patches, BLOCK), 0)
        tl.store(ids + row * num_heads + head, best.to(tl.int64))
        free = free & (patches != best)
    tl.store(taken + row * num_patches + patches, (free == 0).to(tl.uint8), mask=is_patch)
