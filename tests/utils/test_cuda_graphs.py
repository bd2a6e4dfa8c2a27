"""Recordings that fail, on a stand-in for PyTorch's CUDA graphs."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from autogaze.utils.cuda_graphs import CudaGraphs


class Graph:
    def pool(self):
        return "pool"

    def replay(self):
        pass


@pytest.fixture
def recorded(monkeypatch):
    """The pools of graphs that were recorded to their end."""
    ended = []

    @contextmanager
    def graph(graph, pool=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        yield
        ended.append(pool)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    return ended


def test_graphs_share_a_pool(recorded):
    graphs = CudaGraphs(torch.device("cpu"))
    for _ in range(3):
        graphs.run_and_record(lambda: None)
    assert recorded == [None, "pool", "pool"]


def test_one_that_fails_is_followed_by_one_that_ends(recorded):
    """Else no random number can be drawn on the GPU."""
    graphs, runs = CudaGraphs(torch.device("cpu")), []

    def failing():
        runs.append(1)
        if len(runs) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.run_and_record(failing)
    assert recorded == [None]  # in no pool that others share
    graphs.run_and_record(lambda: None)
    assert recorded == [None, None]
