"""How a run is spread over workers and shards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogaze.corpus.cluster import Resources
from autogaze.corpus.run import MAX_BYTES, MAX_INPUTS, Workers, plan_shards, spread
from autogaze.corpus.storage import Input
from autogaze.corpus.worker import ShardResult, ShardTask
from autogaze.errors import CorpusError
from tests.corpus.collection import CENTRE


@pytest.mark.parametrize(
    ("workers", "resources", "expected"),
    [
        (Workers(), Resources(8, 0), (8, "cpu", 0.0)),
        (Workers(count=3), Resources(8, 0), (3, "cpu", 0.0)),
        (Workers(count=9), Resources(8, 0), (8, "cpu", 0.0)),
        (Workers(), Resources(64, 2), (16, "cuda", 1 / 8)),
        (Workers(), Resources(6, 4), (6, "cuda", 1 / 2)),
        (Workers(count=2), Resources(64, 2), (2, "cuda", 1.0)),
        (Workers(device="cpu"), Resources(64, 2), (64, "cpu", 0.0)),
        (Workers(device="cuda"), Resources(1, 1), (1, "cuda", 1.0)),
    ],
)
def test_spread(workers: Workers, resources: Resources, expected: tuple[int, str, float]):
    assert spread(workers, resources) == expected


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_or_not_ours_to_choose(device: str):
    with pytest.raises(CorpusError):
        spread(Workers(device=device), Resources(8, 0 if device == "cuda" else 2))


sizes = st.lists(st.integers(-1, 2 * MAX_BYTES), min_size=1, max_size=100)


@given(sizes, st.integers(1, 9), st.none() | st.integers(1, 50))
def test_every_input_is_in_one_shard(sizes: list[int], workers: int, size: int | None):
    inputs = [Input(f"/{number}.mp4", size) for number, size in enumerate(sizes)]
    tasks = plan_shards(inputs, CENTRE, workers, size)
    assert [each for task in tasks for each in task.inputs] == inputs
    assert len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        assert 1 <= len(task.inputs) <= (size or MAX_INPUTS)
        whole = sum(max(0, each.size) for each in task.inputs)
        assert whole <= MAX_BYTES or len(task.inputs) == 1
    assert plan_shards(inputs, CENTRE, workers, size) == tasks


def test_all_workers_have_something_to_do_until_the_end():
    inputs = [Input(f"/{number}.mp4", 1) for number in range(100)]
    assert len(plan_shards(inputs, CENTRE, 4, None)) >= 25


def test_tasks_and_results_survive_the_way():
    task = ShardTask("ab", [Input("/a.mp4", 3, 0.1, "tag", 512), Input("/b.mp4", -1)])
    assert ShardTask.from_row(task.to_row()) == task
    result = ShardResult("ab", "ab.parquet", [], 1.5, 2.5)
    assert ShardResult.from_row(result.to_row()) == result
