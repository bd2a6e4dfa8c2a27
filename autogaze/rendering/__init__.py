"""Seeing a gaze: overlay video, contact sheet, canvas reconstruction, budget plot.

Each is a `Rendering`: a context manager that is shown one chunk after the other,
holds a bounded amount of it, and puts its file in place only when all went well.
"""

from autogaze.rendering.base import Rendering
from autogaze.rendering.overlay import OverlayVideo
from autogaze.rendering.plot import BudgetPlot
from autogaze.rendering.reconstruction import ReconstructionVideo
from autogaze.rendering.sheet import ContactSheet

__all__ = ["BudgetPlot", "ContactSheet", "OverlayVideo", "ReconstructionVideo", "Rendering"]
