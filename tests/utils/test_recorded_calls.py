"""Calls that are recorded, with a recorder that runs them again."""

import torch

from autogaze.utils.cuda_graphs import RecordedCalls, Recorder


def test_calls_are_recorded_the_second_time_and_their_tensors_are_the_callers():
    calls = RecordedCalls(Recorder())

    def function(numbers: torch.Tensor, state: torch.Tensor) -> list[torch.Tensor]:
        state += numbers
        return [state, 2 * state]

    results = []
    for step in range(4):
        state = torch.full((3,), float(step))
        [after, twice] = calls.call("a", function, [torch.ones(3), state])
        assert calls.recorder.num_recorded == int(step > 0)
        assert after.tolist() == [step + 1.0] * 3
        results.append(twice)
    assert [twice.tolist() for twice in results] == [[2.0 * step] * 3 for step in (1, 2, 3, 4)]


def test_calls_that_were_not_used_for_long_are_forgotten():
    calls = RecordedCalls(Recorder(), most=2)

    def double(numbers: torch.Tensor) -> list[torch.Tensor]:
        return [2 * numbers]

    for key, num_recorded in (("a", 0), ("a", 1), ("b", 1), ("a", 1), ("c", 1), ("b", 1), ("b", 2)):
        with torch.inference_mode():
            [found] = calls.call(key, double, [torch.ones(2)])
        assert found.tolist() == [2, 2]
        assert calls.recorder.num_recorded == num_recorded


def test_results_of_recorded_calls_can_be_written_in_every_mode():
    calls = RecordedCalls(Recorder())
    with torch.inference_mode():
        for _ in range(2):
            [found] = calls.call("a", lambda numbers: [numbers + 1], [torch.ones(2)])
    assert not found.is_inference()
    assert found.add_(1).tolist() == [3, 3]
