"""From gazes to units: mappings, order, exact budgets, tiles and padding, streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import autogaze
from autogaze import Gaze, PatchPyramid
from autogaze.errors import MLLMError, SelectorError
from autogaze.mllm.ranking import (
    RankedUnits,
    gazed_grid,
    rank_units,
    scales_grid,
    spread_order,
    units_of_gaze,
)
from autogaze.mllm.selection import UNITS_PYRAMID, select_units, unit_selector
from autogaze.mllm.unit_choice import Budget, shares
from autogaze.mllm.units import UnitGrid

QUICK = ("random", "centre", "run-length", "change")
SMALL = PatchPyramid((32, 64), 16)


def moving(frames: int = 5, height: int = 60, width: int = 90) -> torch.Tensor:
    """A bright square that moves over noise."""
    generator = torch.Generator().manual_seed(0)
    ground = torch.randint(0, 200, (3, height, width), generator=generator, dtype=torch.uint8)
    video = ground.repeat(frames, 1, 1, 1)
    for number, frame in enumerate(video):
        frame[:, 4 + 6 * number : 24 + 6 * number, 30:60] = 255
    return video


def finest(mask: torch.Tensor, **extra) -> Gaze:
    """(T, 14, 14) mask of units as a gaze."""
    return Gaze.from_mask(UNITS_PYRAMID, mask.flatten(1)[None], **extra)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_masks_to_units_and_back(data):
    frames, tubelet = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    seed = data.draw(st.integers(0, 1000))
    mask = torch.rand(frames, 14, 14, generator=torch.Generator().manual_seed(seed)) < 0.1
    mask[0, 0, 0] = True
    tubelets = -(-frames // tubelet)
    kept = units_of_gaze(finest(mask), UnitGrid(tubelets, ((14, 14),)), tubelet)
    expected = torch.stack([part.any(0).flatten() for part in mask.split(tubelet)])
    found = torch.zeros(tubelets, 196, dtype=torch.bool)
    found[kept.tubelet, kept.ids] = True
    assert torch.equal(found, expected)


def test_frames_of_a_tubelet_take_turns():
    gaze = Gaze(UNITS_PYRAMID, torch.tensor([9, 8, 7, 8, 3, 5]), torch.tensor([[3, 3, 0]]))
    grid = UnitGrid(2, ((14, 14),))
    ranked = rank_units(gaze, grid, 2)
    assert ranked.ids.tolist() == [9, 8, 3, 7, 5]
    assert ranked.lengths == (5, 0)
    kept = units_of_gaze(gaze, grid, 2, ratio=2.5 / 196)
    assert kept.ids.tolist() == [8, 9]


def test_tiles_without_a_source_lie_row_by_row():
    gaze = Gaze(UNITS_PYRAMID, torch.tensor([0, 15]), torch.tensor([[1], [1]]))
    kept = units_of_gaze(gaze, UnitGrid(1, ((14, 28),)), 1)
    assert kept.dense_places.tolist() == [[0, 0], [1, 15]]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("dense", [(14, 14), (5, 16), (15, 20)])
@pytest.mark.parametrize("tubelet", [1, 2])
def test_budgets_are_exact(name, dense, tubelet):
    video = moving()
    grid = UnitGrid(-(-5 // tubelet), (dense,))
    for ratio in (0.001, 0.03, 0.1):
        cap = max(1, int(ratio * dense[0] * dense[1]))
        generator = torch.Generator().manual_seed(0)
        found = select_units([video], grid, tubelet, name, ratio=ratio, generator=generator)
        assert max(found.kept.lengths) <= cap
        if name in ("random", "centre"):
            assert set(found.kept.lengths) == {cap}
        again = units_of_gaze(found.gaze, grid, tubelet, ratio=ratio)
        assert torch.equal(again.ids, found.kept.ids)
        assert gazed_grid(found.gaze) == dense


@pytest.mark.parametrize("name", [*QUICK, "greedy"])
def test_streamed_as_whole(name):
    video = moving(19, 40, 50)
    grid = UnitGrid(10, ((9, 16),))
    kept = [
        select_units(parts, grid, 2, name, ratio=0.05, generator=torch.Generator().manual_seed(1))
        for parts in ([video], video.split(1), [video[:3], video[3:17], video[17:]])
    ]
    for other in kept[1:]:
        assert torch.equal(other.kept.ids, kept[0].kept.ids)
        assert other.kept.lengths == kept[0].kept.lengths


def test_what_moves_is_found():
    video = torch.full((4, 3, 140, 140), 100, dtype=torch.uint8)
    video[3, :, 20:30, 40:50] = 255  # unit (2, 4)
    kept = select_units([video], UnitGrid(2, ((14, 14),)), 2, "greedy", ratio=0.02).kept
    assert [2, 4] in kept.between(1, 2).dense_places.tolist()


def noise(frames: int, rows: int, columns: int) -> torch.Tensor:
    """New noise in every frame, in squares of 8 pixels: every unit of 16 is equally complex."""
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    shape = (frames, 3, 2 * rows, 2 * columns)
    squares = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return squares.repeat_interleave(8, 2).repeat_interleave(8, 3)


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.02, 0.04, 0.1]))
@settings(max_examples=12, deadline=None)
def test_a_loss_is_that_of_pixels_on_the_frame(rows, columns, loss):
    video = noise(2, rows, columns)
    kept = select_units([video], UnitGrid(2, ((rows, columns),)), 1, "greedy", loss=loss).kept
    looked = torch.zeros(2, rows, columns, dtype=torch.bool)
    looked[kept.tubelet, kept.places[:, 1], kept.places[:, 2]] = True
    pixels = looked.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    canvas = torch.full(video.shape[1:], 0.5)
    for frame, seen in zip(video / 255, pixels, strict=True):
        canvas = torch.where(seen, frame, canvas)
        error = (canvas - frame).abs().mean(0)
        for part in (part for band in error.split(224) for part in band.split(224, 1)):
            cell = 0.5 / (part.numel() / 256)  # the most that one more unit may bring
            assert loss - cell < part.mean() <= loss + 1e-3


@pytest.mark.parametrize("dense", [(16, 16), (8, 8), (34, 60), (1, 15)])
@pytest.mark.parametrize("loss", [None, 0.04])
def test_units_at_edges_are_kept_as_those_in_the_middle(dense, loss):
    rows, columns = dense
    video = noise(4, rows, columns)
    kept = select_units([video], UnitGrid(4, (dense,)), 1, "greedy", loss=loss).kept
    share = torch.zeros(dense)
    share.index_put_(tuple(kept.places[:, 1:].mT), torch.tensor(0.25), accumulate=True)
    for part in (part for band in share.split(14) for part in band.split(14, 1)):
        wanted = 0.91 if loss is None else 0.82
        assert part.mean() == pytest.approx(wanted, abs=0.05 + 1 / part.numel())


def test_a_loss_of_nothing_keeps_every_unit():
    for dense in ((8, 8), (15, 15)):
        grid = UnitGrid(2, (dense,))
        assert select_units([noise(2, *dense)], grid, 1, "greedy", loss=0).kept.ratio == 1


def test_a_number_of_units_is_spent_at_the_edges_too():
    grid = UnitGrid(4, ((8, 8),))
    selector = unit_selector("greedy")
    for most, asked, wanted in ((200, None, 200), (220, None, 220), (250, 0, 250), (400, 0, 256)):
        budget = Budget(loss=asked, max_units=most)
        ratio, loss = budget.settings([grid], selector)
        chosen = select_units([noise(4, 8, 8)], grid, 1, selector, ratio=ratio, loss=loss)
        assert budget.keep([chosen.ranked])[0].num_units == wanted


def test_a_predicted_loss_is_taken_as_it_is(monkeypatch):
    selector = unit_selector("greedy")
    asked = []
    select = selector.select

    def recorded(clips, **options):
        asked.append(options["loss"])
        return select(clips, **options)

    monkeypatch.setattr(selector, "select", recorded)
    for metric in ("canvas", "predicted"):
        monkeypatch.setattr(selector, "metric", metric)
        select_units([noise(1, 7, 14)], UnitGrid(1, ((7, 14),)), 1, selector, loss=0.5)
    assert asked == [pytest.approx(0.5 / 2 + 0.5 / 255 / 2), 0.5]


def test_scales_are_grids_of_units():
    grid = scales_grid(1, 4, 8, SMALL)
    assert grid.grids == ((2, 4), (4, 8))
    gaze = Gaze(SMALL, torch.tensor([1, 4, 2]), torch.tensor([[2], [1]]))
    kept = units_of_gaze(gaze, grid, 1, units="scales")
    assert kept.places.tolist() == [[0, 0, 1], [0, 1, 2], [1, 0, 0]]
    with pytest.raises(MLLMError, match=r"4 or 8 x 8 or 12"):
        scales_grid(1, 5, 9, SMALL)
    with pytest.raises(MLLMError):
        units_of_gaze(gaze, UnitGrid(1, ((4, 8),)), 1, units="scales")


def test_union_has_all_that_is_overlapped():
    gaze = Gaze(SMALL, torch.tensor([1, 19]), torch.tensor([[2]]))
    kept = units_of_gaze(gaze, UnitGrid(1, ((4, 4),)), 1, units="union")
    assert kept.dense_places.tolist() == [[0, 2], [0, 3], [1, 2], [1, 3], [3, 3]]
    first = units_of_gaze(gaze, UnitGrid(1, ((4, 4),)), 1, units="union", ratio=1 / 20)
    assert first.num_units == 4


def test_errors():
    grid = UnitGrid(1, ((14, 14),))
    everything = finest(torch.ones(1, 14, 14, dtype=torch.bool))
    coarse = Gaze(PatchPyramid(), torch.tensor([0]), torch.tensor([[1]]))
    with pytest.raises(MLLMError, match="scales"):
        units_of_gaze(coarse, grid, 1)
    with pytest.raises(MLLMError):
        units_of_gaze(everything, UnitGrid(2, ((14, 14),)), 1)
    with pytest.raises(MLLMError):
        units_of_gaze(everything, UnitGrid(1, ((14, 15),)), 1)
    with pytest.raises(MLLMError, match="order"):
        units_of_gaze(everything, grid, 1, ratio=0.1)
    with pytest.raises(MLLMError):
        units_of_gaze(Gaze(UNITS_PYRAMID, torch.empty(0).long(), torch.tensor([[0]])), grid, 1)
    for ratio in (0, 1.5, True, float("nan")):
        with pytest.raises(MLLMError):
            units_of_gaze(everything, grid, 1, ratio=ratio)
    with pytest.raises(MLLMError):
        select_units([], grid, 1, "centre", ratio=0.1)
    with pytest.raises(MLLMError):  # another size
        select_units([moving(1), moving(1, 50, 50)], UnitGrid(2, ((14, 14),)), 1, "centre")
    with pytest.raises(MLLMError):  # too many frames
        select_units([moving(2)], grid, 1, "centre", ratio=0.1)
    with pytest.raises(SelectorError):
        select_units([moving(1)], grid, 1, "codec", ratio=0.1)
    with pytest.raises(SelectorError):
        select_units([moving(1)], grid, 1, "centre", loss=0.1)


def test_names_are_loaded_for_a_mapping():
    assert unit_selector("greedy").pyramid == UNITS_PYRAMID
    assert unit_selector("greedy", "scales").pyramid == PatchPyramid()
    selector = autogaze.load("greedy")
    assert unit_selector(selector) is selector


@given(st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_spread_order_is_a_permutation(count):
    order = spread_order(count)
    assert sorted(order.tolist()) == list(range(count))


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(0, 500))
@settings(deadline=None)
def test_shares_are_exact(needs, total):
    found = shares(needs, total)
    assert sum(found) == min(total, sum(needs))
    assert all(0 <= share <= need for share, need in zip(found, needs, strict=True))


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_units_of_a_prompt_are_never_more_than_asked(lengths):
    lengths = [[1 + first, *rest] for first, *rest in lengths]
    chosen = [
        RankedUnits(
            UnitGrid(len(counts), ((4, 4),)),
            torch.cat([torch.arange(count) for count in counts]),
            tuple(counts),
        )
        for counts in lengths
    ]
    total = sum(map(sum, lengths))
    for most in {len(lengths), (len(lengths) + total) // 2, total, total + 1}:
        kept = Budget(max_units=most).keep(chosen)
        assert sum(units.num_units for units in kept) == min(most, total)
    if len(lengths) > 1:
        with pytest.raises(MLLMError):
            Budget(max_units=1).keep(chosen)


def test_budget_is_spread_by_need():
    still = torch.full((4, 3, 56, 56), 128, dtype=torch.uint8)
    grids = [UnitGrid(2, ((14, 14),))] * 2
    selector = unit_selector("greedy")
    budget = Budget(max_units=20)
    ratio, loss = budget.settings(grids, selector)
    assert ratio == pytest.approx(4 * 20 / (4 * 196))
    assert loss == selector.default_loss
    chosen = [
        select_units([video], grid, 2, selector, ratio=ratio, loss=loss).ranked
        for video, grid in zip([still, moving(4)], grids, strict=True)
    ]
    calm, busy = budget.keep(chosen)
    assert calm.num_units + busy.num_units <= 20
    assert busy.num_units > calm.num_units
    for value in (0, -1):
        with pytest.raises(MLLMError):
            Budget(max_units=value)


def test_tiles_at_once_follow_the_memory_of_the_selectors_device(monkeypatch):
    """Of 6 tiles 2 are taken, then as many as a GPU holds; the choice is the same."""
    from autogaze import pipeline

    frames = noise(4, 28, 42)
    grid = UnitGrid(4, ((28, 42),))
    expected = select_units([frames], grid, 1, "greedy", ratio=0.1)
    taken = []
    selector = unit_selector("greedy")
    select = type(selector).select

    def counting(self, clips, **options):
        taken.append(clips.num_clips)
        return select(self, clips, **options)

    monkeypatch.setattr(type(selector), "select", counting)
    monkeypatch.setattr(pipeline, "MAX_TILES", 2)
    found = select_units([frames], grid, 1, selector, ratio=0.1)
    assert max(taken) == 2
    taken.clear()
    monkeypatch.setattr(pipeline, "free_memory", lambda _: 2**40)
    assert select_units([frames], grid, 1, selector, ratio=0.1).gaze.ids.equal(found.gaze.ids)
    assert max(taken) == 6
    assert found.kept.ids.equal(expected.kept.ids)
    assert found.gaze.ids.equal(expected.gaze.ids)


def test_tiles_at_once_are_halved_where_memory_is_too_small(monkeypatch):
    frames, grid = noise(4, 28, 42), UnitGrid(4, ((28, 42),))
    expected = select_units(
        [frames], grid, 1, "random", ratio=0.1, generator=torch.Generator().manual_seed(1)
    )
    selector = unit_selector("random")
    select = type(selector).select

    def crowded(self, clips, **options):
        gaze = select(self, clips, **options)
        if clips.num_clips > 3:
            raise torch.OutOfMemoryError("out of memory")
        return gaze

    monkeypatch.setattr(type(selector), "select", crowded)
    found = select_units(
        [frames], grid, 1, selector, ratio=0.1, generator=torch.Generator().manual_seed(1)
    )
    assert found.gaze.ids.equal(expected.gaze.ids)


def test_no_memory_for_half_of_the_tiles_is_an_error(monkeypatch):
    selector = unit_selector("greedy")

    def full(self, clips, **options):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(type(selector), "select", full)
    with pytest.raises(MLLMError, match="ratio"):
        select_units([noise(4, 28, 42)], UnitGrid(4, ((28, 42),)), 1, selector, ratio=0.1)
