"""Kernels of a decoder's layer between its products (Triton): `layer_ops.py` and `gaze_model.py` launch them.

Each reads what it needs once and writes what follows once; sums are float32 whatever is stored.
"""

import triton
import triton.language as tl


@triton.jit
def _normed_rows(s, is_inside, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """1 / sqrt(mean(s^2) + EPS) of every row."""
    return 1.0 / tl.sqrt(tl.sum(tl.where(is_inside, s * s, 0.0), 1) / WIDTH + EPS)


@triton.jit
def add_norm(
    x, added, weight, total, normed, num_rows, HAS_ADDED: tl.constexpr, EPS: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Total = x + added, and its RMSNorm; programs are blocks of rows.

    Args:
        x, added, total, normed: (row, WIDTH); `added` and `total` are not touched without HAS_ADDED.
        BLOCK: a power of two, no less than WIDTH.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    at = row[:, None] * WIDTH + channel[None, :]
    inside = (row < num_rows)[:, None] & (channel < WIDTH)[None, :]
    s = tl.load(x + at, mask=inside, other=0.0)
    if HAS_ADDED:
        s += tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + at, s, mask=inside)
    inverse = _normed_rows(s, inside, EPS, WIDTH)
    gain = tl.load(weight + channel, mask=channel < WIDTH, other=0.0).to(tl.float32)
    found = s * inverse[:, None] * gain[None, :]
    tl.store(normed + at, found.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def add_norm_backward(
    total, weight, total_grad, normed_grad, x_grad, added_grad, weight_grads, num_rows,
    HAS_TOTAL: tl.constexpr, HAS_ADDED: tl.constexpr, EPS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of `add_norm`; every program takes blocks of rows in turn.

    Args:
        total_grad, normed_grad: of its two results; the first is not read without HAS_TOTAL.
        x_grad, added_grad: the same numbers, in the precision of either.
        weight_grads: (program, WIDTH) to be added up.
    """
    channel = tl.arange(0, BLOCK)
    is_channel = channel < WIDTH
    gain = tl.load(weight + channel, mask=is_channel, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK,), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(num_rows, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS).to(tl.int64)
        at = row[:, None] * WIDTH + channel[None, :]
        inside = (row < num_rows)[:, None] & is_channel[None, :]
        s = tl.load(total + at, mask=inside, other=0.0)
        grad = tl.load(normed_grad + at, mask=inside, other=0.0).to(tl.float32)
        inverse = _normed_rows(s, inside, EPS, WIDTH)
        unit = s * inverse[:, None]
        of_weight += tl.sum(grad * unit, 0)
        scaled = grad * gain[None, :]
        along = tl.sum(scaled * unit, 1) / WIDTH
        found = (scaled - unit * along[:, None]) * inverse[:, None]
        if HAS_TOTAL:
            found += tl.load(total_grad + at, mask=inside, other=0.0)
        tl.store(x_grad + at, found, mask=inside)
        if HAS_ADDED:
            tl.store(added_grad + at, found.to(added_grad.dtype.element_ty), mask=inside)
    tl.store(weight_grads + tl.program_id(0) * WIDTH + channel, of_weight, mask=is_channel)


@triton.jit
def rotate(
    source, source_row, source_token, source_head, rotation, turned, turned_token, tokens_per_row,
    SIGN: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rotate channel i of every head with channel i + HEAD / 2.

    Programs: (blocks of a row's pairs, rows).

    Args:
        source: (row, token, head, HEAD) by the strides that follow.
        rotation: (token of a row, HEAD / 2, 2) cosines and sines.
        turned: (row * token, head, HEAD), tokens `turned_token` numbers apart.
        SIGN: 1, -1 to rotate back, 0 to copy.
    """
    HALF: tl.constexpr = HEAD // 2
    row = tl.program_id(1).to(tl.int64)
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pair < tokens_per_row * (HEADS * HALF)
    channel, head, position = pair % HALF, pair // HALF % HEADS, pair // (HALF * HEADS)
    at = row * source_row + position * source_token + head * source_head + channel
    first = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + at + HALF, mask=inside, other=0.0).to(tl.float32)
    if SIGN != 0:
        of_pair = rotation + (position * HALF + channel) * 2
        cos = tl.load(of_pair, mask=inside, other=1.0)
        sin = tl.load(of_pair + 1, mask=inside, other=0.0) * SIGN
        real, imaginary = first * cos - second * sin, first * sin + second * cos
    else:
        real, imaginary = first, second
    to = (
        turned
        + row * tokens_per_row * turned_token
        + position * turned_token
        + head * HEAD
        + channel
    )
    tl.store(to, real.to(turned.dtype.element_ty), mask=inside)
    tl.store(to + HALF, imaginary.to(turned.dtype.element_ty), mask=inside)


@triton.jit
def _place(INNER: tl.constexpr, BLOCK: tl.constexpr):
    """A program's first value, and where those of its values lie among twice as many."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    column = (first % INNER).to(tl.int32) + tl.arange(0, BLOCK)  # small numbers are divided faster
    return first, (first // INNER + column // INNER) * (2 * INNER) + column % INNER


@triton.jit
def gated(gate_up, inner, num_values, INNER: tl.constexpr, BLOCK: tl.constexpr):
    """silu(gate) * up of (token, 2 * INNER); programs are blocks of the results."""
    first, offset = _place(INNER, BLOCK)
    value = first + tl.arange(0, BLOCK)
    inside, at = value < num_values, gate_up + offset
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + INNER, mask=inside, other=0.0).to(tl.float32)
    found = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(inner + value, found.to(inner.dtype.element_ty), mask=inside)


@triton.jit
def gated_backward(
    gate_up, inner_grad, gate_up_grad, num_values, INNER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of `gated`."""
    first, offset = _place(INNER, BLOCK)
    value = first + tl.arange(0, BLOCK)
    inside = value < num_values
    gate = tl.load(gate_up + offset, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + offset + INNER, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(inner_grad + value, mask=inside, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-gate))
    silu = gate * share
    of_gate = grad * up * (share + silu * (1.0 - share))
    element = gate_up_grad.dtype.element_ty
    tl.store(gate_up_grad + offset, of_gate.to(element), mask=inside)
    tl.store(gate_up_grad + offset + INNER, (grad * silu).to(element), mask=inside)


@triton.jit
def cut_patches(
    frames, factors, patches, num_values, side, GRID: tl.constexpr, PATCH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Patches of normalised frames from bytes; programs are blocks of the results.

    Args:
        frames: (frame, 3, side, side) bytes.
        factors: (2, 3) what each colour is multiplied by, and what is subtracted then.
        patches: (frame, GRID * GRID, 3 * PATCH * PATCH).
    """
    WIDTH: tl.constexpr = 3 * PATCH * PATCH
    first = tl.program_id(0).to(tl.int64) * BLOCK
    within = (first % WIDTH).to(tl.int32) + tl.arange(0, BLOCK)
    patch, value = first // WIDTH + within // WIDTH, within % WIDTH
    frame, cell = patch // (GRID * GRID), (patch % (GRID * GRID)).to(tl.int32)
    colour, inner = value // (PATCH * PATCH), value % (PATCH * PATCH)
    row = cell // GRID * PATCH + inner // PATCH
    column = cell % GRID * PATCH + inner % PATCH
    inside = first + tl.arange(0, BLOCK) < num_values
    at = (frame * 3 + colour) * side * side + row * side + column
    pixel = tl.load(frames + at, mask=inside, other=0).to(tl.float32) / 255
    factor = tl.load(factors + colour, mask=inside, other=1.0)
    found = pixel * factor - tl.load(factors + 3 + colour, mask=inside, other=0.0)
    to = patches + first + tl.arange(0, BLOCK)
    tl.store(to, found.to(patches.dtype.element_ty), mask=inside)
