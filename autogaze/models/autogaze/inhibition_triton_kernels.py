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
def turn(
    then, visible, num_patches, num_values, before, before_row, ids, ids_row, kept, kept_row, num_ids,
    covers, now, now_row, full_change, floor, weights, BLOCK: tl.constexpr, IDS: tl.constexpr,
    REMEMBERS: tl.constexpr, WEIGHS: tl.constexpr,
):  # fmt: skip
    """What the frame before gazed at is remembered, and patches are weighed; its programs are (rows, patches).

    Args:
        then: (row, patch, value) pixels of all patches at their last gaze, with one patch more.
        visible: (row, patch) bytes: whether there are any.
        before, now: (row, patch, value) pixels of both frames, rows apart by their strides.
        ids, kept: (row, slot) of the frame before, the latter bytes; rows apart by their strides.
        covers: (patch, finer patch) bytes: whether they overlap.
        weights: (row, patch) logarithms of the factors on probabilities.
        BLOCK, IDS: powers of two, no less than `num_values`, `num_ids`.
        REMEMBERS, WEIGHS: which of both is done.
    """
    row = tl.program_id(0).to(tl.int64)
    patch = tl.program_id(1)
    at = row * num_patches + patch
    values = tl.arange(0, BLOCK)
    to = then + (row * (num_patches + 1) + patch) * num_values + values
    seen = tl.load(visible + at).to(tl.int32)
    if REMEMBERS:
        slots = tl.arange(0, IDS)
        is_kept = tl.load(kept + row * kept_row + slots, mask=slots < num_ids, other=0) != 0
        chosen = tl.load(ids + row * ids_row + slots, mask=is_kept, other=0)
        covering = tl.load(covers + chosen * num_patches + patch, mask=is_kept, other=0)
        is_covered = tl.max(covering.to(tl.int32), 0)
        is_gazed = tl.max((is_kept & (chosen == patch)).to(tl.int32), 0)
        # Nothing is read of patches that were not gazed at.
        is_new = values < tl.where(is_gazed != 0, num_values, 0)
        pixels = tl.load(
            before + row * before_row + patch * num_values + values, mask=is_new, other=0.0
        )
        tl.store(to, pixels, mask=is_new)
        is_old = values < tl.where(is_covered + is_gazed == 0, seen * num_values, 0)
        seen = tl.maximum(tl.where(is_covered != 0, 0, seen), is_gazed)
        tl.store(visible + at, seen.to(tl.uint8))
        if WEIGHS:
            pixels += tl.load(to, mask=is_old, other=0.0)  # the other is zero
    else:
        pixels = tl.load(to, mask=values < seen * num_values, other=0.0)
    if WEIGHS:
        is_value = values < seen * num_values
        new = tl.load(now + row * now_row + patch * num_values + values, mask=is_value, other=0.0)
        share = tl.sum(tl.abs(new - pixels), 0) / num_values / full_change + floor
        tl.store(weights + at, tl.where(seen != 0, tl.log(tl.minimum(share, 1.0)), 0.0))
