"""`VisualizeReconstruction` of the published interface: a picture of gazes and reconstructions.

Trainings of the package's own draw theirs by `autogaze.tasks.pictures`.
"""

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.tasks.base import TaskOutput
from autogaze.tasks.pictures import task_picture
from autogaze.utils.published import UnNormalize, has_wandb_run, log_to_wandb


class VisualizeReconstruction:
    """Draws the first clip of a batch, and logs the picture where a run of wandb is active.

    Attributes:
        visualize_step: number of pictures drawn, logged beside each.
    """

    def __init__(self, **_: Any) -> None:
        self.visualize_step = 0

    def __call__(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        task_outputs: Mapping[str, Any],
        rl_outputs: Mapping[str, Any] | None = None,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """One column per reconstructed frame: the frame, its gaze and its reconstruction.

        Args:
            inputs, gaze_outputs: what `VideoMAEReconstruction` was called with.
            task_outputs: what it returned.
            rl_outputs: not used.
        """
        found = task_outputs["outputs"]
        scales = tuple(int(scale) for scale in found["scales"])
        cells = math.isqrt(gaze_outputs["gazing_mask"][0].shape[-1])
        pyramid = PatchPyramid(scales, scales[0] // cells)
        gaze = Gaze.from_padded(dict(gaze_outputs), pyramid)
        to_rgb = UnNormalize(found["image_mean"], found["image_std"], found["rescale_factor"])
        frames = tuple(int(frame) for frame in found["frame_idx_to_reconstruct"])
        losses = found["reconstruction_loss_each_reconstruction_frame"]
        output = TaskOutput(frames, losses, to_rgb(found["reconstruction"].detach().float()), {})
        video = to_rgb(inputs["video_for_task"].float())
        picture = task_picture(video, gaze, output, max_clips=1, max_frames=len(frames))
        if has_wandb_run():
            shown = import_module("wandb").Image(Image.fromarray(picture))
            log_to_wandb(
                {
                    "visualize_gaze/visualize_step": self.visualize_step,
                    "visualize_gaze/visualize_gaze": shown,
                }
            )
        self.visualize_step += 1
        return picture
