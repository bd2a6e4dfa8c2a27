"""Kernels of gazed encoding on a GPU (Triton): `patches.py` and `key_ranges.py` launch them."""

import triton
import triton.language as tl


@triton.jit
def cut_patches(
    frames, frame_stride, colour_stride, row_stride, column_stride, height, width,
    ids, frame_of_patch, places, patches,
    SIDE: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """One colour of a patch at its scale: bicubic, not antialiased; programs are (patch, colour).

    The order of its sums is that of PyTorch's kernel.

    Args:
        frames: (frame, colour, row, column), by their strides.
        ids, frame_of_patch: of every patch.
        places: (id, 3): side of its scale in pixels, first row, first column.
        patches: (patch, colour, row, column) that are written.
        SIDE: of a patch.
        BLOCK: a power of two, no less than SIDE.
        SUM: type in which pixels are summed.
    """
    # In 64 bits: the frames of a long video of colours first are far apart.
    patch, colour = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = places + 3 * tl.load(ids + patch)
    scale = tl.load(place)
    inner = tl.arange(0, BLOCK)
    rows = (tl.load(place + 1) + inner)[:, None]
    columns = (tl.load(place + 2) + inner)[None, :]
    inside = (inner[:, None] < SIDE) & (inner[None, :] < SIDE)
    picture = frames + tl.load(frame_of_patch + patch) * frame_stride + colour * colour_stride
    cells = (patch * 3 + colour) * SIDE * SIDE + inner[:, None] * SIDE + inner[None, :]
    if (scale == height) & (scale == width):
        pixels = tl.load(picture + rows * row_stride + columns * column_stride, mask=inside)
        tl.store(patches + cells, pixels, mask=inside)
    else:
        y, y0, y1, y2, y3 = _cubic(rows, height, scale, SUM)
        x, x0, x1, x2, x3 = _cubic(columns, width, scale, SUM)
        total = tl.zeros((BLOCK, BLOCK), SUM)
        for step in tl.static_range(4):
            row = picture + tl.minimum(tl.maximum(y + (step - 1), 0), height - 1) * row_stride
            a = _pixel(row, x - 1, width, column_stride, inside, SUM)
            b = _pixel(row, x, width, column_stride, inside, SUM)
            c = _pixel(row, x + 1, width, column_stride, inside, SUM)
            d = _pixel(row, x + 2, width, column_stride, inside, SUM)
            along = a * x0 + b * x1 + c * x2 + d * x3
            if step == 0:
                total = along * y0
            elif step == 1:
                total += along * y1
            elif step == 2:
                total += along * y2
            else:
                total += along * y3
        tl.store(patches + cells, total.to(patches.dtype.element_ty), mask=inside)


@triton.jit
def _pixel(row, column, width, stride, inside, SUM: tl.constexpr):
    """Pixels of a row, repeated beyond its ends."""
    return tl.load(row + tl.minimum(tl.maximum(column, 0), width - 1) * stride, mask=inside).to(SUM)


@triton.jit
def _cubic(places, size, scale, SUM: tl.constexpr):
    """The pixel before each place of a scale, and weights of that, its left and two right neighbours."""
    # A plain division of floats is not rounded to the nearest.
    if SUM == tl.float32:  # noqa: SIM300
        factor = tl.div_rn(size.to(SUM), scale.to(SUM))
    else:
        factor = size.to(SUM) / scale.to(SUM)
    real = factor * (places.to(SUM) + 0.5) - 0.5
    before = tl.floor(real)
    t = real - before
    return before.to(tl.int32), _far(t + 1), _near(t), _near(1 - t), _far((1 - t) + 1)


@triton.jit
def _near(t):
    """Weight of a pixel at most 1 away (Keys' cubic, a = -0.75)."""
    return (1.25 * t - 2.25) * t * t + 1


@triton.jit
def _far(t):
    """Weight of a pixel 1 to 2 away."""
    return ((-0.75 * t + 3.75) * t - 6) * t + 3


@triton.jit
def attend(
    query, q_head, q_token, key, k_head, k_token, value, v_head, v_token, out, bounds,
    num_tokens, scale, WIDTH: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Attention of each token to a range of tokens; programs are (ROWS tokens, head).

    Heads are read in two parts of powers of two, so that one of 72 channels costs as much as 80.

    Args:
        query, key, value: (head, token, channel), by strides, which are multiples of 8; channels lie
            side by side.
        out: (token, head, channel).
        bounds: (token, 2) first and end of the keys that each token sees, at least one.
        scale: of the logits, times log2(e).
        WIDTH: of a head; no more than FIRST + REST.
        FIRST, REST: powers of two from 16 on; REST may be 0.
        ROWS, KEYS: tokens at once.
    """
    head, num_heads = tl.program_id(1), tl.num_programs(1)
    # Late tokens see most, so they begin first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    rows = tile * ROWS + tl.arange(0, ROWS)
    seen = tl.minimum(rows, num_tokens - 1)
    first, end = tl.load(bounds + 2 * seen), tl.load(bounds + 2 * seen + 1)
    # Strides of 8, as heads of 72 channels have them, are enough to load 16 bytes at once.
    query += tl.multiple_of(head.to(tl.int64) * q_head, 8)
    key += tl.multiple_of(head.to(tl.int64) * k_head, 8)
    value += tl.multiple_of(head.to(tl.int64) * v_head, 8)
    q = tl.load(query + seen[:, None] * q_token + tl.arange(0, FIRST)[None, :])
    rest = FIRST + tl.arange(0, 16 if REST == 0 else REST)
    q_rest = tl.zeros((ROWS, 16), q.dtype)
    total_rest = tl.zeros((ROWS, 16), tl.float32)
    if REST > 0:
        q_rest = tl.load(
            query + seen[:, None] * q_token + rest[None, :], mask=rest[None, :] < WIDTH, other=0.0
        )
        total_rest = tl.zeros((ROWS, REST), tl.float32)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, FIRST), tl.float32)
    # All rows see the keys from `whole` to `whole_end`; of others some do.
    whole, whole_end = tl.max(first, 0), tl.min(end, 0)
    masked = whole + tl.maximum(whole_end - whole, 0) // KEYS * KEYS
    total, total_rest, weight, largest = _attend_to(
        q, q_rest, key, k_token, value, v_token, first, end, tl.min(first, 0), whole,
        total, total_rest, weight, largest, scale, WIDTH, FIRST, REST, KEYS, True,
    )  # fmt: skip
    total, total_rest, weight, largest = _attend_to(
        q, q_rest, key, k_token, value, v_token, first, end, whole, masked,
        total, total_rest, weight, largest, scale, WIDTH, FIRST, REST, KEYS, False,
    )  # fmt: skip
    total, total_rest, weight, largest = _attend_to(
        q, q_rest, key, k_token, value, v_token, first, end, masked, tl.max(end, 0),
        total, total_rest, weight, largest, scale, WIDTH, FIRST, REST, KEYS, True,
    )  # fmt: skip
    is_row = rows[:, None] < num_tokens
    place = out + (rows[:, None].to(tl.int64) * num_heads + head) * WIDTH
    kind = out.dtype.element_ty
    tl.store(place + tl.arange(0, FIRST)[None, :], (total / weight[:, None]).to(kind), mask=is_row)
    if REST > 0:
        found = (total_rest / weight[:, None]).to(kind)
        tl.store(place + rest[None, :], found, mask=is_row & (rest[None, :] < WIDTH))


@triton.jit
def _attend_to(
    q, q_rest, key, k_token, value, v_token, first, end, start, stop,
    total, total_rest, weight, largest, scale, WIDTH: tl.constexpr, FIRST: tl.constexpr,
    REST: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Adds the keys from start to stop to sums of exponentials relative to the largest logits."""
    channels = tl.arange(0, FIRST)
    rest = FIRST + tl.arange(0, 16 if REST == 0 else REST)
    for at in range(start, stop, KEYS):
        keys = at + tl.arange(0, KEYS)
        real = keys < stop
        k = tl.load(
            key + keys[None, :] * k_token + channels[:, None], mask=real[None, :], other=0.0
        )
        logits = tl.dot(q, k)
        if REST > 0:
            there = real[None, :] & (rest[:, None] < WIDTH)
            k = tl.load(key + keys[None, :] * k_token + rest[:, None], mask=there, other=0.0)
            logits = tl.dot(q_rest, k, logits)
        logits = logits * scale
        if MASKED:
            seen = (keys[None, :] >= first[:, None]) & (keys[None, :] < end[:, None])
            logits = tl.where(seen & real[None, :], logits, float("-inf"))
        higher = tl.maximum(largest, tl.max(logits, 1))
        # A row that has seen no key so far has nothing to subtract.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shrunk = tl.exp2(largest - base)
        shares = tl.exp2(logits - base[:, None])
        weight = weight * shrunk + tl.sum(shares, 1)
        total = total * shrunk[:, None]
        shares = shares.to(q.dtype)
        v = tl.load(
            value + keys[:, None] * v_token + channels[None, :], mask=real[:, None], other=0.0
        )
        total = tl.dot(shares, v, total)
        if REST > 0:
            total_rest = total_rest * shrunk[:, None]
            there = real[:, None] & (rest[None, :] < WIDTH)
            v = tl.load(value + keys[:, None] * v_token + rest[None, :], mask=there, other=0.0)
            total_rest = tl.dot(shares, v, total_rest)
        largest = higher
    return total, total_rest, weight, largest
