"""Kernels of a block of patches on a GPU (Triton): `block_taker.py` launches them."""

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


@triton.jit
def limit(
    losses, loss_stride, thresholds, threshold_row, threshold_slot, num_heads, ids, kept, going, left,
    turns, predicted, unfed, valid, valid_stride, BLOCK: tl.constexpr,
):  # fmt: skip
    """What caps and thresholds leave of a block; its programs are the rows.

    Arguments of one row after another: `BlockRows` says what they are; flags are bytes.

    Args:
        losses: (row, head), `loss_stride` apart.
        thresholds: (row, head), by their two strides.
        BLOCK: a power of two, no less than `num_heads`.
    """
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, BLOCK)
    is_slot = slots < num_heads
    goes = tl.load(going + row) != 0
    room = tl.load(left + row)
    loss = tl.load(losses + row * loss_stride + slots, mask=is_slot, other=0.0)
    least = tl.load(
        thresholds + row * threshold_row + slots * threshold_slot, mask=is_slot, other=0.0
    )
    is_going = slots < tl.where(goes, num_heads, 0)  # of a row that takes part, every slot
    has_room = is_going & (slots < room)
    stops = has_room & (loss <= least)
    keeps = has_room & (stops == 0)
    tl.store(kept + row * num_heads + slots, keeps.to(tl.uint8), mask=is_slot)
    # The loss that is left is predicted by the slot that stops, by that behind the cap, or the last.
    ends = is_slot & (stops | (slots >= room) | (slots == num_heads - 1))
    slot = tl.min(tl.where(ends, slots, BLOCK), 0)
    found = tl.sum(tl.where(slots == slot, loss, 0.0), 0)
    tl.store(predicted + row, tl.where(goes, found, tl.load(predicted + row)))
    goes_on = (tl.sum(keeps.to(tl.int32), 0) == num_heads) & (room > num_heads)
    chosen = tl.load(ids + row * num_heads + slots, mask=is_slot, other=0)
    tl.store(unfed + row * num_heads + slots, chosen, mask=is_going)
    # None of a row that goes on: it is fed next.
    to_feed = keeps & (goes_on == 0)
    tl.store(valid + row * valid_stride + slots, to_feed.to(tl.uint8), mask=is_going)
    tl.store(turns + row, tl.load(turns + row) + goes.to(tl.int64))
    tl.store(going + row, goes_on.to(tl.uint8))
    tl.store(left + row, room - num_heads)
