"""Kernels are tried before they are used, and what they cannot do is said."""

import pytest
import torch

from autogaze.utils.kernel_trials import failure_of


def test_what_is_wrong_with_results_is_handed_on():
    assert failure_of(lambda: "") == ""
    assert failure_of(lambda: "sums differ") == "sums differ"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("No module named 'triton'"), "autogaze[gpu]"),
        (RuntimeError("no kernel image"), "RuntimeError: no kernel image"),
    ],
)
def test_what_a_trial_raises_is_a_failure(error, said):
    def trial():
        raise error

    assert said in failure_of(trial)


def test_want_of_memory_says_nothing_of_kernels():
    def trial():
        raise torch.OutOfMemoryError("no memory left")

    with pytest.raises(torch.OutOfMemoryError):
        failure_of(trial)


def test_numbers_are_drawn_on_the_cpu_whatever_device_is_the_default():
    with torch.device("meta"):
        assert failure_of(lambda: torch.rand(1).device.type) == "cpu"
