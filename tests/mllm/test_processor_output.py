"""The clock of the stages of a preparation."""

from itertools import count

from autogaze.mllm import processor_output
from autogaze.mllm.processor_output import PrepareTimes, StageClock


def test_a_stage_within_another_pauses_it(monkeypatch):
    monkeypatch.setattr(processor_output, "perf_counter", count().__next__)
    clock = StageClock()
    with clock.stage("select"):  # a second passes at each end of a stage
        with clock.stage("decode"):
            pass
        with clock.stage("resize"), clock.stage("decode"):
            pass
    with clock.stage("cut"):
        pass
    assert clock.times == PrepareTimes(decode=2, resize=2, select=3, cut=1)
