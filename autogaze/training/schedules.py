"""Learning rate and sampling temperature: functions of how far training is, nothing else."""

import math

from autogaze.training.options import TemperatureSchedule, TrainerOptions


def learning_rate(options: TrainerOptions, step: int, num_steps: int) -> float:
    """Learning rate of step `step` in [0, num_steps).

    linear:           lr + (min_lr - lr) * step / (num_steps - 1)
    linear_w_warmup:  lr * (step + 1) / warmup, then linear over what is left
    constant:         lr
    """
    if options.lr_schedule == "constant":
        return options.lr
    warmup = 0
    if options.lr_schedule == "linear_w_warmup":
        warmup = max(1, round(options.warmup_ratio * num_steps))
        if step < warmup:
            return options.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup - 1)
    return options.lr + (options.min_lr - options.lr) * min(1.0, done)


def temperature(schedule: TemperatureSchedule, step: int, num_steps: int) -> float:
    """Sampling temperature of a step.

    exponential:  start * (end / start) ^ done
    linear:       start + (end - start) * done
    constant:     start
    """
    done = min(1.0, step / max(1, num_steps - 1))
    if schedule.schedule == "constant":
        return schedule.start
    if schedule.schedule == "linear":
        return schedule.start + (schedule.end - schedule.start) * done
    return schedule.start * math.exp(done * math.log(schedule.end / schedule.start))
