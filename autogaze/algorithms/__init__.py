"""Training algorithms of selectors: pure functions from scored rollouts to one loss per row.

The known names `NTP`, `GRPO` and `Dummy` are the classes that training makes of them, imported
when they are first used.
"""

from typing import Any

__all__ = ["GRPO", "NTP", "Dummy"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autogaze.training import algorithms

    return getattr(algorithms, name)
