"""Training clips; `VideoFolder` and `collate` are the names that AutoGaze's users import."""

from autogaze.datasets.clip import collate
from autogaze.datasets.published import VideoFolder

__all__ = ["VideoFolder", "collate"]
