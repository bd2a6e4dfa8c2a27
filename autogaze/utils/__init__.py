"""Utilities of all rooms: files, checkpoints, devices, kernels, seeding, pixel statistics, progress.

The names that AutoGaze's users import from here lie in `utils.published` and are imported when they
are first used: commands that need no PyTorch load none.
"""

from typing import Any

__all__ = [
    "AverageScalarMeter",
    "UnNormalize",
    "dump_cfg",
    "format_kwargs",
    "get_gazing_pos_from_gazing_mask",
    "get_scheduled_temperature",
    "move_inputs_to_cuda",
    "plot_grad_norms",
    "seed_everything",
    "seed_worker",
    "suppress_logging",
    "suppress_print",
    "suppress_wandb",
    "unwrap_model",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autogaze.utils import published

    return getattr(published, name)
