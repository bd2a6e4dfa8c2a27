"""Seeing a gaze: overlay video, contact sheet, canvas reconstruction, budget plot.

Each is a `Rendering`: a context manager that takes one chunk after the other, keeps a bounded
amount of it, and puts its file in place only when all went well.

Names are imported when they are first used: colours and letters need no video decoder.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.rendering.base import Rendering
    from autogaze.rendering.overlay import OverlayVideo, ReconstructionVideo
    from autogaze.rendering.plot import BudgetPlot
    from autogaze.rendering.sheet import ContactSheet

_MODULES = {
    "BudgetPlot": "plot",
    "ContactSheet": "sheet",
    "OverlayVideo": "overlay",
    "ReconstructionVideo": "overlay",
    "Rendering": "base",
}

__all__ = ["BudgetPlot", "ContactSheet", "OverlayVideo", "ReconstructionVideo", "Rendering"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'autogaze.rendering' has no attribute {name!r}")
    return getattr(importlib.import_module(f"autogaze.rendering.{_MODULES[name]}"), name)
