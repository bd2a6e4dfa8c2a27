"""Packed sequences: every token in its place, and the states that gazes are read from."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.scoring import PackedRows
from tests.models.autogaze.tiny import tiny_model, tiny_video

PYRAMID = PatchPyramid((8, 16), 8)
NUM_TOKENS = 3


@st.composite
def some_rows(draw: st.DrawFn) -> GazeRows:
    """Rows as a model generates them: only a frame's last block may have gaps."""
    R, slots = draw(st.integers(1, 3)), draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    kept = torch.zeros(R, sum(slots), dtype=torch.bool)
    for row in range(R):
        first = 0
        for width in slots:
            full = draw(st.integers(0, width // 2)) * 2  # whole blocks of 2
            kept[row, first : first + full] = True
            if full + 1 < width:
                kept[row, first + full + 1] = draw(st.booleans())
            first += width
    ids = torch.arange(kept.numel()).view(kept.shape) % 5
    return GazeRows(PYRAMID, ids, kept, tuple(slots))


@given(some_rows())
@settings(max_examples=40, deadline=None)
def test_tokens_and_states_are_where_a_walk_along_each_row_finds_them(rows: GazeRows) -> None:
    K, (R, S), T = 2, rows.ids.shape, len(rows.slots)
    packed = PackedRows.of(rows, NUM_TOKENS, K)
    vision = torch.arange(R * T * NUM_TOKENS).view(R, T, NUM_TOKENS, 1) + 1000.0
    slots = torch.arange(R * S).view(R, S)[rows.kept]
    sequence = packed.sequence(vision, slots[:, None].float() + 1)[..., 0]
    assert packed.slots.equal(slots)
    positions = iter(zip(packed.before, packed.head, packed.after, packed.after_head, strict=True))
    for row in range(R):
        expected, first = [], 0
        for frame, width in enumerate(rows.slots):
            expected += vision[row, frame, :, 0].tolist()
            before = len(expected) - 1
            for rank in range(width):
                if rank % K == 0:
                    before = len(expected) - 1
                if not rows.kept[row, first + rank]:
                    continue
                expected.append(float(row * S + first + rank + 1))
                state, head, after, after_head = (int(one) for one in next(positions))
                read = packed.states.flatten()
                assert (int(read[state]), head) == (before, rank % K)
                last = len(expected) - 1 if rank % K == K - 1 else before
                assert (int(read[after]), after_head) == (last, (rank + 1) % K)
                assert state // packed.states.shape[1] == after // packed.states.shape[1] == row
            first += width
        assert sequence[row, : len(expected)].tolist() == expected
        assert not sequence[row, len(expected) :].any()
    assert next(positions, None) is None


def test_a_gaze_has_the_rows_of_its_padded_dict() -> None:
    gaze = tiny_model().generate(tiny_video(3, 2), caps=[3, 5]).to_gaze()
    rows, padded = GazeRows.of_gaze(gaze), GazeRows.of_padded(gaze.padded(), gaze.pyramid)
    assert rows.slots == padded.slots
    assert rows.kept.equal(padded.kept)
    assert rows.host_kept.equal(padded.host_kept)
    assert rows.ids.equal(padded.ids)


def test_states_that_are_read_are_those_of_all() -> None:
    decoder = tiny_model().gazing_model.gaze_decoder
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, decoder.config.hidden_size, generator=generator)
    read = torch.tensor([[0, 5, 11], [3, 4, 0]])
    with torch.no_grad():
        every, some = decoder(x), decoder(x, read)
    torch.testing.assert_close(some, every[torch.arange(2)[:, None], read])
