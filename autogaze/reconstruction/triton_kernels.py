"""Kernels of the greedy search on a GPU (Triton): `triton_search.py` launches them.

    turn, shrink, widen -> level_rows, level_cells           all frames at once
                           canvas_rows, search               frame by frame

Every sum is added up in the order of `greedy_errors.h` by one lane, with fused products where a
matrix product has them, so that error sums are the CPU's floats; from there on all numbers are
integers. Between kernels the device's queue is the only barrier. `search` is one program per clip,
whose lanes read what others of them wrote after a barrier of its own.

Pictures are held transposed, [x][y], as in the C kernel: sums over a search cell run along x first,
so neighbouring lanes hold neighbouring y and their loads are one.
"""

import triton
import triton.language as tl

TAPS = tl.constexpr(4)
"""Factors of a bicubic interpolation along an axis."""
TAKEN = tl.constexpr(-(2**62))
"""Gain of a patch that was taken, or is none."""
UNITS = tl.constexpr(2.0**24)
"""Of error sums, as in `greedy_search.py`."""


@triton.jit(do_not_specialize=["first"])
def turn(
    frames, first, num, clip_stride, frame_stride, channel_stride, row_stride, column_stride, turned,
    side, IS_BYTES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Frames transposed, as floats in [0, 1].

    Programs: (channels of `num` frames of every clip, tiles along y, tiles along x).

    Args:
        frames: of every clip those from number `first` on, in any layout.
    """
    picture = tl.program_id(0).to(tl.int64)
    clip, frame, channel = picture // (num * 3), picture // 3 % num, picture % 3
    frames += clip * clip_stride + (first + frame) * frame_stride + channel * channel_stride
    y = (tl.program_id(1) * TILE + tl.arange(0, TILE))[:, None]
    x = (tl.program_id(2) * TILE + tl.arange(0, TILE))[None, :]
    inside = (y < side) & (x < side)
    values = tl.load(frames + y * row_stride + x * column_stride, mask=inside, other=0)
    if IS_BYTES:  # by a division that rounds as a CPU's
        values = tl.div_rn(values.to(tl.float32), 255.0)
    to = turned + picture * side * side + tl.trans(x) * side + tl.trans(y)
    tl.store(to, tl.trans(values), mask=tl.trans(inside))


@triton.jit
def shrink(
    source, source_at, source_picture, source_side, small, small_at, small_picture, side,
    pixels, factors, num_factors, BLOCK: tl.constexpr,
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
    x, y = at // side, at % side
    source += source_at + picture * source_picture
    total = tl.zeros((BLOCK,), tl.float32)
    for j in range(num_factors):
        row = tl.load(pixels + y * num_factors + j, mask=inside, other=0)
        along = tl.zeros((BLOCK,), tl.float32)
        for i in range(num_factors):
            column = tl.load(pixels + x * num_factors + i, mask=inside, other=0)
            value = tl.load(source + column * source_side + row, mask=inside, other=0.0)
            factor = tl.load(factors + x * num_factors + i, mask=inside, other=0.0)
            along = tl.fma(value, factor, along)
        factor = tl.load(factors + y * num_factors + j, mask=inside, other=0.0)
        total = tl.fma(along, factor, total)
    tl.store(small + small_at + picture * small_picture + at, total, mask=inside)


@triton.jit
def widen(
    small, small_picture, small_at, sides, level_of_row, first_rows, wide, num_rows, side,
    taps, factors, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Reduced pictures of all levels enlarged along x: [x][rows of all levels].

    Programs: (pictures, blocks of `COLUMNS` columns).

    Args:
        small_at, sides, first_rows: of each level where its reduced picture begins, its side, and the
            first of its rows among those of all levels.
        taps, factors: (level, side, TAPS) to enlarge along an axis.
    """
    picture = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)
    is_row = row < num_rows
    level = tl.load(level_of_row + row, mask=is_row, other=0)
    small_side = tl.load(sides + level)
    small += picture * small_picture + tl.load(small_at + level) + row - tl.load(first_rows + level)
    for i in range(COLUMNS):
        x = tl.minimum(tl.program_id(1) * COLUMNS + i, side - 1)  # the last one again beyond it
        at = (level * side + x) * TAPS
        total = tl.zeros((ROWS,), tl.float32)
        for k in tl.static_range(TAPS):
            column = tl.load(taps + at + k, mask=is_row, other=0)
            factor = tl.load(factors + at + k, mask=is_row, other=0.0)
            value = tl.load(small + column * small_side, mask=is_row, other=0.0)
            total = tl.fma(value, factor, total)
        tl.store(wide + (picture * side + x) * num_rows + row, total, mask=is_row)


