"""Kernels of inhibition of return on a GPU (Triton): `triton_inhibition.py` launches them."""

import triton
import triton.language as tl


@triton.jit
def cut(
    frames, clip_stride, frame_stride, num_frames, factors, out, num_patches, first,
    SIDE: tl.constexpr, SCALE: tl.constexpr, GRID: tl.constexpr, SIZE: tl.constexpr,
    TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pixels of all patches of a scale, each the mean under it; its programs are (frames, patches).

    Args:
        frames: (3, SIDE, SIDE) each, the channels multiplied by `factors`.
        out: (frame, patch, 3 * SIZE * SIZE) numbers.
        first: the scale's first patch.
        TAPS: the most pixels of a frame along an axis that one of the scale overlaps.
        BLOCK: a power of two, no less than SIZE * SIZE.
    """
    frame = tl.program_id(0)
    cell = tl.program_id(1)
    picture = frames + (frame // num_frames).to(tl.int64) * clip_stride
    picture += (frame % num_frames).to(tl.int64) * frame_stride
    pixels = tl.arange(0, BLOCK)
    is_pixel = pixels < SIZE * SIZE
    y = (cell // GRID) * SIZE + pixels // SIZE
    x = (cell % GRID) * SIZE + pixels % SIZE
    # Along an axis pixel p of a frame is p * SCALE to (p + 1) * SCALE, and of the scale y * SIDE on.
    top, left = y * SIDE, x * SIDE
    patch = frame.to(tl.int64) * num_patches + first + cell
    for channel in tl.static_range(3):
        total = tl.zeros([BLOCK], tl.float32)
        for down in range(TAPS):
            row = top // SCALE + down
            high = tl.minimum(top + SIDE, row * SCALE + SCALE) - tl.maximum(top, row * SCALE)
            for right in range(TAPS):
                column = left // SCALE + right
                wide = tl.minimum(left + SIDE, column * SCALE + SCALE)
                wide -= tl.maximum(left, column * SCALE)
                is_here = is_pixel & (row < SIDE) & (column < SIDE) & (high > 0) & (wide > 0)
                value = tl.load(
                    picture + (channel * SIDE + row) * SIDE + column, mask=is_here, other=0.0
                )
                total += value.to(tl.float32) * (high * wide).to(tl.float32)
        total = total / (SIDE * SIDE) * tl.load(factors + channel)
        to = out + (patch * 3 + channel) * SIZE * SIZE + pixels
        tl.store(to, total, mask=is_pixel)


@triton.jit
def weigh(
    now, now_row, then, visible, num_patches, num_values, full_change, floor, weights,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Logarithms of the factors on probabilities; its programs are (rows, patches).

    Args:
        now: (row, patch, value), rows `now_row` apart; `then`: with one patch more.
        visible: (row, patch) bytes, 0 where the factor is 1.
        BLOCK: a power of two, no less than `num_values`.
    """
    row = tl.program_id(0).to(tl.int64)
    patch = tl.program_id(1)
    at = row * num_patches + patch
    is_visible = tl.load(visible + at) != 0
    values = tl.arange(0, BLOCK)
    # Of others nothing is read.
    is_value = values < tl.where(is_visible, num_values, 0)
    old = then + (row * (num_patches + 1) + patch) * num_values + values
    new = now + row * now_row + patch * num_values + values
    change = tl.load(new, mask=is_value, other=0.0) - tl.load(old, mask=is_value, other=0.0)
    share = tl.sum(tl.abs(change), 0) / num_values / full_change + floor
    tl.store(weights + at, tl.where(is_visible, tl.log(tl.minimum(share, 1.0)), 0.0))


@triton.jit
def remember(
    now, now_row, then, visible, num_patches, num_values, ids, ids_row, kept, kept_row, num_ids,
    covers, BLOCK: tl.constexpr, IDS: tl.constexpr,
):  # fmt: skip
    """What was gazed at, and what that covers; its programs are (rows, patches).

    Args:
        ids, kept: (row, slot), the latter bytes; rows apart by their strides.
        covers: (patch, finer patch) bytes: whether they overlap.
        BLOCK, IDS: powers of two, no less than `num_values`, `num_ids`.
    """
    row = tl.program_id(0).to(tl.int64)
    patch = tl.program_id(1)
    slots = tl.arange(0, IDS)
    is_slot = slots < num_ids
    is_kept = tl.load(kept + row * kept_row + slots, mask=is_slot, other=0) != 0
    chosen = tl.load(ids + row * ids_row + slots, mask=is_kept, other=0)
    covering = tl.load(covers + chosen * num_patches + patch, mask=is_kept, other=0)
    is_covered = tl.max(covering.to(tl.int32), 0)
    is_gazed = tl.max((is_kept & (chosen == patch)).to(tl.int32), 0)
    seen = visible + row * num_patches + patch
    stays = tl.where(is_covered != 0, 0, tl.load(seen).to(tl.int32))
    tl.store(seen, tl.maximum(stays, is_gazed).to(tl.uint8))
    values = tl.arange(0, BLOCK)
    is_value = values < tl.where(is_gazed != 0, num_values, 0)
    pixels = tl.load(now + row * now_row + patch * num_values + values, mask=is_value, other=0.0)
    old = then + (row * (num_patches + 1) + patch) * num_values + values
    tl.store(old, pixels, mask=is_value)
