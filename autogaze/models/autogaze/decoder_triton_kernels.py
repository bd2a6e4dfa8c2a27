"""Kernels of the gaze decoder for a few tokens (Triton): `triton_decoder.py` launches them.

    x  ->  project  ->  attend  ->  add_product  ->  gate_up  ->  add_product  ->  x      one layer

A layer is five kernels, where PyTorch's operators are thirteen to nineteen. Norms and rotary positions are
computed where they are used; attention reads what a token sees and nothing behind it, in several
parts at once where there are few rows. Tokens between layers are float32, and so are all sums.

Products of many tokens loop over channels in steps. Those of few tokens take longer to wait for memory
than to compute, so they are split along the channels (split-K): SPLITS parts are multiplied at once, by
different warps, then added up. All channels are read at once, and weights while the kernel before runs.
"""

import triton
import triton.language as tl
from triton.language.extra import cuda

SMALLER: tl.constexpr = tl.constexpr(1 / 64)
"""Tokens are multiplied by this before a product, and normed after it: float16 ends at 65504."""

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _tile(rows, is_row, columns, is_column):
    """Offsets of a tile's elements, where both are lists of offsets, and which of them are real."""
    return rows[:, None] + columns[None, :], is_row[:, None] & is_column[None, :]


@triton.jit
def _not_there():
    """In place of what Triton 3.2 lacks: FOLLOWS is false there, but it looks names up all the same."""
    pass


_launch_dependents = getattr(cuda, "gdc_launch_dependents", _not_there)
_wait = getattr(cuda, "gdc_wait", _not_there)


@triton.jit
def _start_next(FOLLOWS: tl.constexpr):
    """Let the next kernel be launched now: until this one has ended it reads nothing but weights."""
    if FOLLOWS:
        _launch_dependents()


@triton.jit
def _wait_for_previous(FOLLOWS: tl.constexpr):
    """Wait for the end of the kernel before, and so of all before it; only weights may be read earlier."""
    if FOLLOWS:
        _wait()


