"""Rows of gazes keep their gazes in every form and when they are joined."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.rows import GazeRows

PYRAMID = PatchPyramid((8, 16), 8)


@st.composite
def some_rows(draw, num_frames):
    """Gazes with padding between and behind them."""
    clips = draw(st.integers(1, 3))
    slots = tuple(draw(st.integers(1, 4)) for _ in range(num_frames))
    orders = st.permutations(range(PYRAMID.num_patches))
    ids = [[id for k in slots for id in draw(orders)[:k]] for _ in range(clips)]
    kept = [[draw(st.booleans()) for _ in range(sum(slots))] for _ in range(clips)]
    losses = torch.rand(clips, num_frames) if draw(st.booleans()) else None
    return GazeRows(PYRAMID, torch.tensor(ids), torch.tensor(kept), slots, losses)


def same(gaze: Gaze, other: Gaze) -> bool:
    return gaze.ids.equal(other.ids) and gaze.lengths.equal(other.lengths)


@settings(max_examples=60, deadline=None)
@given(rows=some_rows(3))
def test_all_forms_hold_the_same_gaze(rows):
    gaze = rows.to_gaze()
    padded = rows.to_padded()
    again = GazeRows.of_padded(padded, PYRAMID)
    assert again.slots == rows.slots
    assert again.kept.equal(rows.kept)
    assert again.ids[rows.kept].equal(rows.ids[rows.kept])
    assert same(Gaze.from_padded(padded, PYRAMID), gaze)
    assert same(GazeRows.of_gaze(gaze).to_gaze(), gaze)
    assert gaze.lengths.equal(rows.counts().cpu())
    assert [rows.ends(t) for t in range(3)] == torch.tensor(rows.slots).cumsum(0).tolist()
    assert (gaze.predicted_losses is None) == (rows.losses is None)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(some_rows(2), min_size=1, max_size=3))
def test_joined_rows_are_the_parts_one_after_the_other(parts):
    together = GazeRows.cat(parts)
    assert together.slots == tuple(map(max, zip(*(part.slots for part in parts), strict=True)))
    gazes = [part.to_gaze() for part in parts]
    ids, lengths = (torch.cat([getattr(gaze, x) for gaze in gazes]) for x in ("ids", "lengths"))
    assert together.to_gaze().ids.equal(ids)
    assert together.to_gaze().lengths.equal(lengths)
    known = all(part.losses is not None for part in parts)
    assert (together.losses is not None) == known
    first = len(parts[0].ids)
    assert same(together.to_gaze(slice(first)), gazes[0])


def test_frames_of_equal_width_are_counted_at_once():
    kept = torch.tensor([[True, False, True, True, False, False]])
    rows = GazeRows(PYRAMID, torch.arange(6)[None], kept, (2, 2, 2))
    assert rows.counts().tolist() == [[1, 2, 0]]
    assert GazeRows(PYRAMID, kept[:, :0].long(), kept[:, :0], (0, 0)).counts().tolist() == [[0, 0]]
