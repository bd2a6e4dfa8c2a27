"""Recordings, whole ones and those that fail, on a stand-in for PyTorch's CUDA graphs."""

from contextlib import contextmanager, nullcontext
from itertools import count
from threading import Thread
from time import sleep

import pytest
import torch

from autogaze.utils import cuda_graphs
from autogaze.utils.cuda_graphs import CudaGraphs


class PyTorch:
    """What is recorded by it.

    Attributes:
        ended: the pool that each recording was given which came to its end.
        streams: on which.
        gpu: the current one.
        at_once: the most recordings at a time.
    """

    def __init__(self) -> None:
        self.ended, self.streams = [], []
        self.gpu = self.going = self.at_once = 0
        numbers = count()

        class Graph:
            def __init__(self) -> None:
                self.own = f"pool {next(numbers)}"

            def pool(self):
                return self.own

            def replay(self):
                pass

        self.CUDAGraph = Graph

    @contextmanager
    def graph(self, graph, pool=None, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        self.going += 1
        self.at_once = max(self.at_once, self.going)
        try:
            yield
        finally:
            self.going -= 1
        graph.own = pool or graph.own
        self.ended.append(pool)
        self.streams.append(stream)

    @contextmanager
    def device(self, device):
        before, self.gpu = self.gpu, device.index or 0
        yield
        self.gpu = before


@pytest.fixture
def pytorch(monkeypatch):
    stands_in = PyTorch()
    for name in ("CUDAGraph", "graph", "device"):
        monkeypatch.setattr(torch.cuda, name, getattr(stands_in, name))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: stands_in.gpu)
    monkeypatch.setattr(torch.cuda, "Stream", lambda gpu: f"stream of {gpu}")
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    cuda_graphs._stream_of.cache_clear()
    yield stands_in
    cuda_graphs._stream_of.cache_clear()


def test_graphs_share_a_pool_while_one_of_them_lives(pytorch):
    graphs = CudaGraphs(torch.device("cpu"))
    replays = [graphs.run_and_record(lambda: None) for _ in range(3)]
    assert pytorch.ended == [None, "pool 0", "pool 0"]
    del replays[0]
    replays.append(graphs.run_and_record(lambda: None))
    assert pytorch.ended[3:] == ["pool 0"]
    replays.clear()
    replays.append(graphs.run_and_record(lambda: None))
    assert pytorch.ended[4:] == [None]  # its pool went with the last one


def test_graphs_of_streams_that_run_side_by_side_share_no_memory(pytorch, monkeypatch):
    graphs, replays = CudaGraphs(torch.device("cpu")), []
    for stream in (1, 2, 1, 2):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda stream=stream: stream)
        replays.append(graphs.run_and_record(lambda: None))
    assert pytorch.ended == [None, None, "pool 0", "pool 1"]


def test_every_gpu_records_on_a_stream_of_its_own(pytorch):
    """Kernels of one are not seen by a recording on a stream of another."""
    for gpu in (0, 1, 0):
        CudaGraphs(torch.device("cuda", gpu)).run_and_record(lambda: None)
    assert pytorch.streams == ["stream of 0", "stream of 1", "stream of 0"]


def test_threads_record_one_after_another(pytorch):
    def record():
        CudaGraphs(torch.device("cpu")).run_and_record(lambda: sleep(0.01))

    threads = [Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(pytorch.ended), pytorch.at_once) == (4, 1)


def test_one_that_fails_is_followed_by_one_that_ends(pytorch):
    """Else no random number can be drawn on the GPU."""
    graphs, runs = CudaGraphs(torch.device("cpu")), []

    def failing():
        runs.append(1)
        if len(runs) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.run_and_record(failing)
    assert pytorch.ended == [None]  # in no pool that others share
    graphs.run_and_record(lambda: None)
    assert pytorch.ended == [None, None]
