"""Kept units: ids, places and segments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autogaze.errors import MLLMError
from autogaze.mllm.units import KeptUnits, UnitGrid

sides = st.integers(1, 6)
grids = st.builds(
    UnitGrid,
    st.integers(1, 4),
    st.lists(st.tuples(sides, sides), min_size=1, max_size=3).map(tuple),
)


@st.composite
def kept_units(draw, grid=grids):
    chosen = draw(grid) if isinstance(grid, st.SearchStrategy) else grid
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(chosen.tubelets, chosen.num_units, generator=generator) < 0.4
    mask[draw(st.integers(0, chosen.tubelets - 1)), draw(st.integers(0, chosen.num_units - 1))] = (
        True
    )
    return KeptUnits.from_mask(chosen, mask), mask


@given(kept_units())
def test_ids_are_those_of_the_mask(case):
    kept, mask = case
    back = torch.zeros_like(mask)
    back[kept.tubelet, kept.ids] = True
    assert torch.equal(back, mask)
    assert kept.num_units == int(mask.sum())
    assert kept.lengths == tuple(mask.sum(1).tolist())
    lists = [row.nonzero()[:, 0].flip(0).tolist() for row in mask]
    assert torch.equal(KeptUnits.from_lists(kept.grid, lists).ids, kept.ids)


@given(kept_units())
def test_a_place_names_its_unit(case):
    kept, _ = case
    grid = kept.grid
    firsts = [sum(r * c for r, c in grid.grids[:n]) for n in range(len(grid.grids))]
    for unit, (number, row, column) in zip(kept.ids.tolist(), kept.places.tolist(), strict=True):
        assert unit == firsts[number] + row * grid.grids[number][1] + column
        assert row < grid.grids[number][0]


@given(kept_units())
def test_a_dense_place_holds_the_centre(case):
    kept, _ = case
    rows, columns = kept.grid.dense
    for (number, row, column), (r, c) in zip(
        kept.places.tolist(), kept.dense_places.tolist(), strict=True
    ):
        height, width = kept.grid.grids[number]
        assert r <= (row + 0.5) / height * rows < r + 1 + 1e-9
        assert c <= (column + 0.5) / width * columns < c + 1 + 1e-9


@given(kept_units())
def test_segments_count_every_grid_of_every_tubelet(case):
    kept, mask = case
    sizes = [rows * columns for rows, columns in kept.grid.grids]
    expected = [int(part.sum()) for row in mask for part in row.split(sizes)]
    assert list(kept.segments) == expected


@given(grids)
def test_everything_is_the_dense_grid(grid):
    kept = KeptUnits.everything(grid)
    assert kept.ratio == 1.0
    assert kept.num_units == grid.tubelets * grid.dense_units
    assert torch.equal(kept.dense_places, kept.places[:, 1:])


def test_between_is_a_video_of_its_own():
    grid = UnitGrid(3, ((2, 2),))
    kept = KeptUnits.from_lists(grid, [[0], [], [1, 3]])
    part = kept.between(1, 3)
    assert part.grid.tubelets == 2
    assert part.lengths == (0, 2)
    assert part.ids.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("ids", "lengths", "value"),
    [
        ([0, 4], (2, 0), "4"),
        ([-1], (1, 0), "-1"),
        ([0, 0], (2, 0), "ascend"),
        ([1, 0], (2, 0), "ascend"),
        ([0, 1], (1, 0), "1"),
        ([0], (1,), "2 tubelets"),
        ([], (0, 0), "2 tubelets"),
        ([0], (2, -1), "2"),
    ],
)
def test_wrong_units_are_refused(ids, lengths, value):
    with pytest.raises(MLLMError, match=value):
        KeptUnits(UnitGrid(2, ((2, 2),)), torch.tensor(ids, dtype=torch.long), lengths)


def test_a_mask_of_another_grid_is_refused():
    with pytest.raises(MLLMError, match=r"2 tubelets x 4 units.*\(2, 5\)"):
        KeptUnits.from_mask(UnitGrid(2, ((2, 2),)), torch.ones(2, 5, dtype=torch.bool))


@pytest.mark.parametrize(("tubelets", "sides"), [(0, ((2, 2),)), (1, ()), (1, ((0, 2),))])
def test_an_empty_grid_is_refused(tubelets, sides):
    with pytest.raises(MLLMError):
        UnitGrid(tubelets, sides)
