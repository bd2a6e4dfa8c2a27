"""Training clips; `VideoFolder` and the module `collate` are what AutoGaze's users import."""

from autogaze.datasets import collate
from autogaze.datasets.video_folder import VideoFolder

__all__ = ["VideoFolder", "collate"]
