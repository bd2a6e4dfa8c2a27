"""Plug-in of lmms-eval: the model `autogaze`, and the task HLVid in the folder `TASKS`.

lmms-eval asks for another PyAV than this package, so it is installed without its dependencies
(docs/evaluation.md). It finds the model by the entry point `lmms_eval.models`.
"""

from pathlib import Path
from typing import Any

TASKS = Path(__file__).parent / "tasks"
"""For lmms-eval's `--include_path`."""


def manifests() -> list[Any]:
    """What lmms-eval registers."""
    from lmms_eval.models.registry_v2 import ModelManifest

    path = "autogaze.evaluation.lmms.model.AutoGazeModel"
    return [ModelManifest(model_id="autogaze", chat_class_path=path)]
