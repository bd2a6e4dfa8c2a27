"""The learned selector: AutoGaze behind the protocol that all selectors share."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.clips import Clips, Ratio, as_clips, frame_cap
from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.grid_adaptation import GridAdaptation
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import normalise
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.streaming import ClipStream, Generation
from autogaze.selectors.base import SelectionStream, Selector


class Learned(Selector):
    """Gazes with an `AutoGaze` model.

    `loss` is the *predicted* reconstruction loss, in units of the metric that the
    weights were trained with; the published weights are optimistic (losses measured
    at a threshold of 0.7 were 0.81 to 0.94). With `ratio` alone every frame takes
    exactly that share; with neither, the config's own threshold stops.

    Args:
        model: the weights; its device and dtype decide where and how gazing runs.
        temperature: 0 takes the likeliest patches, else they are sampled.
        pyramid: the patches to choose, for an encoder with another grid (as many scales
            as the model has); None: the model's own. Frames then have that pyramid's
            side, and are gazed at tile by tile (see `models.autogaze.grid_adaptation`).

    Raises:
        GeometryError: a pyramid with another number of scales.
    """

    name = "learned"
    metric = "predicted"

    def __init__(
        self, model: AutoGaze, temperature: float = 0.0, pyramid: PatchPyramid | None = None
    ) -> None:
        if temperature < 0:
            raise SelectorError(f"temperature must be at least 0, got {temperature}")
        self.model = model.eval()
        self.pyramid = model.pyramid if pyramid is None else pyramid
        self.adaptation = (
            None if self.pyramid == model.pyramid else GridAdaptation(model.pyramid, self.pyramid)
        )
        self.temperature = temperature
        fixed = model.config.task_loss_requirement_config["fixed"]
        self.default_loss = float(fixed["task_loss_requirement"])

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        temperature: float = 0.0,
        pyramid: PatchPyramid | None = None,
        **kwargs: Any,
    ) -> "Learned":
        """Load weights as `AutoGaze.from_pretrained` does."""
        return cls(AutoGaze.from_pretrained(folder_or_hub_id, **kwargs), temperature, pyramid)

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
            self.preprocess(clips),
            caps=[self.cap(ratio, frame) for frame in range(clips.num_frames)],
            threshold=loss,
            sampling=Sampling(self.temperature, generator),
        )
        return self.to_gaze(generation)

    def preprocess(self, clips: Clips) -> Float[Tensor, "rows T 3 s s"]:
        """The model's input: the clips normalised, or their tiles."""
        video = normalise(clips.unit().to(self.model.device)).to(self.model.dtype)
        return video if self.adaptation is None else self.adaptation.cut(video)

    def to_gaze(self, generation: Generation) -> Gaze:
        """The model's gazes in patches of `pyramid`."""
        gaze = generation.to_gaze()
        return gaze if self.adaptation is None else self.adaptation.stitch(gaze)

    def cap(self, ratio: Ratio | None, frame: int) -> int:
        """The model's cap on a frame, or on each of its tiles so that they keep the frame's."""
        if self.adaptation is None or ratio is None:
            return frame_cap(ratio, frame, self.model.pyramid.num_patches)
        whole = frame_cap(ratio, frame, self.pyramid.num_patches)
        return max(1, whole // self.adaptation.tiles**2)


class LearnedStream(SelectionStream["Learned"]):
    """A `ClipStream`, made when the first frame comes."""

    def __init__(
        self,
        selector: Learned,
        ratio: Ratio | None,
        loss: float | None,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(selector, ratio)
        self.loss = loss
        self.sampling = Sampling(selector.temperature, generator)
        self.clip_stream: ClipStream | None = None

    def step(self, frame: Clips | Tensor) -> Gaze:
        clips = self.admit(frame)
        model = self.selector.model
        if self.clip_stream is None:
            adaptation = self.selector.adaptation
            tiles = 1 if adaptation is None else adaptation.tiles**2
            rows = clips.num_clips * tiles
            self.clip_stream = model.stream(rows, num_frames=model.config.max_num_frames)
        generation = model.generate(
            self.selector.preprocess(clips),
            caps=[self.selector.cap(self.ratio, self.num_frames - 1)],
            threshold=self.loss,
            sampling=self.sampling,
            stream=self.clip_stream,
        )
        return self.selector.to_gaze(generation)