@triton.jit
def _split(
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, CHUNK: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    """Channels of each split, (SPLITS, PADDED) of which CHUNK belong to it, and which of them are real."""
    inside = tl.arange(0, PADDED)
    channel = tl.arange(0, SPLITS)[:, None] * CHUNK + inside[None, :]
    return channel, (inside < CHUNK)[None, :] & (channel < WIDTH)


@triton.jit
def _split_weights(weight, channel, is_channel, output, is_output, OUTPUTS: tl.constexpr):
    """The weights of some outputs, (split, channel, output)."""
    at = channel[:, :, None] * OUTPUTS + output[None, None, :]
    real = is_channel[:, :, None] & is_output[None, None, :]
    return tl.load(weight + at, mask=real, other=0.0)


@triton.jit
def _split_tokens(x, row, is_token, channel, is_channel):
    """The channels of some tokens, (split, token, channel)."""
    real = is_channel[:, None, :] & is_token[None, :, None]
    return tl.load(x + row[None, :, None] + channel[:, None, :], mask=real, other=0.0)


@triton.jit
def _inverse_lengths(squares, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """1 / sqrt(|x|^2 + WIDTH * EPS) of tokens: RMSNorm without what its product's weights carry."""
    return 1.0 / (tl.sqrt(squares + WIDTH * EPS) * SMALLER)


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_row", "earliest"])
def project(
    x, x_stride, weight, rotations, positions, places, queries, cache, cache_row, cache_head,
    num_tokens, tokens_per_row, earliest, EPS: tl.constexpr, WIDTH: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr, PRECISION: tl.constexpr,
    FOLLOWS: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Queries of new tokens, and their keys and values, which are written to a layer of the cache.

    Programs: (blocks of outputs, blocks of tokens).

    Args:
        x: (token, WIDTH), `x_stride` numbers apart.
        weight: (WIDTH, QUERIES + 2 * KEYS), the two channels of a rotary pair side by side.
        rotations: (position, pair of a head's, 2) cosines and sines, from `-earliest` on.
        positions, places: of every token, where it is rotated to and where it is written.
        queries: (token, QUERIES).
        cache: (row, head, slot, HEAD), the keys' heads before the values'.
    """
    _start_next(FOLLOWS)
    OUTPUTS: tl.constexpr = QUERIES + 2 * KEYS
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_token, is_output = token < num_tokens, output < OUTPUTS
    if SPLITS > 1:
        channel, is_channel = _split(WIDTH, SPLITS, STEP, STEP)
        factor = _split_weights(weight, channel, is_channel, output, is_output, OUTPUTS)
    _wait_for_previous(FOLLOWS)
    row = token.to(tl.int64) * x_stride
    if SPLITS > 1:
        value = _split_tokens(x, row, is_token, channel, is_channel)
    # Read before the product, so that nobody waits for them after it.
    pair = tl.program_id(0) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    position = tl.load(positions + token, mask=is_token, other=0) + earliest
    turn, turns = _tile(
        position * HEAD, is_token, pair % (HEAD // 2) * 2, pair * 2 < QUERIES + KEYS
    )
    cos = tl.load(rotations + turn, mask=turns, other=1.0)
    sin = tl.load(rotations + turn + 1, mask=turns, other=0.0)
    place = tl.load(places + token, mask=is_token, other=0)

    if SPLITS > 1:
        squares = tl.sum(tl.sum(value * value, 2), 0)
        value = (value * SMALLER).to(factor.dtype)
        found = tl.sum(tl.dot(value, factor, input_precision=PRECISION), 0)
    else:
        found = tl.zeros((ROWS, COLUMNS), tl.float32)
        many = tl.zeros((ROWS, STEP), tl.float32)
        for k in range(0, WIDTH, STEP):
            channel = k + tl.arange(0, STEP)
            at, inside = _tile(row, is_token, channel, channel < WIDTH)
            value = tl.load(x + at, mask=inside, other=0.0)
            many += value * value
            at, inside = _tile(channel * OUTPUTS, channel < WIDTH, output, is_output)
            factor = tl.load(weight + at, mask=inside, other=0.0)
            value = (value * SMALLER).to(factor.dtype)
            found = tl.dot(value, factor, found, input_precision=PRECISION)
        squares = tl.sum(many, 1)
    found *= _inverse_lengths(squares, EPS, WIDTH)[:, None]

    real, imaginary = tl.split(tl.reshape(found, (ROWS, COLUMNS // 2, 2)))
    turned = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
    found = tl.reshape(turned, (ROWS, COLUMNS))

    at, inside = _tile(token.to(tl.int64) * QUERIES, is_token, output, output < QUERIES)
    tl.store(queries + at, found.to(queries.dtype.element_ty), mask=inside)
    of_row = (token // tokens_per_row).to(tl.int64) * cache_row + place * HEAD
    of_head = (output - QUERIES) // HEAD * cache_head + output % HEAD
    at, inside = _tile(of_row, is_token, of_head, is_output & (output >= QUERIES))
    tl.store(cache + at, found.to(cache.dtype.element_ty), mask=inside)


@triton.jit
def _attend_to(
    begin, end, asked, place, most, total, found, keys, values, channel, is_channel,
    HEAD: tl.constexpr, PRECISION: tl.constexpr, STEP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Softmax's running maximum and sums, in powers of two, after slots from `begin` to `end`."""
    for start in range(begin, end, STEP):
        slot = start + tl.arange(0, STEP)
        is_slot = slot < end
        key_at, real = _tile(channel, is_channel, slot * HEAD, is_slot)
        key = tl.load(keys + key_at, mask=real, other=0.0)
        score = tl.dot(asked, key, input_precision=PRECISION) * LOG2_E
        if MASKED:
            seen = is_slot[None, :] & (slot[None, :] <= place[:, None])
            score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        base = higher
        if MASKED:
            base = tl.where(higher == float("-inf"), 0.0, higher)  # of queries that saw nothing yet
        share, before = tl.exp2(score - base[:, None]), tl.exp2(most - base)
        total = total * before + tl.sum(share, 1)
        value_at, real_value = _tile(slot * HEAD, is_slot, channel, is_channel)
        value = tl.load(values + value_at, mask=real_value, other=0.0)
        found = tl.dot(
            share.to(value.dtype), value, found * before[:, None], input_precision=PRECISION
        )
        most = higher
    return most, total, found


@triton.jit(do_not_specialize=["tokens_per_row", "first", "num_queries", "num_blocks"])
def attend(
    queries, places, cache, cache_row, cache_head, capacity, tokens_per_row, first, num_queries,
    num_blocks, attended, logs, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD: tl.constexpr,
    PADDED_HEAD: tl.constexpr, PRECISION: tl.constexpr, FOLLOWS: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Attention of tokens to the slots up to their own, of one part of these slots.

    Programs: of every row and head its parts and blocks of queries, one after another, since all blocks
    read the same slots.

    Args:
        queries: (token, HEADS * HEAD), scaled; of each row `num_queries` from its token `first` on.
        places: of every token its slot; `capacity` for padding, which attends to anything.
        attended: (part, row and query, HEADS * HEAD) weighted means of values; 0 of no slots.
        logs: (part, row and query, head) binary logarithms of the sums of weights.
    """
    _start_next(FOLLOWS)
    _wait_for_previous(FOLLOWS)
    part, block = tl.program_id(0) // num_blocks % PARTS, tl.program_id(0) % num_blocks
    row_and_head = tl.program_id(0) // (num_blocks * PARTS)
    row, head = row_and_head // HEADS, row_and_head % HEADS
    query = block * ROWS + tl.arange(0, ROWS)
    is_query = query < num_queries
    token = row.to(tl.int64) * tokens_per_row + first + query
    channel = tl.arange(0, PADDED_HEAD)
    is_channel = channel < HEAD
    at, inside = _tile(token * (HEADS * HEAD) + head * HEAD, is_query, channel, is_channel)
    asked = tl.load(queries + at, mask=inside, other=0.0)
    place = tl.load(places + token, mask=is_query, other=capacity).to(tl.int32)
    is_real = place < capacity
    place = tl.where(is_real, place, -1)

    end = tl.max(place, 0) + 1
    # Slots that all tokens see need no mask.
    clear = tl.minimum(end, tl.min(tl.where(is_real, place, capacity), 0) + 1)
    length = tl.cdiv(tl.cdiv(end, STEP), PARTS) * STEP  # of a part
    begin = part * length
    end = tl.minimum(end, begin + length)
    clear = tl.minimum(clear, end) // STEP * STEP
    keys = cache + row.to(tl.int64) * cache_row + head // (HEADS // KV_HEADS) * cache_head
    values = keys + KV_HEADS * cache_head
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    found = tl.zeros((ROWS, PADDED_HEAD), tl.float32)
    most, total, found = _attend_to(
        begin, clear, asked, place, most, total, found, keys, values, channel, is_channel,
        HEAD, PRECISION, STEP, False,
    )  # fmt: skip
    most, total, found = _attend_to(
        tl.maximum(begin, clear), end, asked, place, most, total, found, keys, values, channel,
        is_channel, HEAD, PRECISION, STEP, True,
    )  # fmt: skip

    saw = total > 0
    found *= (1.0 / tl.where(saw, total, 1.0))[:, None]
    num_rows = tl.num_programs(0) // (num_blocks * PARTS * HEADS)
    to = (part * num_rows + row).to(tl.int64) * num_queries + query
    at, inside = _tile(to * (HEADS * HEAD) + head * HEAD, is_query, channel, is_channel)
    tl.store(attended + at, found.to(attended.dtype.element_ty), mask=inside)
    if PARTS > 1:
        log = tl.where(saw, most + tl.log2(tl.where(saw, total, 1.0)), float("-inf"))
        tl.store(logs + to * HEADS + head, log, mask=is_query)


@triton.jit
def _read_parts(
    factors, logs, row, is_token, num_tokens, channel, is_channel, WIDTH: tl.constexpr,
    HEAD: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """What `attend` has found in each of its parts, (head, token, part, channel), and (head, token, part) logs.

    Parts lie before channels, so that a warp has all parts of its head and adds them up by itself.

    Args:
        channel, is_channel: (head, channel) of these heads, of which the first is the least.
    """
    HEADS: tl.constexpr = WIDTH // HEAD
    part = tl.arange(0, PARTS)[None, :] * num_tokens.to(tl.int64)
    at = ((part + row[:, None]) * WIDTH)[None, :, :, None] + channel[:, None, None, :]
    real = is_token[None, :, None, None] & is_channel[:, None, None, :]
    found = tl.load(factors + at, mask=real, other=0.0)
    head = tl.min(channel, 1) // HEAD
    at = ((part + row[:, None]) * HEADS)[None, :, :] + head[:, None, None]
    real = is_token[None, :, None] & (head < HEADS)[:, None, None]
    return found, tl.load(logs + at, mask=real, other=float("-inf"))


@triton.jit
def _merged(found, log):
    """The weighted mean of parts by the binary logarithms of their weights, (head, token, channel)."""
    most = tl.max(log, 2)
    most = tl.where(most == float("-inf"), 0.0, most)  # of tokens that saw nothing
    share = tl.exp2(log - most[:, :, None])
    total = tl.sum(share, 2)
    share *= (1.0 / tl.where(total > 0, total, 1.0))[:, :, None]
    return tl.sum(share[:, :, :, None] * found, 2)


@triton.jit(do_not_specialize=["num_tokens"])
def add_product(
    x, x_stride, to, to_stride, factors, logs, weight, num_tokens,
    WIDTH: tl.constexpr, OUTPUTS: tl.constexpr, HEAD: tl.constexpr, PADDED_HEAD: tl.constexpr,
    PARTS: tl.constexpr, PRECISION: tl.constexpr, FOLLOWS: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """X + factors @ weight.

    Programs: (blocks of outputs, blocks of tokens).

    Args:
        x, to: (token, OUTPUTS) summands and where sums go, which may be the same.
        factors: (token, WIDTH); of several PARTS (part, token, WIDTH), what `attend` has found.
        logs: (part, token, head) of these parts.
        weight: (WIDTH, OUTPUTS).
    """
    _start_next(FOLLOWS)
    # Of several parts a head at once, whose channels have one weight for each part.
    CHUNK: tl.constexpr = HEAD if PARTS > 1 else STEP
    PADDED: tl.constexpr = PADDED_HEAD if PARTS > 1 else STEP
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_token, is_output = token < num_tokens, output < OUTPUTS
    row = token.to(tl.int64)
    if SPLITS > 1:
        channel, is_channel = _split(WIDTH, SPLITS, CHUNK, PADDED)
        other = _split_weights(weight, channel, is_channel, output, is_output, OUTPUTS)
    _wait_for_previous(FOLLOWS)
    summand, real = _tile(row * x_stride, is_token, output, is_output)
    if SPLITS > 1:
        # All that is read is asked for before any of it is waited for.
        if PARTS > 1:
            part, log = _read_parts(
                factors, logs, row, is_token, num_tokens, channel, is_channel, WIDTH, HEAD, PARTS
            )
        else:
            factor = _split_tokens(factors, row * WIDTH, is_token, channel, is_channel)
        before = tl.load(x + summand, mask=real, other=0.0)
        if PARTS > 1:
            factor = _merged(part, log)
        found = tl.sum(tl.dot(factor.to(other.dtype), other, input_precision=PRECISION), 0)
    else:
        found = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, WIDTH, CHUNK):
            channel = k + tl.arange(0, PADDED)
            is_channel = (channel < k + CHUNK) & (channel < WIDTH)
            if PARTS > 1:
                part, log = _read_parts(
                    factors, logs, row, is_token, num_tokens, channel[None, :], is_channel[None, :],
                    WIDTH, HEAD, PARTS,
                )  # fmt: skip
                factor = tl.reshape(_merged(part, log), (ROWS, PADDED))
            else:
                at, inside = _tile(row * WIDTH, is_token, channel, is_channel)
                factor = tl.load(factors + at, mask=inside, other=0.0)
            at, inside = _tile(channel * OUTPUTS, is_channel, output, is_output)
            other = tl.load(weight + at, mask=inside, other=0.0)
            found = tl.dot(factor.to(other.dtype), other, found, input_precision=PRECISION)
        before = tl.load(x + summand, mask=real, other=0.0)
    at, real = _tile(row * to_stride, is_token, output, is_output)
    tl.store(to + at, found + before, mask=real)


@triton.jit(do_not_specialize=["num_tokens"])
def gate_up(
    x, weight, inner, num_tokens, EPS: tl.constexpr, WIDTH: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr, FOLLOWS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """SwiGLU's hidden channels: silu(gate) * up, of normed tokens.

    Programs: (blocks of hidden channels, blocks of tokens).

    Args:
        x: (token, WIDTH).
        weight: (WIDTH, 2 * INNER), gates before ups.
        inner: (token, INNER) where they go.
    """
    _start_next(FOLLOWS)
    _wait_for_previous(FOLLOWS)
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_token, is_output = token < num_tokens, output < INNER
    row = token.to(tl.int64) * WIDTH
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS, STEP), tl.float32)
    for k in range(0, WIDTH, STEP):
        channel = k + tl.arange(0, STEP)
        at, inside = _tile(row, is_token, channel, channel < WIDTH)
        value = tl.load(x + at, mask=inside, other=0.0)
        squares += value * value
        at, inside = _tile(channel * (2 * INNER), channel < WIDTH, output, is_output)
        factor = tl.load(weight + at, mask=inside, other=0.0)
        value = (value * SMALLER).to(factor.dtype)
        gate = tl.dot(value, factor, gate, input_precision=PRECISION)
        factor = tl.load(weight + INNER + at, mask=inside, other=0.0)
        up = tl.dot(value, factor, up, input_precision=PRECISION)
    inverse = _inverse_lengths(tl.sum(squares, 1), EPS, WIDTH)[:, None]
    gate, up = gate * inverse, up * inverse
    hidden = gate / (1.0 + tl.exp(-gate)) * up
    at, inside = _tile(token.to(tl.int64) * INNER, is_token, output, is_output)
    tl.store(inner + at, hidden.to(inner.dtype.element_ty), mask=inside)
