"""Which judges are asked, and where their weights are."""

from dataclasses import dataclass
from pathlib import Path

import torch

from autogaze.benchmarks.quality.feature_judge import EfficientNetFeatures, FeatureJudge
from autogaze.benchmarks.quality.judges import (
    EFFICIENTNET,
    VIDEO_MAE,
    CanvasJudge,
    Judge,
    TaskJudge,
)
from autogaze.errors import CheckpointError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.efficientnet_weights import load_efficientnet, weights_file
from autogaze.registry import LEARNED
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction

VARIANT = "lite1"


@dataclass(frozen=True)
class JudgeOptions:
    """Which judges are asked; the canvas always is.

    Attributes:
        video_mae: checkpoint of a VideoMAE ("learned", a folder, file or hub id), if it is
            asked.
        efficientnet: whether EfficientNet-Lite1 is asked.
    """

    video_mae: str | None = None
    efficientnet: bool = True

    def check(self) -> None:
        """Raise, before anything slow, for a judge that cannot be there.

        Raises:
            CheckpointError: no such folder or hub id.
            MissingExtraError: no weights of EfficientNet-Lite1, or of what the judge
                "learned" looks at features with.
        """
        if self.efficientnet:
            weights_file(VARIANT)
        place = self.video_mae
        if place == LEARNED:
            weights_file("lite0")
        if place is None or place == LEARNED or Path(place).exists():
            return
        owner, _, name = place.partition("/")
        if not (owner and name) or "/" in name or owner[0] in ".~":
            raise CheckpointError(f"--judge {place}: no such VideoMAE checkpoint")

    def load(self, pyramid: PatchPyramid, device: torch.device) -> list[Judge]:
        """The judges of gazes of a pyramid, on a device.

        Raises:
            CheckpointError: weights that cannot be loaded, or a VideoMAE of other scales.
        """
        judges: list[Judge] = [CanvasJudge()]
        if self.video_mae is not None:
            task = VideoMAEReconstruction.from_checkpoint(self.video_mae)
            if task.pyramid != pyramid:
                raise CheckpointError(
                    f"--judge {self.video_mae}: judges gazes of {task.pyramid}, but the selectors "
                    f"choose from {pyramid}"
                )
            recipe = task.losses.recipe
            unit = (
                f"{recipe['loss_type']}, weighted {recipe['loss_weights']}, of its reconstruction"
            )
            judges.append(TaskJudge(task.to(device), VIDEO_MAE, unit))
        if self.efficientnet:
            network = EfficientNetFeatures(load_efficientnet(VARIANT)).to(device)
            judges.append(FeatureJudge(network, EFFICIENTNET))
        return judges
