"""Compact prompts: what is dropped, where the rest stands, and how dense prompts are read."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import autogaze
from autogaze.errors import MLLMError
from autogaze.mllm.prompt import Placeholder, SequencePositions, VisualBlock, assemble, read_rows
from autogaze.mllm.units import KeptUnits, UnitGrid
from tests.mllm.tiny import FAMILIES, Video, skip_where_time_stands_still

TOKEN = 9


@st.composite
def visuals(draw):
    """Kept units of one to three videos, some tubelets of which keep nothing."""
    chosen = []
    for _ in range(draw(st.integers(1, 3))):
        grid = UnitGrid(
            draw(st.integers(1, 3)), ((draw(st.integers(1, 3)), draw(st.integers(1, 3))),)
        )
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        mask = torch.rand(grid.tubelets, grid.num_units, generator=generator) < 0.5
        mask[-1, -1] = True
        chosen.append(KeptUnits.from_mask(grid, mask))
    return chosen


@st.composite
def prompts(draw):
    """Rows of text and blocks: videos in order, each whole or tubelet by tubelet, in any row."""
    kept = draw(visuals())
    rows = [[] for _ in range(draw(st.integers(1, 2)))]
    at = 0
    for number, units in enumerate(kept):
        at = draw(st.integers(at, len(rows) - 1))
        edges = [0, units.grid.tubelets]
        if draw(st.booleans()):
            edges = list(range(units.grid.tubelets + 1))
        for first, end in itertools.pairwise(edges):
            rows[at].append(torch.tensor(draw(st.lists(st.integers(10, 20), max_size=3))).long())
            rows[at].append(VisualBlock(number, first, end, TOKEN))
    for row in rows:
        row.append(torch.tensor([7]))
    return rows, kept


def dense(kept):
    return [KeptUnits.everything(units.grid) for units in kept]


@given(prompts(), st.sampled_from(["left", "right"]))
def test_the_compact_prompt_is_the_dense_one_without_what_was_dropped(case, side):
    rows, kept = case
    rule = SequencePositions()
    whole = assemble(rows, dense(kept), rule, padding_side=side)
    part = assemble(rows, kept, rule, padding_side=side)
    assert part.dense_lengths == whole.dense_lengths == tuple(whole.attention_mask.sum(1).tolist())
    dropped = sum(units.dense_units - units.num_units for units in kept)
    assert int(whole.attention_mask.sum() - part.attention_mask.sum()) == dropped
    assert int(part.visual_mask.sum()) == sum(units.num_units for units in kept)
    for row in range(len(rows)):
        real = part.attention_mask[row].bool()
        index = part.dense_index[row, real]
        assert (index.diff() > 0).all()
        full = whole.attention_mask[row].bool()
        assert torch.equal(part.input_ids[row, real], whole.input_ids[row, full][index])
        assert torch.equal(part.position_ids[0, row, real], index)
        assert torch.equal(part.visual_mask[row, real], part.input_ids[row, real] == TOKEN)
        edge = real[-1] if side == "left" else real[0]
        assert edge
    values = torch.arange(whole.input_ids.numel()).view_as(whole.input_ids)
    gathered = part.gather(values, whole.attention_mask, fill=-1)
    assert torch.equal(gathered >= 0, part.attention_mask.bool())


@given(prompts())
def test_a_dense_prompt_is_read_as_it_was_written(case):
    rows, kept = case
    whole = assemble(rows, dense(kept), SequencePositions())
    placeholders = [Placeholder(TOKEN, "video")]
    read, order = read_rows(
        whole.input_ids, whole.attention_mask, placeholders, {"video": dense(kept)}
    )
    assert order == [("video", number) for number in range(len(kept))]
    again = assemble(read, kept, SequencePositions())
    expected = assemble(rows, kept, SequencePositions())
    assert torch.equal(again.input_ids, expected.input_ids)
    assert torch.equal(again.position_ids, expected.position_ids)


@functools.cache
def model_of(name):
    return FAMILIES[name].build()


videos = st.builds(
    Video, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), seconds=st.floats(0.1, 9)
)
pictures = st.builds(Video, st.just(1), st.integers(1, 4), st.integers(1, 4), image=st.just(True))
pieces = st.one_of(st.integers(3, 9), videos, pictures)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n.startswith("qwen")])
@settings(max_examples=25)
@given(rows=st.lists(st.lists(pieces, min_size=1, max_size=6), min_size=1, max_size=3))
def test_positions_are_those_that_the_model_computes(name, rows):
    skip_where_time_stands_still(name)
    model, family = model_of(name), FAMILIES[name]
    inputs = family.rows(rows)
    if not {"video_grid_thw", "image_grid_thw"} & inputs.keys():
        return
    prompt = autogaze.gazed_mllm(model).compact(**inputs).prompt
    names = ("input_ids", "attention_mask", "image_grid_thw", "video_grid_thw")
    names += ("second_per_grid_ts", "mm_token_type_ids")
    expected, _ = model.model.get_rope_index(**{n: inputs[n] for n in names if n in inputs})
    real = inputs["attention_mask"].bool()
    assert torch.equal(prompt.position_ids[:, real], expected[:, real])


def test_what_follows_the_placeholders_of_a_video_is_kept():
    grid = UnitGrid(2, ((1, 2),))
    kept = KeptUnits.from_lists(grid, [[1], []])
    ids = torch.tensor([[5, *[TOKEN] * 5, 6]])
    placeholders = [Placeholder(TOKEN, "video", trailing=1)]
    rows, _ = read_rows(ids, None, placeholders, {"video": [kept]})
    prompt = assemble(rows, [kept], SequencePositions())
    assert prompt.input_ids.tolist() == [[5, TOKEN, TOKEN, 6]]
    assert prompt.position_ids.tolist() == [[[0, 2, 5, 6]]]


@pytest.mark.parametrize(
    ("count", "value"),
    [(3, "do not count"), (5, "more than the 1"), (0, "0 whole"), (2, "0 whole")],
)
def test_placeholders_that_count_other_units_are_refused(count, value):
    kept = KeptUnits.everything(UnitGrid(2, ((1, 2),)))
    ids = torch.tensor([[5, *[TOKEN] * count, 6]])
    with pytest.raises(MLLMError, match=value):
        read_rows(ids, None, [Placeholder(TOKEN, "video")], {"video": [kept]})


def test_an_empty_row_is_refused():
    with pytest.raises(MLLMError, match="empty"):
        assemble([[]], [], SequencePositions())
