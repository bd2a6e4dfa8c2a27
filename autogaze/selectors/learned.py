"""The learned selector: AutoGaze behind the protocol that all selectors share."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.models.autogaze.generation import ClipStream
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.picking import Picking
from autogaze.models.autogaze.processing import normalise
from autogaze.selectors.base import Clips, Ratio, Selector, as_clips, frame_caps
from autogaze.selectors.frame_stream import FrameStream


class Learned(Selector):
    """Gazes with an `AutoGaze` model.

    `loss` is the *predicted* reconstruction loss, in units of the judge that the
    weights were trained with; the published weights are optimistic (losses measured
    at a threshold of 0.7 were 0.81 to 0.94). With `ratio` alone every frame takes
    exactly that share; with neither, the config's own threshold stops.

    Args:
        model: the weights; its device and dtype decide where and how gazing runs.
        temperature: 0 takes the likeliest patches, else they are sampled.
    """

    name = "learned"
    judge = "predicted"

    def __init__(self, model: AutoGaze, temperature: float = 0.0) -> None:
        if temperature < 0:
            raise SelectorError(f"temperature must be at least 0, got {temperature}")
        self.model = model.eval()
        self.pyramid = model.pyramid
        self.temperature = temperature
        fixed = model.config.task_loss_requirement_config["fixed"]
        self.default_loss = float(fixed["task_loss_requirement"])

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, *, temperature: float = 0.0, **kwargs: Any
    ) -> "Learned":
        """Load weights as `AutoGaze.from_pretrained` does."""
        return cls(AutoGaze.from_pretrained(folder_or_hub_id, **kwargs), temperature)

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> "LearnedStream":
        return LearnedStream(self, ratio, loss, generator)

    def select(
        self,
        clips: Clips | Tensor,
        *,
        ratio: Ratio | None = None,
        loss: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Gaze:
        clips = as_clips(clips)
        self.check(clips)
        ratio, loss = self.settings(ratio, loss)
        generation = self.model.generate(
            self._normalised(clips),
            caps=frame_caps(ratio, clips.num_frames, self.pyramid.num_patches),
            threshold=loss,
            picking=Picking(self.temperature, generator),
        )
        return generation.to_gaze()

    def _normalised(self, clips: Clips) -> Tensor:
        return normalise(clips.unit().to(self.model.device)).to(self.model.dtype)


class LearnedStream(FrameStream["Learned"]):
    """A `ClipStream` that is started by the first frame."""

    def __init__(
        self,
        selector: Learned,
        ratio: Ratio | None,
        loss: float | None,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(selector, ratio)
        self.loss = loss
        self.picking = Picking(selector.temperature, generator)
        self.inner: ClipStream | None = None

    def step(self, frame: Clips | Tensor) -> Gaze:
        clips = self.admit(frame)
        model = self.selector.model
        if self.inner is None:
            self.inner = model.stream(clips.num_clips, num_frames=model.config.max_num_frames)
        generation = model.generate(
            self.selector._normalised(clips),
            caps=[self.cap(self.num_frames - 1)],
            threshold=self.loss,
            picking=self.picking,
            stream=self.inner,
        )
        return generation.to_gaze()

    def finish(self) -> None:
        self.finished = True
