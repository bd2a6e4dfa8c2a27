"""Renderings of a gaze: overlay video, scales side by side, contact sheet, canvas reconstruction, budget plot.

Each is a `Rendering`, a context manager that is fed chunk by chunk, uses constant memory, and
writes its file atomically. Names are imported when they are first used, since plots need no PyAV.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.rendering.base import Rendering
    from autogaze.rendering.overlay import (
        OverlayVideo,
        ReconstructionVideo,
        ScalesVideo,
        SourceVideo,
    )
    from autogaze.rendering.plot import BudgetPlot
    from autogaze.rendering.sheet import ContactSheet

_MODULES = {
    "BudgetPlot": "plot",
    "ContactSheet": "sheet",
    "OverlayVideo": "overlay",
    "ReconstructionVideo": "overlay",
    "Rendering": "base",
    "ScalesVideo": "overlay",
    "SourceVideo": "overlay",
}

__all__ = [
    "BudgetPlot",
    "ContactSheet",
    "OverlayVideo",
    "ReconstructionVideo",
    "Rendering",
    "ScalesVideo",
    "SourceVideo",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'autogaze.rendering' has no attribute {name!r}")
    return getattr(importlib.import_module(f"autogaze.rendering.{_MODULES[name]}"), name)