@triton.jit
def _tap(taps, factors, first_rows, level, y, k, side, inside):
    """Row number k that pixels at `y` are the sum of, among those of all levels, and its factor."""
    at = (level * side + y) * TAPS + k
    row = tl.load(taps + at, mask=inside, other=0) + tl.load(first_rows + level)
    return row, tl.load(factors + at, mask=inside, other=0.0)


@triton.jit
def _seen(wide, row0, row1, row2, row3, factor0, factor1, factor2, factor3, inside):
    """Pixels of a column of an enlarged picture, from their rows of it enlarged along x."""
    total = tl.zeros(row0.shape, tl.float32)
    total = tl.fma(tl.load(wide + row0, mask=inside, other=0.0), factor0, total)
    total = tl.fma(tl.load(wide + row1, mask=inside, other=0.0), factor1, total)
    total = tl.fma(tl.load(wide + row2, mask=inside, other=0.0), factor2, total)
    total = tl.fma(tl.load(wide + row3, mask=inside, other=0.0), factor3, total)
    return tl.minimum(tl.maximum(total, 0.0), 1.0)


@triton.jit
def level_rows(
    frames, wide, num_rows, taps, factors, first_rows, edges, num_edges, side, sums,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """|scale - frame| summed along x over every search cell, for each y and coarser level.

    Programs: (pictures, columns of cells, coarser levels).

    Args:
        sums: (picture, level, column of cells, y)
        SPLIT: 0, or pixels of a block, whose sums are added up (see `Plan` in native_search.py).
    """
    picture, column, level = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    y = tl.arange(0, BLOCK)
    inside = y < side
    row0, factor0 = _tap(taps, factors, first_rows, level, y, 0, side, inside)
    row1, factor1 = _tap(taps, factors, first_rows, level, y, 1, side, inside)
    row2, factor2 = _tap(taps, factors, first_rows, level, y, 2, side, inside)
    row3, factor3 = _tap(taps, factors, first_rows, level, y, 3, side, inside)
    frames += picture * side * side + y
    wide += picture * side * num_rows
    of_runs = tl.zeros((BLOCK,), tl.float32)
    run = tl.zeros((BLOCK,), tl.float32)
    for x in tl.range(tl.load(edges + column), tl.load(edges + column + 1), loop_unroll_factor=4):
        real = tl.load(frames + x * side, mask=inside, other=0.0)
        seen = _seen(
            wide + x * num_rows, row0, row1, row2, row3, factor0, factor1, factor2, factor3, inside
        )
        if SPLIT:
            begins = x % SPLIT == 0
            of_runs = tl.where(begins, of_runs + run, of_runs)
            run = tl.where(begins, 0.0, run)
        run = run + tl.abs(seen - real)
    to = sums + ((picture * tl.num_programs(2) + level) * num_edges + column) * side + y
    tl.store(to, of_runs + run, mask=inside)


@triton.jit(do_not_specialize=["frame", "num"])
def canvas_rows(
    frames, frame, num, canvases, painted, cell_of, wide, num_rows, taps, factors, first_rows,
    edges, num_edges, finest, side, sums, PAINTS: tl.constexpr, COMPARES: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The canvas painted with the frame before, and |canvas - frame| summed as in `level_rows`.

    Programs: (clips, columns of cells, channels).

    Args:
        frames, wide: of clip i number `i * num + frame`; the one before is what is painted with.
        painted: (clip, cell) the level each cell is painted at, -1 where it is not.
        cell_of: (side,) the search cell of every pixel along an axis.
        sums: (clip, channel, column of cells, y)
    """
    clip, column, channel = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    y = tl.arange(0, BLOCK)
    inside = y < side
    picture = (clip * num + frame) * 3 + channel
    canvases += (clip * 3 + channel) * side * side + y
    frames += picture * side * side + y
    before = frames - 3 * side * side
    wide += (picture - 3) * side * num_rows
    if PAINTS:
        cell = tl.load(cell_of + y, mask=inside, other=0) * num_edges + column
        at = clip * num_edges * num_edges + cell
        level = tl.load(painted + at, mask=inside, other=-1)
        kept, fine = inside & (level < 0), level == finest
        coarse = (level >= 0) & (level < finest)
        own = tl.where(coarse, level, 0)
        row0, factor0 = _tap(taps, factors, first_rows, own, y, 0, side, coarse)
        row1, factor1 = _tap(taps, factors, first_rows, own, y, 1, side, coarse)
        row2, factor2 = _tap(taps, factors, first_rows, own, y, 2, side, coarse)
        row3, factor3 = _tap(taps, factors, first_rows, own, y, 3, side, coarse)
    of_runs = tl.zeros((BLOCK,), tl.float32)
    run = tl.zeros((BLOCK,), tl.float32)
    for x in tl.range(tl.load(edges + column), tl.load(edges + column + 1), loop_unroll_factor=4):
        if PAINTS:
            shown = _seen(
                wide + x * num_rows, row0, row1, row2, row3, factor0, factor1, factor2, factor3,
                coarse,
            )  # fmt: skip
            shown = tl.where(fine, tl.load(before + x * side, mask=fine, other=0.0), shown)
            tl.store(canvases + x * side, shown, mask=fine | coarse)
            if COMPARES:
                old = tl.load(canvases + x * side, mask=kept, other=0.0)
                shown = tl.where(kept, old, shown)
        else:
            shown = tl.load(canvases + x * side, mask=inside, other=0.0)
        if COMPARES:
            real = tl.load(frames + x * side, mask=inside, other=0.0)
            if SPLIT:
                begins = x % SPLIT == 0
                of_runs = tl.where(begins, of_runs + run, of_runs)
                run = tl.where(begins, 0.0, run)
            run = run + tl.abs(shown - real)
    if COMPARES:
        to = sums + ((clip * 3 + channel) * num_edges + column) * side + y
        tl.store(to, of_runs + run, mask=inside)


@triton.jit
def _cell_errors(
    sums, channel_stride, cell, is_cell, edges, num_edges, longest, side, SPLIT: tl.constexpr
):
    """Errors of search cells in whole units, from sums along x: (channel, column of cells, y)."""
    row, column = cell // num_edges, cell % num_edges
    top = tl.load(edges + row, mask=is_cell, other=0)
    bottom = tl.load(edges + row + 1, mask=is_cell, other=0)
    total = tl.zeros(cell.shape, tl.float32)
    for channel in range(3):
        from_ = sums + channel * channel_stride + column * side
        of_blocks = tl.zeros(cell.shape, tl.float32)
        of_rows = tl.zeros(cell.shape, tl.float32)
        for j in tl.range(0, longest, loop_unroll_factor=8):
            y = top + j
            inside = y < bottom
            value = tl.load(from_ + y, mask=inside, other=0.0)
            if SPLIT:
                begins = inside & (y % SPLIT == 0)
                of_blocks = tl.where(begins, of_blocks + of_rows, of_blocks)
                of_rows = tl.where(begins, 0.0, of_rows)
            of_rows = of_rows + value  # no sum is changed by 0, none is negative
        total = total + (of_blocks + of_rows)
    # The nearest integer, ties to the even one.
    scaled = total.to(tl.float64) * UNITS
    low = tl.floor(scaled)
    rest, whole = scaled - low, low.to(tl.int64)
    up = (rest > 0.5) | ((rest == 0.5) & (whole % 2 == 1))
    return tl.where(up, whole + 1, whole)


@triton.jit
def level_cells(
    sums, edges, num_edges, longest, side, errors, errors_frame,
    SPLIT: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Errors of every search cell and coarser level, in whole units.

    Programs: (frames, blocks of cells, coarser levels).

    Args:
        sums: of `level_rows`.
        errors: (frame, level, cell), `errors_frame` numbers from one frame to the next.
    """
    frame, level = tl.program_id(0).to(tl.int64), tl.program_id(2)
    cell = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    is_cell = cell < num_edges * num_edges
    picture = num_edges * side
    channel_stride = tl.num_programs(2) * picture
    sums += frame * 3 * channel_stride + level * picture
    found = _cell_errors(
        sums, channel_stride, cell, is_cell, edges, num_edges, longest, side, SPLIT
    )
    to = errors + frame * errors_frame + level * num_edges * num_edges + cell
    tl.store(to, found, mask=is_cell)


@triton.jit
def _next(given, n, count, gains, patches, HAS_GIVEN: tl.constexpr):
    """The patch to take as number n: a given one, or the one of the largest gain, the lowest of several."""
    gain, best = tl.max(gains, 0, return_indices=True)
    if HAS_GIVEN:
        wanted = tl.load(given + n, mask=n < count, other=-1)
        best = tl.where(wanted < 0, best, wanted)
        gain = tl.sum(tl.where(patches == best, gains, 0), 0)
    return best, gain


@triton.jit
def _box(boxes, patch, known):
    """Rows and columns of cells of patches: first and end of each."""
    top = tl.load(boxes + patch * 4, mask=known, other=0)
    bottom = tl.load(boxes + patch * 4 + 1, mask=known, other=0)
    left = tl.load(boxes + patch * 4 + 2, mask=known, other=0)
    right = tl.load(boxes + patch * 4 + 3, mask=known, other=0)
    return top, bottom, left, right


@triton.jit(do_not_specialize=["frame", "num_frames", "most"])
def search(
    errors, errors_clip, sums, edges, num_edges, longest, side, levels, boxes, widest, overlaps,
    num_cells, num_levels, num_patches, frame, num_frames, counts, given, most, enough, chosen,
    left_after, num_chosen, kept_gains, stale, current, painted, NEEDS_GAIN: tl.constexpr,
    HAS_GIVEN: tl.constexpr, KEEPS_GAINS: tl.constexpr, SPLIT: tl.constexpr, CELLS: tl.constexpr,
    PATCHES: tl.constexpr,
):  # fmt: skip
    """The whole search in the next frame of a clip; its programs are the clips.

    Args:
        errors: (level, cell) of the scales, 0 of the finest; `errors_clip` numbers from one clip
            to the next.
        sums: of `canvas_rows`.
        levels, boxes: of each patch its level, and (4) its rows and columns of cells: first and end.
        widest: cells along an axis of the widest patch.
        overlaps: of each level the most cells along an axis that a patch shares with one of another.
        frame: which of `num_frames`; of these are the following, per clip and frame:
        counts, given: patches to take, and (most) which; -1 for the best one.
        enough: (1,) a frame takes no more when no more error than this is left.
        chosen, left_after: (most) patches, and the error that is left after each.
        num_chosen: how many.
        kept_gains: (most, patches) gains before each of them.
        stale, current: (clip, cell) the error of the canvas as it was, and with what was taken.
        painted: (clip, cell) the level each cell is painted at, -1 where it is not.
    """
    clip = tl.program_id(0).to(tl.int64)
    at = clip * num_frames + frame
    errors += clip * errors_clip
    stale += clip * num_cells
    current += clip * num_cells
    painted += clip * num_cells
    cell_ids, patches = tl.arange(0, CELLS), tl.arange(0, PATCHES)
    row, column = cell_ids // num_edges, cell_ids % num_edges
    is_cell, is_patch = cell_ids < num_cells, patches < num_patches
    level = tl.load(levels + patches, mask=is_patch, other=0)
    top, bottom, left, right = _box(boxes, patches, is_patch)
    count, least = tl.load(counts + at), tl.load(enough)

    picture = num_edges * side
    of_canvas = _cell_errors(
        sums + clip * 3 * picture,
        picture,
        cell_ids,
        is_cell,
        edges,
        num_edges,
        longest,
        side,
        SPLIT,
    )
    of_canvas = tl.where(is_cell, of_canvas, 0)
    remaining = tl.sum(of_canvas, 0)
    covered = tl.full((CELLS,), -1, tl.int32)
    tl.store(stale + cell_ids, of_canvas, mask=is_cell)
    tl.store(current + cell_ids, of_canvas, mask=is_cell)
    tl.store(painted + cell_ids, covered, mask=is_cell)
    tl.debug_barrier()
    gains = tl.zeros((PATCHES,), tl.int64)
    of_level = errors + level * num_cells
    for i in range(widest):
        for j in tl.range(0, widest, loop_unroll_factor=4):
            inside = (top + i < bottom) & (left + j < right)
            cell = (top + i) * num_edges + left + j
            gains += tl.load(current + cell, mask=inside, other=0)
            gains -= tl.load(of_level + cell, mask=inside, other=0)
    gains = tl.where(is_patch, gains, TAKEN)

    n = 0
    patch, gain = _next(given + at * most, n, count, gains, patches, HAS_GIVEN)
    going = count > 0
    while going:
        if KEEPS_GAINS:
            to = kept_gains + (at * most + n) * num_patches + patches
            tl.store(to, gains, mask=is_patch)
        remaining -= gain
        tl.store(chosen + at * most + n, patch)
        tl.store(left_after + at * most + n, remaining)
        gains = tl.where(patches == patch, TAKEN, gains)
        # The gains of patches that share its cells change, where nothing as fine lies there yet: a
        # coarser patch would no longer be seen, and a finer one have less to gain.
        own = tl.load(levels + patch)
        overlap = tl.load(overlaps + own)
        own_top, own_bottom, own_left, own_right = _box(boxes, patch, patch >= 0)
        first_row, end_row = tl.maximum(top, own_top), tl.minimum(bottom, own_bottom)
        first_column, end_column = tl.maximum(left, own_left), tl.minimum(right, own_right)
        shared = tl.minimum(level, own)
        of_level = errors + shared * num_cells
        for i in range(overlap):
            for j in tl.range(0, overlap, loop_unroll_factor=4):
                inside = (first_row + i < end_row) & (first_column + j < end_column)
                cell = (first_row + i) * num_edges + first_column + j
                before = tl.load(painted + cell, mask=inside, other=num_levels)
                change = tl.load(current + cell, mask=inside, other=0)
                change -= tl.load(of_level + cell, mask=inside, other=0)
                gains -= tl.where(before < shared, change, 0)
        tl.debug_barrier()  # all have read
        paints = (row >= own_top) & (row < own_bottom) & (column >= own_left)
        paints = paints & (column < own_right) & (covered < own)
        now = tl.load(errors + own * num_cells + cell_ids, mask=paints, other=0)
        covered = tl.where(paints, own, covered)
        tl.store(current + cell_ids, now, mask=paints)
        tl.store(painted + cell_ids, covered, mask=paints)
        tl.debug_barrier()  # all have written

        n += 1
        patch, gain = _next(given + at * most, n, count, gains, patches, HAS_GIVEN)
        going = (n < count) & (remaining > least)
        if NEEDS_GAIN:
            going = going & (gain > 0)
    tl.store(num_chosen + at, n)
