"""Kernels of the gaze decoder for a few tokens (Triton): `triton_decoder.py` launches them.

    x  ->  project  ->  attend  ->  add_product  ->  gate_up  ->  add_product  ->  x      one layer

A layer is five kernels, where PyTorch's operators are thirteen to nineteen. Norms and rotary positions are
computed where they are used; attention reads what a token sees and nothing behind it, in several
parts at once where there are few rows. Tokens between layers are float32, and so are all sums.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(rows, is_row, columns, is_column):
    """Offsets of a tile's elements, where both are lists of offsets, and which of them are real."""
    return rows[:, None] + columns[None, :], is_row[:, None] & is_column[None, :]


@triton.jit
def _inverse_length(x, row, is_row, EPS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    STEP: tl.constexpr):  # fmt: skip
    """1 / sqrt(|x|^2 + WIDTH * EPS) of rows: RMSNorm without what its product's weights carry."""
    total = tl.zeros((ROWS,), tl.float32)
    for k in range(0, WIDTH, STEP):
        channel = k + tl.arange(0, STEP)
        at, inside = _tile(row, is_row, channel, channel < WIDTH)
        value = tl.load(x + at, mask=inside, other=0.0)
        total += tl.sum(value * value, 1)
    return 1.0 / tl.sqrt(total + WIDTH * EPS)


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_row", "earliest"])
def project(
    x, x_stride, weight, rotations, positions, places, queries, cache, cache_row, cache_head,
    num_tokens, tokens_per_row, earliest, EPS: tl.constexpr, WIDTH: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Queries of new tokens, and their keys and values, which are written to a layer of the cache.

    Programs: (blocks of tokens, blocks of outputs).

    Args:
        x: (token, WIDTH), `x_stride` numbers apart.
        weight: (WIDTH, QUERIES + 2 * KEYS), the two channels of a rotary pair side by side.
        rotations: (position, pair of a head's, 2) cosines and sines, from `-earliest` on.
        positions, places: of every token, where it is rotated to and where it is written.
        queries: (token, QUERIES).
        cache: (row, head, slot, HEAD), the keys' heads before the values'.
    """
    OUTPUTS: tl.constexpr = QUERIES + 2 * KEYS
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_token, is_output = token < num_tokens, output < OUTPUTS
    row = token.to(tl.int64) * x_stride
    inverse = _inverse_length(x, row, is_token, EPS, WIDTH, ROWS, STEP)
    found = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, WIDTH, STEP):
        channel = k + tl.arange(0, STEP)
        at, inside = _tile(row, is_token, channel, channel < WIDTH)
        normed = tl.load(x + at, mask=inside, other=0.0) * inverse[:, None]
        at, inside = _tile(channel * OUTPUTS, channel < WIDTH, output, is_output)
        factor = tl.load(weight + at, mask=inside, other=0.0)
        found = tl.dot(normed.to(factor.dtype), factor, found, input_precision=PRECISION)

    pair = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    position = tl.load(positions + token, mask=is_token, other=0) + earliest
    at, rotated = _tile(
        position * HEAD, is_token, pair % (HEAD // 2) * 2, pair * 2 < QUERIES + KEYS
    )
    cos = tl.load(rotations + at, mask=rotated, other=1.0)
    sin = tl.load(rotations + at + 1, mask=rotated, other=0.0)
    real, imaginary = tl.split(tl.reshape(found, (ROWS, COLUMNS // 2, 2)))
    turned = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
    found = tl.reshape(turned, (ROWS, COLUMNS))

    at, inside = _tile(token.to(tl.int64) * QUERIES, is_token, output, output < QUERIES)
    tl.store(queries + at, found.to(queries.dtype.element_ty), mask=inside)
    place = tl.load(places + token, mask=is_token, other=0)
    of_row = (token // tokens_per_row).to(tl.int64) * cache_row + place * HEAD
    of_head = (output - QUERIES) // HEAD * cache_head + output % HEAD
    at, inside = _tile(of_row, is_token, of_head, is_output & (output >= QUERIES))
    tl.store(cache + at, found.to(cache.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens_per_row", "first", "num_queries", "num_parts"])
def attend(
    queries, places, cache, cache_row, cache_head, capacity, tokens_per_row, first, num_queries,
    attended, logs, num_parts, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD: tl.constexpr,
    PADDED_HEAD: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Attention of tokens to the slots up to their own, of one part of these slots.

    Programs: (rows and heads, blocks of queries, parts).

    Args:
        queries: (token, HEADS * HEAD), scaled; of each row `num_queries` from its token `first` on.
        places: of every token its slot; `capacity` for padding, which attends to nothing.
        attended: (part, row and query, HEADS * HEAD) weighted means of values; 0 of no slots.
        logs: (part, row and query, head) logarithms of the sums of weights.
    """
    row, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    query = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_query = query < num_queries
    token = row.to(tl.int64) * tokens_per_row + first + query
    channel = tl.arange(0, PADDED_HEAD)
    is_channel = channel < HEAD
    at, inside = _tile(token * (HEADS * HEAD) + head * HEAD, is_query, channel, is_channel)
    asked = tl.load(queries + at, mask=inside, other=0.0)
    place = tl.load(places + token, mask=is_query, other=capacity)
    place = tl.where(place < capacity, place, -1).to(tl.int32)

    end = tl.max(place, 0) + 1
    length = tl.cdiv(tl.cdiv(end, STEP), num_parts) * STEP  # of a part
    begin = tl.program_id(2) * length
    end = tl.minimum(end, begin + length)
    keys = cache + row.to(tl.int64) * cache_row + head // (HEADS // KV_HEADS) * cache_head
    values = keys + KV_HEADS * cache_head
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    found = tl.zeros((ROWS, PADDED_HEAD), tl.float32)
    for start in range(begin, end, STEP):
        slot = start + tl.arange(0, STEP)
        is_slot = slot < end
        key_at, real = _tile(channel, is_channel, slot * HEAD, is_slot)
        key = tl.load(keys + key_at, mask=real, other=0.0)
        score = tl.dot(asked, key, input_precision=PRECISION)
        seen = is_slot[None, :] & (slot[None, :] <= place[:, None])
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # of queries that saw nothing yet
        share, before = tl.exp(score - base[:, None]), tl.exp(most - base)
        total = total * before + tl.sum(share, 1)
        value_at, real_value = _tile(slot * HEAD, is_slot, channel, is_channel)
        value = tl.load(values + value_at, mask=real_value, other=0.0)
        found = tl.dot(
            share.to(value.dtype), value, found * before[:, None], input_precision=PRECISION
        )
        most = higher

    saw = total > 0
    found = found / tl.where(saw, total, 1.0)[:, None]
    to = (tl.program_id(2) * (tl.num_programs(0) // HEADS) + row).to(tl.int64) * num_queries + query
    at, inside = _tile(to * (HEADS * HEAD) + head * HEAD, is_query, channel, is_channel)
    tl.store(attended + at, found, mask=inside)
    log = tl.where(saw, most + tl.log(tl.where(saw, total, 1.0)), float("-inf"))
    tl.store(logs + to * HEADS + head, log, mask=is_query)


@triton.jit(do_not_specialize=["num_parts", "num_tokens"])
def add_product(
    x, x_stride, to, to_stride, factors, logs, num_parts, weight, num_tokens,
    WIDTH: tl.constexpr, OUTPUTS: tl.constexpr, HEAD: tl.constexpr, HAS_PARTS: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """X + factors @ weight.

    Programs: (blocks of tokens, blocks of outputs).

    Args:
        x, to: (token, OUTPUTS) summands and where sums go, which may be the same.
        factors: (token, WIDTH); with HAS_PARTS (part, token, WIDTH), what `attend` has found.
        logs: (part, token, head) of these parts.
        weight: (WIDTH, OUTPUTS).
    """
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_token, is_output = token < num_tokens, output < OUTPUTS
    row = token.to(tl.int64)
    found = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, WIDTH, STEP):
        channel = k + tl.arange(0, STEP)
        at, inside = _tile(row * WIDTH, is_token, channel, channel < WIDTH)
        if HAS_PARTS:
            of_log, _ = _tile(row * (WIDTH // HEAD), is_token, channel // HEAD, channel < WIDTH)
            part, log_part = num_tokens.to(tl.int64) * WIDTH, num_tokens * (WIDTH // HEAD)
            most = tl.full((ROWS, STEP), float("-inf"), tl.float32)
            for i in range(num_parts):
                log = tl.load(logs + i * log_part + of_log, mask=inside, other=float("-inf"))
                most = tl.maximum(most, log)
            most = tl.where(most == float("-inf"), 0.0, most)
            factor = tl.zeros((ROWS, STEP), tl.float32)
            total = tl.zeros((ROWS, STEP), tl.float32)
            for i in range(num_parts):
                log = tl.load(logs + i * log_part + of_log, mask=inside, other=float("-inf"))
                share = tl.exp(log - most)
                total += share
                factor += share * tl.load(factors + i * part + at, mask=inside, other=0.0)
            factor = factor / tl.where(total > 0, total, 1.0)
        else:
            factor = tl.load(factors + at, mask=inside, other=0.0)
        at, inside = _tile(channel * OUTPUTS, channel < WIDTH, output, is_output)
        other = tl.load(weight + at, mask=inside, other=0.0)
        found = tl.dot(factor.to(other.dtype), other, found, input_precision=PRECISION)
    at, inside = _tile(row * x_stride, is_token, output, is_output)
    found += tl.load(x + at, mask=inside, other=0.0)
    at, inside = _tile(row * to_stride, is_token, output, is_output)
    tl.store(to + at, found, mask=inside)


@triton.jit(do_not_specialize=["num_tokens"])
def gate_up(
    x, weight, inner, num_tokens, EPS: tl.constexpr, WIDTH: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """SwiGLU's hidden channels: silu(gate) * up, of normed tokens.

    Programs: (blocks of tokens, blocks of hidden channels).

    Args:
        x: (token, WIDTH).
        weight: (WIDTH, 2 * INNER), gates before ups.
        inner: (token, INNER) where they go.
    """
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_token, is_output = token < num_tokens, output < INNER
    row = token.to(tl.int64) * WIDTH
    inverse = _inverse_length(x, row, is_token, EPS, WIDTH, ROWS, STEP)
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, WIDTH, STEP):
        channel = k + tl.arange(0, STEP)
        at, inside = _tile(row, is_token, channel, channel < WIDTH)
        normed = tl.load(x + at, mask=inside, other=0.0) * inverse[:, None]
        at, inside = _tile(channel * (2 * INNER), channel < WIDTH, output, is_output)
        factor = tl.load(weight + at, mask=inside, other=0.0)
        normed = normed.to(factor.dtype)
        gate = tl.dot(normed, factor, gate, input_precision=PRECISION)
        factor = tl.load(weight + INNER + at, mask=inside, other=0.0)
        up = tl.dot(normed, factor, up, input_precision=PRECISION)
    hidden = gate / (1.0 + tl.exp(-gate)) * up
    at, inside = _tile(token.to(tl.int64) * INNER, is_token, output, is_output)
    tl.store(inner + at, hidden.to(inner.dtype.element_ty), mask=inside)
