"""Schedules follow from the step alone."""

import pytest

from autogaze.training.config import TemperatureSchedule, TrainerOptions


def rates(schedule, steps=11, **options):
    given = TrainerOptions(lr=1.0, min_lr=0.2, lr_schedule=schedule, **options)
    return [given.learning_rate(step, steps) for step in range(steps)]


def test_linear_goes_from_lr_to_min_lr():
    values = rates("linear")
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.2)
    assert values[5] == pytest.approx(0.6)


def test_warmup_rises_to_lr_first():
    values = rates("linear_w_warmup", steps=20, warmup_ratio=0.2)
    assert values[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert values[4] == 1.0
    assert values[-1] == pytest.approx(0.2)
    assert values[4:] == sorted(values[4:], reverse=True)


def test_constant_stays():
    assert set(rates("constant")) == {1.0}


@pytest.mark.parametrize(
    ("schedule", "middle"), [("exponential", (3.0 * 0.3) ** 0.5), ("linear", 1.65)]
)
def test_temperature_goes_from_start_to_end(schedule, middle):
    given = TemperatureSchedule(schedule, 3.0, 0.3)
    assert given.at(0, 11) == pytest.approx(3.0)
    assert given.at(5, 11) == pytest.approx(middle)
    assert given.at(10, 11) == pytest.approx(0.3)


def test_constant_temperature_is_the_start():
    assert TemperatureSchedule("constant", 2.0).at(9, 10) == 2.0


def test_one_step_needs_no_schedule():
    assert rates("linear", steps=1) == [1.0]
    assert TemperatureSchedule().at(0, 1) == 3.0
