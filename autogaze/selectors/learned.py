"""Learned: patches chosen by an AutoGaze model."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.checks import describe_value, is_finite
from autogaze.clips import Clips, ClipsLike, Ratio, as_clips, check_generator, frame_cap
from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.gaze_model import normalise, normalised_at_once
from autogaze.models.autogaze.gazing import Gazing, PlainAutoGaze
from autogaze.models.autogaze.grid_adaptation import GridAdaptation
from autogaze.models.autogaze.limits import usual_threshold
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.streaming import ClipStream
from autogaze.selectors.base import SelectionStream, Selector, pyramid_or_default
from autogaze.utils.device import DeviceOptions
from autogaze.utils.hub import WEIGHTS

if TYPE_CHECKING:
    from autogaze.models.autogaze.modeling import AutoGaze

ADAPTER = "adapter_config.json"
"""In the folders of PEFT's adapters, which transformers loads with the weights."""


class Learned(Selector):
    """Selector with an `AutoGaze` model.

    `loss` is the *predicted* reconstruction loss, in units of the metric that the weights were
    trained with; the published weights underestimate it (losses measured at a threshold of 0.7
    were 0.81 to 0.94). With `ratio` alone every frame takes exactly that share; with neither, the
    config's threshold stops.

    Args:
        model: the weights; their device and dtype decide where and how gazing runs.
        temperature: of sampling; 0 takes the likeliest patches.
        pyramid: patches of an encoder with another grid and as many scales; None: the model's.
            Frames then have that pyramid's side, and are gazed at tile by tile (see
            `models.autogaze.grid_adaptation`).

    Raises:
        GeometryError: a pyramid with another number of scales.
    """

    name = "learned"
    metric = "predicted"
    # A clip of 16 frames takes 50 MiB of activations; of four at once each takes as long as of two.
    cpu_batch = 2

    def __init__(
        self, model: Gazing, temperature: float = 0.0, pyramid: PatchPyramid | None = None
    ) -> None:
        if not (is_finite(temperature) and temperature >= 0):
            raise SelectorError(
                f"temperature must be at least 0, got {describe_value(temperature)}"
            )
        if not (isinstance(model, Gazing) and isinstance(model, nn.Module)):
            raise SelectorError(f"expected an AutoGaze model, got {describe_value(model)}")
        self._model: Any = model.eval()
        self.pyramid = model.pyramid if pyramid is None else pyramid_or_default(pyramid)
        self.adaptation = (
            None if self.pyramid == model.pyramid else GridAdaptation(model.pyramid, self.pyramid)
        )
        self.temperature = temperature
        self.default_loss = usual_threshold(model.config)

    @property
    def model(self) -> "AutoGaze":
        """The model, which transformers is imported for when it is first asked for."""
        if isinstance(self._model, PlainAutoGaze):
            from autogaze.models.autogaze.modeling import AutoGaze

            self._model = AutoGaze.of(self._model)
        return self._model

    @model.setter
    def model(self, model: "AutoGaze") -> None:
        self._model = model

    @property
    def config(self) -> AutoGazeConfig:
        """The model's configuration, for which transformers' models are not imported."""
        return self._model.config

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model's matrix products."""
        return self._model.dtype

    def to(
        self, device: str | torch.device = "auto", dtype: str | torch.dtype | None = None
    ) -> "Learned":
        """Move the model; see `Selector.to`."""
        place = DeviceOptions.parse(device, "float32" if dtype is None else dtype)
        self._model.to(device=place.device, dtype=None if dtype is None else place.dtype)
        return self

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
        folder, dtype = Path(folder_or_hub_id), kwargs.get("dtype", "auto")
        if _is_plain(folder, kwargs):
            try:
                plain = PlainAutoGaze.load(folder, None if dtype == "auto" else dtype)
            except Exception:  # whatever is wrong with them: `AutoGaze.from_pretrained` says it
                pass
            else:
                return cls(plain, temperature, pyramid)
        from autogaze.models.autogaze.modeling import AutoGaze

        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", "auto")  # transformers 4 would load everything as float32
        return cls(AutoGaze.from_pretrained(folder_or_hub_id, **kwargs), temperature, pyramid)

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> "LearnedStream":
        return LearnedStream(self, ratio, loss, generator)

    def select(
        self,
        clips: ClipsLike,
        *,
        ratio: Ratio | Tensor | np.ndarray | None = None,
        loss: float | Tensor | np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> Gaze:
        clips = as_clips(clips)
        self.check(clips)
        check_generator(generator)
        ratio, loss = self.settings(ratio, loss)
        return self.gaze(clips, ratio, loss, Sampling(self.temperature, generator))

    def gaze(
        self,
        clips: Clips,
        ratio: Ratio | None,
        loss: float | None,
        sampling: Sampling,
        stream: ClipStream | None = None,
    ) -> Gaze:
        """Gaze at checked clips, or at the next frames of a stream."""
        first = 0 if stream is None else stream.num_frames
        caps = self.caps(ratio, first, clips.num_frames)
        gaze = self.decode(clips, caps, loss, sampling, stream)
        if self.adaptation is not None:
            gaze = self.adaptation.stitch(gaze, caps, first)
        return gaze.to(clips.frames.device)

    def decode(
        self,
        clips: Clips,
        caps: list[int] | None,
        loss: float | None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        stream: ClipStream | None = None,
    ) -> Gaze:
        """The model's own gaze: at the clips or, where they are cut into tiles, at these."""
        if caps is not None and self.adaptation is not None:
            caps = [self.adaptation.tile_cap(cap) for cap in caps]
        generation = self._model.generate(
            self.preprocess(clips), caps=caps, threshold=loss, sampling=sampling, stream=stream
        )
        return generation.to_gaze()

    def caps(self, ratio: Ratio | None, first: int, num_frames: int) -> list[int] | None:
        """Patches that each frame from `first` on may take; None for all."""
        if ratio is None:
            return None
        numbers = range(first, first + num_frames)
        return [frame_cap(ratio, number, self.pyramid.num_patches) for number in numbers]

    def preprocess(self, clips: Clips) -> Float[Tensor, "rows T 3 s s"]:
        """The model's input: the clips normalised, or their tiles."""
        made_here = clips.frames.dtype == torch.uint8  # so that nobody else sees the floats
        frames, dtype = clips.to(self.device).unit(), self._model.dtype
        if frames.is_cuda:
            video = normalised_at_once(frames, dtype)
        else:
            video = normalise(frames, in_place=made_here).to(dtype)
        return video if self.adaptation is None else self.adaptation.cut(video)


def _is_plain(folder: Path, options: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is weights in one file of a folder, and no option needs transformers."""
    dtype = options.get("dtype", "auto")
    return (
        options.keys() <= {"dtype"}
        and (dtype == "auto" or isinstance(dtype, torch.dtype))
        and torch.get_default_device().type == "cpu"
        and os.path.isfile(folder / WEIGHTS)
        and not os.path.exists(folder / ADAPTER)
    )


class LearnedStream(SelectionStream["Learned"]):
    """Feeds a `ClipStream`, started with the first frame."""

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

    def step(self, frame: ClipsLike) -> Gaze:
        clips, selector = self.admit(frame), self.selector
        if self.clip_stream is None:
            tiles = 1 if selector.adaptation is None else selector.adaptation.tiles**2
            num_frames = selector._model.config.max_num_frames
            self.clip_stream = selector._model.stream(
                clips.num_clips * tiles, num_frames=num_frames
            )
        gaze = selector.gaze(clips, self.ratio, self.loss, self.sampling, self.clip_stream)
        return gaze.to(self.frames_device)
