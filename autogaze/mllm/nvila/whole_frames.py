"""The control `uniform` of NVILA: whole frames, whatever they show."""

from dataclasses import dataclass
from typing import Any

import torch

from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.mllm.checks import check_tokens
from autogaze.mllm.nvila.video_settings import VideoSettings
from autogaze.mllm.ranking import check_unit_ratio
from autogaze.mllm.units import evenly


@dataclass(frozen=True)
class WholeFrames:
    """All tiles of frames at even distances, as many as a budget pays for; no pixel is looked at.

    Args:
        ratio: of the frames, in (0, 1]; at least one frame is kept.
        max_tokens: of tiles and of thumbnails, which are kept whole.

    Raises:
        MLLMError: not exactly one of them, or one out of range.
    """

    ratio: Any = None  # these two come from users: what they are is checked, not declared
    max_tokens: Any = None

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.max_tokens is None):
            raise MLLMError("uniform: needs either a ratio or a number of tokens")
        if self.ratio is not None:
            check_unit_ratio(self.ratio, "uniform: ratio")
        check_tokens(self.max_tokens, "uniform: max_vision_tokens")

    def gaze(self, settings: VideoSettings, num_tiles: int, num_frames: int) -> Gaze:
        """The gaze at so many tiles of so many frames.

        Raises:
            MLLMError: too few tokens for one frame.
        """
        patches = settings.pyramid.num_patches
        each = -(-num_tiles * patches // settings.shuffle)
        thumbnails = min(settings.num_video_frames_thumbnail, num_frames)
        spent = thumbnails * -(-patches // settings.shuffle)
        seen = evenly(num_frames, each, self.ratio, self.max_tokens, spent)
        lengths = torch.zeros(num_tiles, num_frames, dtype=torch.long)
        lengths[:, seen] = patches
        ids = torch.arange(patches).repeat(num_tiles * len(seen))
        return Gaze(settings.pyramid, ids, lengths, ordered=False)
