"""AutoGaze: choose the few multi-scale patches that carry a video's information.

    import autogaze
    gaze = autogaze.gaze_video("video.mp4", ratio=0.1)

Names are imported when they are first used, so that `import autogaze` stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from autogaze.clips import Clips
    from autogaze.errors import AutoGazeError
    from autogaze.gaze import Gaze
    from autogaze.gaze_io import GazeWriter
    from autogaze.geometry import PatchPyramid
    from autogaze.mllm import GazedProcessor, gazed_mllm, list_mllms, register_mllm
    from autogaze.selectors.base import Selector
    from autogaze.selectors.registry import gaze_video, list_selectors, load, stream_video
    from autogaze.source import Source, TileGrid
    from autogaze.vision_encoders import list_encoders, register_encoder
    from autogaze.vision_encoders.gazed import GazedVisionModel, gazed

_HOMES = {
    "AutoGazeError": "errors",
    "Clips": "clips",
    "Gaze": "gaze",
    "GazeWriter": "gaze_io",
    "GazedProcessor": "mllm",
    "GazedVisionModel": "vision_encoders",
    "PatchPyramid": "geometry",
    "Selector": "selectors.base",
    "Source": "source",
    "TileGrid": "source",
    "gaze_video": "selectors.registry",
    "gazed": "vision_encoders",
    "gazed_mllm": "mllm",
    "list_encoders": "vision_encoders",
    "list_mllms": "mllm",
    "list_selectors": "selectors.registry",
    "load": "selectors.registry",
    "register_encoder": "vision_encoders",
    "register_mllm": "mllm",
    "stream_video": "selectors.registry",
}

__all__ = [
    "AutoGazeError",
    "Clips",
    "Gaze",
    "GazeWriter",
    "GazedProcessor",
    "GazedVisionModel",
    "PatchPyramid",
    "Selector",
    "Source",
    "TileGrid",
    "__version__",
    "gaze_video",
    "gazed",
    "gazed_mllm",
    "list_encoders",
    "list_mllms",
    "list_selectors",
    "load",
    "register_encoder",
    "register_mllm",
    "stream_video",
]


def __getattr__(name: str) -> Any:
    if name == "corpus":  # a room of its own, with names of its own
        return importlib.import_module("autogaze.corpus")
    if name not in _HOMES:
        raise AttributeError(f"module 'autogaze' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"autogaze.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
