"""Time and memory are charged to the stage that is running."""

import pytest
import torch

from autogaze.evaluation.timing import (
    MemoryGauge,
    PeakMeter,
    Stage,
    StageTimer,
    Timing,
    matrix_rate,
    memory_gauge,
)


def test_a_stopwatch_adds_up_a_stage_that_comes_again(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 5.5])
    monkeypatch.setattr("autogaze.evaluation.timing.time.perf_counter", lambda: next(now))
    watch = StageTimer()
    watch.enter(Stage.EMBED)
    watch.enter(Stage.ENCODE)
    watch.enter(Stage.EMBED)
    watch.enter(None)
    assert watch.seconds[Stage.EMBED] == 2.5
    assert watch.seconds[Stage.ENCODE] == 3.0
    assert sum(watch.seconds.values()) == 5.5
    assert watch.seconds[Stage.SELECT] == 0


def scripted(*peaks: int) -> MemoryGauge:
    """100 bytes in use, then given peaks."""
    left = iter(peaks)
    return MemoryGauge("by script", lambda: 100, lambda: next(left))


def test_a_peak_counts_from_where_the_pass_began_and_the_highest_of_a_stage_stays():
    meter = PeakMeter(scripted(130, 150, 120))
    for stage in (Stage.EMBED, Stage.ENCODE, Stage.EMBED):
        meter.enter(stage)
    meter.enter(None)
    assert meter.peaks[Stage.EMBED] == 30
    assert meter.peaks[Stage.ENCODE] == 50
    assert meter.peaks[Stage.DECODE] == 0


def test_what_cannot_be_measured_is_unknown_not_zero():
    meter = PeakMeter(MemoryGauge())
    meter.enter(Stage.ENCODE)
    meter.enter(None)
    assert meter.peaks[Stage.ENCODE] is None


def test_a_large_tensor_shows_in_the_process_although_it_is_gone_again():
    gauge = memory_gauge(torch.device("cpu"))
    if gauge.peak() is None:
        pytest.skip("no way to measure memory here")
    meter = PeakMeter(gauge)
    meter.enter(Stage.SELECT)
    torch.ones(16 << 20)  # 64 MiB
    meter.enter(Stage.ENCODE)
    meter.enter(None)
    assert meter.peaks[Stage.SELECT] >= 60 << 20
    assert meter.peaks[Stage.ENCODE] < 30 << 20


def test_the_rate_of_a_product_is_its_arithmetic_over_its_time(monkeypatch):
    monkeypatch.setattr("autogaze.evaluation.timing.timed", run_once)
    assert matrix_rate(torch.device("cpu"), torch.float32, size=8) == 2 * 8**3 / 0.5


def run_once(run, **_):
    assert run().shape == (8, 8)
    return Timing(0.5, 0.5, 0.5)
