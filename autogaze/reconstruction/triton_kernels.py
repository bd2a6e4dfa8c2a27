"""Kernels of the greedy search on a GPU (Triton): `triton_search.py` launches them.

    shrink, widen -> errors (of the coarser scales)          all frames at once
                     errors (of the canvas), search, paint   frame by frame

Every sum is added up in the order of `greedy_errors.h` by one lane, with fused products where a
matrix product has them, so that error sums are the CPU's floats; from there on all numbers are
integers. `search` is one program per clip, which keeps its state in registers. No kernel reads what
another lane of it wrote: between kernels the device's queue is the only barrier.
"""

import triton
import triton.language as tl

TAPS = tl.constexpr(4)
"""Factors of a bicubic interpolation along an axis."""
TAKEN = tl.constexpr(-(2**62))
"""Gain of a patch that was taken, or is none."""
UNITS = tl.constexpr(2.0**24)
"""Of error sums, as in `greedy_search.py`."""


@triton.jit
def _unit(value, IS_BYTES: tl.constexpr):
    """Values of pixels in [0, 1], from bytes by a division that rounds as a CPU's."""
    return tl.div_rn(value.to(tl.float32), 255.0) if IS_BYTES else value


@triton.jit
def shrink(
    source, source_at, source_picture, source_side, small, small_at, small_picture, side,
    pixels, factors, num_factors, IS_BYTES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pictures reduced to a scale: products along x, then along y.

    Programs: (pictures, blocks of the scale's pixels).

    Args:
        source: pictures of `source_side`, `source_picture` numbers apart, from `source_at` on.
        small: where the reduced ones go, likewise.
        pixels, factors: (side, num_factors) what each result is the sum of; 0 where there is less.
    """
    picture = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < side * side
    y, x = at // side, at % side
    total = tl.zeros((BLOCK,), tl.float32)
    for j in range(num_factors):
        row = tl.load(pixels + y * num_factors + j, mask=inside, other=0)
        along = tl.zeros((BLOCK,), tl.float32)
        for i in range(num_factors):
            column = tl.load(pixels + x * num_factors + i, mask=inside, other=0)
            from_ = source + source_at + picture * source_picture
            value = tl.load(from_ + row * source_side + column, mask=inside, other=0)
            factor = tl.load(factors + x * num_factors + i, mask=inside, other=0.0)
            along = tl.fma(_unit(value, IS_BYTES), factor, along)
        factor = tl.load(factors + y * num_factors + j, mask=inside, other=0.0)
        total = tl.fma(along, factor, total)
    tl.store(small + small_at + picture * small_picture + at, total, mask=inside)


@triton.jit
def widen(
    small, small_at, small_picture, small_side, wide, wide_at, wide_picture, side,
    pixels, factors, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reduced pictures enlarged along x.

    Programs: (pictures, blocks of `small_side` rows of `side` pixels).
    """
    picture = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < small_side * side
    y, x = at // side, at % side
    total = tl.zeros((BLOCK,), tl.float32)
    from_ = small + small_at + picture * small_picture + y * small_side
    for i in tl.static_range(TAPS):
        column = tl.load(pixels + x * TAPS + i, mask=inside, other=0)
        factor = tl.load(factors + x * TAPS + i, mask=inside, other=0.0)
        total = tl.fma(tl.load(from_ + column, mask=inside, other=0.0), factor, total)
    tl.store(wide + wide_at + picture * wide_picture + at, total, mask=inside)


@triton.jit
def _seen(wide, x, side, rows, factors, inside):
    """Pixels at `x` of an enlarged picture.

    Args:
        wide: pointers to the picture, enlarged along x.
        rows, factors: pointers to the `TAPS` that a pixel is the sum of.
    """
    total = tl.fma(
        tl.load(wide + tl.load(rows, mask=inside, other=0) * side + x, mask=inside, other=0.0),
        tl.load(factors, mask=inside, other=0.0),
        tl.zeros(x.shape, tl.float32),
    )
    for k in tl.static_range(1, TAPS):
        row = tl.load(rows + k, mask=inside, other=0)
        factor = tl.load(factors + k, mask=inside, other=0.0)
        total = tl.fma(tl.load(wide + row * side + x, mask=inside, other=0.0), factor, total)
    return tl.minimum(tl.maximum(total, 0.0), 1.0)


@triton.jit(do_not_specialize=["first", "step"])
def errors(
    frames, first, step, shown, shown_picture, rows, factors, edges, num_edges, longest, side,
    sums, sums_frame, OF_CANVAS: tl.constexpr, SPLIT: tl.constexpr, IS_BYTES: tl.constexpr,
    CELLS: tl.constexpr,
):  # fmt: skip
    """|shown - frame| summed over every search cell, in whole units.

    Programs: (frames to compare, blocks of cells, coarser levels; one of the canvas).

    Args:
        frames: the frame of program i is number `first + i * step`.
        shown: (program, channel) pictures: canvases, or scales enlarged along x.
        rows, factors: (level, side, TAPS) to enlarge along y; not of the canvas.
        edges: of search cells along an axis; none is longer than `longest` pixels.
        sums: (program, level, cell), `sums_frame` numbers from one program to the next.
        SPLIT: 0, or pixels of a block, whose sums are added up (see `Plan` in native_plan.py).
    """
    program, level = tl.program_id(0).to(tl.int64), tl.program_id(2)
    cell = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    is_cell = cell < num_edges * num_edges
    cell_row, cell_column = cell // num_edges, cell % num_edges
    top = tl.load(edges + cell_row, mask=is_cell, other=0)
    bottom = tl.load(edges + cell_row + 1, mask=is_cell, other=0)
    left = tl.load(edges + cell_column, mask=is_cell, other=0)
    right = tl.load(edges + cell_column + 1, mask=is_cell, other=0)
    total = tl.zeros((CELLS,), tl.float32)
    for channel in range(3):
        frame = frames + ((first + program * step) * 3 + channel) * side * side
        picture = shown + (program * 3 + channel) * shown_picture
        of_blocks = tl.zeros((CELLS,), tl.float32)
        of_rows = tl.zeros((CELLS,), tl.float32)
        for j in range(longest):
            y = top + j
            of_runs = tl.zeros((CELLS,), tl.float32)
            run = tl.zeros((CELLS,), tl.float32)
            # Four loads at a time, whose wait is most of the time of a lane that adds them in order.
            for i in tl.range(0, longest, loop_unroll_factor=4):
                x = left + i
                inside = (y < bottom) & (x < right)
                real = _unit(tl.load(frame + y * side + x, mask=inside, other=0), IS_BYTES)
                if OF_CANVAS:
                    seen = tl.load(picture + y * side + x, mask=inside, other=0.0)
                else:
                    at = (level * side + y) * TAPS
                    seen = _seen(picture, x, side, rows + at, factors + at, inside)
                if SPLIT:
                    begins = inside & (x % SPLIT == 0)
                    of_runs = tl.where(begins, of_runs + run, of_runs)
                    run = tl.where(begins, 0.0, run)
                run = tl.where(inside, run + tl.abs(seen - real), run)
            of_runs = of_runs + run
            if SPLIT:
                begins = (y < bottom) & (y % SPLIT == 0)
                of_blocks = tl.where(begins, of_blocks + of_rows, of_blocks)
                of_rows = tl.where(begins, 0.0, of_rows)
            of_rows = tl.where(y < bottom, of_rows + of_runs, of_rows)
        total = total + (of_blocks + of_rows)
    # The nearest integer, ties to the even one.
    scaled = total.to(tl.float64) * UNITS
    low = tl.floor(scaled)
    rest, whole = scaled - low, low.to(tl.int64)
    up = (rest > 0.5) | ((rest == 0.5) & (whole % 2 == 1))
    whole = tl.where(up, whole + 1, whole)
    to = sums + program * sums_frame + level * num_edges * num_edges + cell
    tl.store(to, whole, mask=is_cell)


@triton.jit
def _gain_of(gains, patch, patches):
    return tl.sum(tl.where(patches == patch, gains, 0), 0)


@triton.jit
def _next(given, n, count, gains, patches, HAS_GIVEN: tl.constexpr, PATCHES: tl.constexpr):
    """The patch to take as number n: a given one, or the one of the largest gain, the lowest of several."""
    best = tl.min(tl.where(gains == tl.max(gains, 0), patches, PATCHES), 0)
    if HAS_GIVEN:
        wanted = tl.load(given + n, mask=n < count, other=-1)
        best = tl.where(wanted < 0, best, wanted)
    return best


@triton.jit(do_not_specialize=["frame", "num_frames", "most", "enough"])
def search(
    sums, sums_clip, stale, owners, levels, starts, cells, most_cells, num_cells, num_levels,
    num_patches, frame, num_frames, counts, given, most, enough, chosen, left_after, num_chosen, kept_gains,
    painted, NEEDS_GAIN: tl.constexpr, HAS_GIVEN: tl.constexpr, KEEPS_GAINS: tl.constexpr,
    CELLS: tl.constexpr, PATCHES: tl.constexpr,
):  # fmt: skip
    """The whole search in the next frame of a clip; its programs are the clips.

    Args:
        sums: (level, cell) errors of the scales, 0 of the finest; `sums_clip` numbers from one clip
            to the next.
        stale: (clip, cell) of the canvas as it is.
        owners: (cell, level) as of `SearchCells`.
        levels, starts: of each patch its level, and where its cells begin in `cells`.
        frame: which of `num_frames`; of these are the following, per clip and frame:
        counts, given: patches to take, and (most) which; -1 for the best one.
        enough: a frame takes no more when no more error than this is left.
        chosen, left_after: (most) patches, and the error that is left after each.
        num_chosen: how many.
        kept_gains: (most, patches) gains before each of them.
        painted: (clip, cell) the level each cell is painted at, -1 where it is not.
    """
    clip = tl.program_id(0).to(tl.int64)
    at = clip * num_frames + frame
    sums += clip * sums_clip
    stale += clip * num_cells
    cell_ids, patches = tl.arange(0, CELLS), tl.arange(0, PATCHES)
    is_cell, is_patch = cell_ids < num_cells, patches < num_patches
    level = tl.load(levels + patches, mask=is_patch, other=0)
    begin = tl.load(starts + patches, mask=is_patch, other=0)
    end = tl.load(starts + patches + 1, mask=is_patch, other=0)
    count = tl.load(counts + at)

    left = tl.sum(tl.load(stale + cell_ids, mask=is_cell, other=0), 0)
    gains = tl.zeros((PATCHES,), tl.int64)
    for j in range(most_cells):
        held = begin + j < end
        cell = tl.load(cells + begin + j, mask=held, other=0)
        gains += tl.load(stale + cell, mask=held, other=0)
        gains -= tl.load(sums + level * num_cells + cell, mask=held, other=0)
    gains = tl.where(is_patch, gains, TAKEN)
    covered = tl.full((CELLS,), -1, tl.int32)

    n = 0
    patch = _next(given + at * most, n, count, gains, patches, HAS_GIVEN, PATCHES)
    gain = _gain_of(gains, patch, patches)
    going = count > 0
    while going:
        if KEEPS_GAINS:
            to = kept_gains + (at * most + n) * num_patches + patches
            tl.store(to, gains, mask=is_patch)
        left -= gain
        tl.store(chosen + at * most + n, patch)
        tl.store(left_after + at * most + n, left)
        gains = tl.where(patches == patch, TAKEN, gains)
        # The gains of patches that share its cells change, where no finer one lies on top.
        own = tl.load(levels + patch)
        for i in range(tl.load(starts + patch), tl.load(starts + patch + 1)):
            cell = tl.load(cells + i)
            before = tl.sum(tl.where(cell_ids == cell, covered, 0), 0)
            was = tl.load(stale + cell)
            if before >= 0:
                was = tl.load(sums + before * num_cells + cell)
            now = tl.load(sums + own * num_cells + cell)
            theirs = tl.load(sums + level * num_cells + cell, mask=is_patch, other=0)
            drop = tl.where(level > own, now - theirs, 0)
            dropped = tl.where(level > before, was - theirs, 0)
            owner = tl.load(owners + cell * num_levels + level, mask=is_patch, other=-1)
            changes = (owner == patches) & (before < own)
            gains += tl.where(changes, drop - dropped, 0)
        owner = tl.load(owners + cell_ids * num_levels + own, mask=is_cell, other=-1)
        covered = tl.where(owner == patch, tl.maximum(covered, own), covered)

        n += 1
        patch = _next(given + at * most, n, count, gains, patches, HAS_GIVEN, PATCHES)
        gain = _gain_of(gains, patch, patches)
        going = (n < count) & (left > enough)
        if NEEDS_GAIN:
            going = going & (gain > 0)
    tl.store(num_chosen + at, n)
    tl.store(painted + clip * num_cells + cell_ids, covered, mask=is_cell)


@triton.jit(do_not_specialize=["first", "step"])
def paint(
    frames, first, step, canvases, painted, cell_of, wide, wide_picture, rows, factors,
    num_edges, num_levels, side, IS_BYTES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Canvases with every painted cell as fine as it was painted.

    Programs: (clips, blocks of pixels, channels).

    Args:
        frames, wide: of clip i number `first + i * step`.
        cell_of: (side,) the search cell of every pixel along an axis.
    """
    clip, channel = tl.program_id(0).to(tl.int64), tl.program_id(2)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < side * side
    y, x = at // side, at % side
    row = tl.load(cell_of + y, mask=inside, other=0)
    cell = row * num_edges + tl.load(cell_of + x, mask=inside, other=0)
    level = tl.load(painted + clip * num_edges * num_edges + cell, mask=inside, other=-1)
    picture = (first + clip * step) * 3 + channel
    coarse = (level >= 0) & (level < num_levels - 1)
    real = tl.load(frames + picture * side * side + at, mask=inside, other=0)
    table = (level * side + y) * TAPS
    seen = _seen(wide + picture * wide_picture, x, side, rows + table, factors + table, coarse)
    new = tl.where(coarse, seen, _unit(real, IS_BYTES))
    to = canvases + (clip * 3 + channel) * side * side + at
    tl.store(to, new, mask=inside & (level >= 0))
