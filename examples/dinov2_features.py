"""A task of one's own: DINOv2's dense features, predicted from those of the gazed patches.

PYTHONPATH=examples python -m autogaze.train --config-dir examples/configs \
        --config-name video_folder_canvas_reconstruction_ar_gaze_grpo task=dinov2_features \
        trainer.train_task=true trainer.detach_task=false dataset.root=/data/videos
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.tasks.base import Task, TaskOutput
from autogaze.tasks.siglip_video_feature_reconstruction import FeatureDecoder
from autogaze.utils.normalization import IMAGENET


class Dinov2Features(Task):
    """Loss of a frame: mean squared error of its dense DINOv2 features, predicted by a decoder.

    DINOv2 has patches of 14 pixels, gazes have some of 16. Frames are resized so that both cut them
    into the same cells: then patch ids mean the same, and a gaze can be shown to DINOv2 as it is.

    Args:
        pyramid, recon_sample_rate: see `Task`.
        encoder: a folder or hub id of DINOv2, which stays as it is.
        decoder: options of `FeatureDecoder`, the trained part.
    """

    metric = "DINOv2 features"
    frozen = ("encoder",)

    def __init__(
        self,
        pyramid: PatchPyramid,
        recon_sample_rate: float = 0.125,
        *,
        encoder: str = "facebook/dinov2-base",
        decoder: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(pyramid, recon_sample_rate)
        model = AutoModel.from_pretrained(encoder)
        patch = model.config.patch_size
        self.seen = PatchPyramid(tuple(grid * patch for grid in pyramid.grids), patch)
        self.encoder = gazed(model, empty_frames="hold").eval().requires_grad_(False)
        self.decoder = FeatureDecoder(self.seen, model.config.hidden_size, **(decoder or {}))

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        B, T = frames.shape[:2]
        side = self.seen.side
        small = F.interpolate(frames.flatten(0, 1), (side, side), mode="bilinear", antialias=True)
        pixels = IMAGENET.normalise(small.unflatten(0, (B, T)))
        same_cells = Gaze(self.seen, gaze.ids, gaze.lengths)
        order = sorted(scored)
        with torch.no_grad():
            wanted = self.dense(pixels[:, order])
            known = self.encoder(pixels, same_cells).last_hidden_state
        made = self.decoder(known, same_cells, order)
        return TaskOutput(tuple(order), (made - wanted).square().mean((2, 3)))

    def dense(self, pixels: Float[Tensor, "B F 3 S S"]) -> Float[Tensor, "B F cells C"]:
        """Features of whole frames, each of mean 0 and variance 1; predicting zeros costs 1."""
        features = self.encoder.model(pixels.flatten(0, 1)).last_hidden_state
        features = features[:, -self.seen.cells[-1] :]  # class and register tokens come first
        return F.layer_norm(features, features.shape[-1:]).unflatten(0, pixels.shape[:2])
