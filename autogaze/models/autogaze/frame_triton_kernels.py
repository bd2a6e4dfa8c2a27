"""Kernels of a frame around the decoder on a GPU (Triton): `triton_steps.py` and `inhibition.py` launch them."""

import triton
import triton.language as tl


@triton.jit
def begin(
    vision, vision_row, vision_token, num_present, num_tokens, unfed, valid, embedding, last, caps,
    capacity, tokens, places, ends, going, left, turns, taken, num_patches, kept, num_kept, counts,
    num_counts, NUM_SLOTS: tl.constexpr, WIDTH: tl.constexpr, SLOTS: tl.constexpr,
    PADDED_WIDTH: tl.constexpr, TOKENS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Lays out what a frame feeds; its programs are (rows, blocks of tokens).

    Arguments of one row after another: `FrameRows` says what they are; flags are bytes.

    Args:
        vision: of row i and token j from `i * vision_row + j * vision_token` on; of present rows.
        SLOTS, PADDED_WIDTH, WIDE: powers of two, no less than NUM_SLOTS, WIDTH, and all the rest.
        TOKENS: tokens of a program.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    is_present = row < num_present
    slots = tl.arange(0, SLOTS)
    flags = tl.load(valid + row * NUM_SLOTS + slots, mask=slots < NUM_SLOTS, other=0).to(tl.int32)
    numbers = block * TOKENS + tl.arange(0, TOKENS)
    # Tokens that are fed up to each, itself included.
    before = tl.sum(tl.where(slots[None, :] <= numbers[:, None], flags[None, :], 0), 1)
    fed = before + tl.maximum(numbers - (NUM_SLOTS - 1), 0)
    is_unfed = numbers < NUM_SLOTS
    here = tl.load(valid + row * NUM_SLOTS + numbers, mask=is_unfed, other=0) != 0
    all_tokens = NUM_SLOTS + num_tokens
    is_vision = (numbers >= NUM_SLOTS) & (numbers < tl.where(is_present, all_tokens, 0))
    is_fed = here | is_vision
    start = tl.load(last + row)
    is_token = numbers < all_tokens
    tl.store(
        places + row * all_tokens + numbers, tl.where(is_fed, start + fed, capacity), mask=is_token
    )
    channels = tl.arange(0, PADDED_WIDTH)[None, :]
    is_channel = channels < WIDTH
    ids = tl.load(unfed + row * NUM_SLOTS + numbers, mask=is_unfed, other=0)
    of_ids = tl.load(
        embedding + ids[:, None] * WIDTH + channels, mask=is_unfed[:, None] & is_channel, other=0.0
    )
    of_frame = tl.load(
        vision + row * vision_row + (numbers - NUM_SLOTS)[:, None] * vision_token + channels,
        mask=is_vision[:, None] & is_channel,
        other=0.0,
    ).to(of_ids.dtype)
    tl.store(
        tokens + (row * all_tokens + numbers[:, None]) * WIDTH + channels,
        tl.where(is_unfed[:, None], of_ids, of_frame),
        mask=is_token[:, None] & is_channel,
    )
    if block == 0:
        tl.store(ends + row, start + tl.sum(flags, 0) + num_tokens)
        tl.store(going + row, is_present.to(tl.uint8))
        tl.store(left + row, tl.load(caps + row))
        tl.store(turns + row, start * 0)
        wide = tl.arange(0, WIDE)
        zeros = tl.zeros([WIDE], tl.uint8)
        tl.store(taken + row * num_patches + wide, zeros, mask=wide < num_patches)
        tl.store(kept + row * num_kept + wide, zeros, mask=wide < num_kept)
        if row == 0:
            tl.store(counts + wide, zeros.to(tl.int64), mask=wide < num_counts)


@triton.jit
def heads(
    hidden, weights, outputs, num_rows, num_outputs, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The product hidden @ weights in float32; its programs are (blocks of rows, of columns)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < num_outputs
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, WIDTH, STEP):
        channels = start + tl.arange(0, STEP)
        is_channel = channels < WIDTH
        x = tl.load(
            hidden + rows[:, None] * WIDTH + channels, mask=is_row[:, None] & is_channel, other=0.0
        )
        w = tl.load(
            weights + channels[:, None] * num_outputs + columns,
            mask=is_channel[:, None] & is_column,
            other=0.0,
        )
        # Three products of TF32 are as exact as one of float32.
        total = tl.dot(x, w, total, input_precision="tf32x3")
    places = rows[:, None].to(tl.int64) * num_outputs + columns
    tl.store(outputs + places, total, mask=is_row[:, None] & is_column)


@triton.jit
def block(
    logits, logits_row, logits_slot, losses, losses_row, log_weights, embedding, capacity, taken, num_patches,
    ids, unfed, valid, chosen, kept, num_kept, last, ends, going, turns, left, counts, thresholds,
    predicted, tokens, places, positions, NUM_SLOTS: tl.constexpr, WIDTH: tl.constexpr,
    SLOTS: tl.constexpr, PADDED_WIDTH: tl.constexpr, PATCHES: tl.constexpr, TAKES: tl.constexpr,
    WEIGHTED: tl.constexpr, SEQUENTIAL: tl.constexpr,
):  # fmt: skip
    """Takes a block's patches, applies limits, and lays out what is fed next; its programs are the rows.

    Arguments of one row after another: `FrameRows` says what they are; flags are bytes.

    Args:
        logits: of row i and slot k from `i * logits_row + k * logits_slot` on.
        losses: of row i from `i * losses_row` on.
        SLOTS, PADDED_WIDTH, PATCHES: powers of two, no less than NUM_SLOTS, WIDTH and `num_patches`.
        TAKES: whether patches are taken here; else they are in `ids` already.
        WEIGHTED: whether `log_weights` are added to logits.
    """
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, SLOTS)
    is_slot = slots < NUM_SLOTS
    # All that is read comes first, so that it is waited for once.
    goes = tl.load(going + row) != 0
    turn = tl.load(turns + row)
    room = tl.load(left + row)
    least = tl.load(thresholds + row)
    before = tl.load(last + row)
    end_of_frame = tl.load(ends + row)
    was_predicted = tl.load(predicted + row)
    loss = tl.load(losses + row * losses_row + slots, mask=is_slot, other=0.0)
    if TAKES:
        patches = tl.arange(0, PATCHES)
        is_patch = patches < num_patches
        is_taken = tl.load(taken + row * num_patches + patches, mask=is_patch, other=1) != 0
        weights = tl.zeros([PATCHES], tl.float32)
        if WEIGHTED:
            weights = tl.load(log_weights + row * num_patches + patches, mask=is_patch, other=0.0)
        block_ids = tl.zeros([SLOTS], tl.int32)
        # Each slot takes the likeliest patch that is left by those before it; meanwhile the logits of
        # the next three are on their way.
        of_slot = logits + row * logits_row + patches
        first = tl.load(of_slot, mask=is_patch, other=float("-inf"))
        second, third = first, first
        if NUM_SLOTS > 1:
            second = tl.load(of_slot + logits_slot, mask=is_patch, other=float("-inf"))
        if NUM_SLOTS > 2:
            third = tl.load(of_slot + 2 * logits_slot, mask=is_patch, other=float("-inf"))
        for slot in tl.static_range(NUM_SLOTS):
            values = first + weights
            first, second = second, third
            if slot + 3 < NUM_SLOTS:
                third = tl.load(
                    of_slot + (slot + 3) * logits_slot, mask=is_patch, other=float("-inf")
                )
            # The lowest of several that are equally likely; 0 once no patch is left.
            best = tl.argmax(tl.where(is_taken, float("-inf"), values), 0, tie_break_left=True)
            best = tl.minimum(best, num_patches - 1)  # whatever comes of logits that are no numbers
            block_ids = tl.where(slots == slot, best, block_ids)
            is_taken = is_taken | (patches == best)
        tl.store(taken + row * num_patches + patches, is_taken.to(tl.uint8), mask=is_patch)
        chosen_ids = block_ids.to(tl.int64)
        tl.store(ids + row * NUM_SLOTS + slots, chosen_ids, mask=is_slot)
    else:
        chosen_ids = tl.load(ids + row * NUM_SLOTS + slots, mask=is_slot, other=0)
    is_going = slots < tl.where(goes, NUM_SLOTS, 0)  # of a row that takes part, every slot
    has_room = is_going & (slots < room)
    # Every frame takes a patch.
    stops = has_room & (loss <= least) & ((slots > 0) | (turn > 0))
    keeps = has_room & (stops == 0)
    # The loss that is left is predicted by the slot that stops, by that behind the cap, or the last.
    is_end = is_slot & (stops | (slots >= room) | (slots == NUM_SLOTS - 1))
    stop = tl.min(tl.where(is_end, slots, SLOTS), 0)
    found = tl.sum(tl.where(slots == stop, loss, 0.0), 0)
    tl.store(predicted + row, tl.where(goes, found, was_predicted))
    goes_on = (tl.sum(keeps.to(tl.int32), 0) == NUM_SLOTS) & (room > NUM_SLOTS)
    # Rows that take no part write behind their own blocks, where nothing is kept.
    at = row * num_kept + turn * NUM_SLOTS + slots
    tl.store(chosen + at, chosen_ids, mask=is_slot)
    tl.store(kept + at, keeps.to(tl.uint8), mask=is_slot)
    tl.store(unfed + row * NUM_SLOTS + slots, chosen_ids, mask=is_going)
    # None of a row that goes on: it is fed next.
    to_feed = keeps & (goes_on == 0)
    tl.store(valid + row * NUM_SLOTS + slots, to_feed.to(tl.uint8), mask=is_going)
    before = tl.where(turn == 0, end_of_frame, before)
    next_places = tl.where(goes_on, before + 1 + slots, capacity)
    tl.store(places + row * NUM_SLOTS + slots, next_places, mask=is_slot)
    if not SEQUENTIAL:  # the last ones of the frame
        next_positions = end_of_frame - NUM_SLOTS + 1 + slots
        tl.store(positions + row * NUM_SLOTS + slots, next_positions, mask=is_slot)
    channels = tl.arange(0, PADDED_WIDTH)[None, :]
    is_channel = is_slot[:, None] & (channels < WIDTH)
    embedded = tl.load(
        embedding + chosen_ids[:, None] * WIDTH + channels, mask=is_channel, other=0.0
    )
    to = (row * NUM_SLOTS + slots)[:, None] * WIDTH + channels
    tl.store(tokens + to, embedded, mask=is_channel)
    tl.store(last + row, before + tl.where(goes_on, NUM_SLOTS, 0))
    tl.atomic_add(counts + turn, 1, mask=goes_on)
    tl.store(turns + row, turn + goes.to(tl.int64))
    tl.store(going + row, goes_on.to(tl.uint8))
    tl.store(left + row, room - NUM_SLOTS)


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
