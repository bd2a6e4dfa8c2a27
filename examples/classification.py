"""A task and a dataset of one's own: classes of videos, as in Kinetics, rewarded by clip.

    PYTHONPATH=examples python -m autogaze.train --config-dir examples/configs \
        --config-name video_folder_canvas_reconstruction_ar_gaze_grpo \
        task=classification dataset=class_folders dataset.root=/data/kinetics \
        trainer.train_task=true trainer.detach_task=false

`root` holds `train/<class>/*.mp4` and `val/<class>/*.mp4`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.datasets.clip import ClipKey, TrainingClip, UnreadableClip
from autogaze.datasets.video_windows import VideoWindows, Window
from autogaze.errors import TrainingError
from autogaze.tasks.base import Task, TaskOutput
from autogaze.utils.normalization import PixelStatistics


class ClassFolders(VideoWindows):
    """Videos below `root/<split>/<class>/`, each with `extra["label"]`, the number of its class.

    Classes are numbered in the order of their names in `root/train`.
    """

    def __init__(
        self, root: str, split: str, clip_len: int, side: int, seed: int, stride: int = 1
    ) -> None:
        random = split == "train"  # clips start anywhere
        super().__init__(
            [Path(root)], split, window=Window(clip_len, stride, random), side=side, seed=seed
        )
        self.classes = sorted(path.name for path in Path(root, "train").iterdir() if path.is_dir())

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        clip = super().__getitem__(key)
        if isinstance(clip, UnreadableClip):
            return clip
        label = self.clips[ClipKey.of(key).number].path.parent.name
        if label not in self.classes:
            raise TrainingError(f"{clip.name}: {label!r} is no class of the training clips")
        return replace(clip, extra={"label": self.classes.index(label)})


class Classification(Task):
    """Cross-entropy of a clip's class, from frozen features of its gazed patches.

    One loss and one reward per clip, at its last frame; the reward is the probability of the right
    class, which lies in [0, 1] however wrong the classifier is.

    Args:
        pyramid, recon_sample_rate: see `Task`; the latter has no meaning here.
        num_classes: of the dataset.
        encoder: a folder or hub id of a vision model with the patches of the gazes, 16 pixels, which
            stays as it is.
        mean, std: of pixels, as that model wants them.
    """

    metric = "cross-entropy"
    frozen = ("encoder",)

    def __init__(
        self,
        pyramid: PatchPyramid,
        recon_sample_rate: float = 1.0,
        *,
        num_classes: int,
        encoder: str = "google/vit-base-patch16-224",
        mean: float = 0.5,
        std: float = 0.5,
    ) -> None:
        super().__init__(pyramid, recon_sample_rate)
        self.statistics = PixelStatistics((mean,) * 3, (std,) * 3)
        model = AutoModel.from_pretrained(encoder)
        self.encoder = gazed(model, empty_frames="hold").eval().requires_grad_(False)
        self.classifier = nn.Linear(model.config.hidden_size, num_classes)

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        if not extra or "label" not in extra:
            raise TrainingError("classification needs clips with a label: dataset=class_folders")
        B, T = frames.shape[:2]
        with torch.no_grad():
            features = self.encoder(self.statistics.normalise(frames), gaze).last_hidden_state
        clip = gaze.frame_of_patch.to(features.device) // T
        pooled = features.new_zeros(B, features.shape[1]).index_add(0, clip, features)
        pooled = pooled / gaze.lengths.sum(1, keepdim=True).clamp(min=1).to(pooled)
        log_probs = self.classifier(pooled).log_softmax(-1)
        label = extra["label"]
        chance = log_probs.gather(1, label[:, None]).exp()  # (B, 1)
        right = (log_probs.argmax(-1) == label).float()[:, None]
        loss = F.nll_loss(log_probs, label, reduction="none")[:, None]
        return TaskOutput((T - 1,), loss, terms={"accuracy": right}, own_reward=chance)
