"""Options of a `GazedProcessor`: which selector, how much it may keep, which frames it sees."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from autogaze.checks import describe_value, is_finite
from autogaze.errors import MLLMError
from autogaze.mllm.checks import check_choice, check_kind, check_tokens
from autogaze.mllm.processor_adapter import Sampling
from autogaze.mllm.ranking import Mapping, check_mapping, check_unit_ratio
from autogaze.selectors.base import Selector
from autogaze.selectors.registry import check_name
from autogaze.video.decoders import DecoderName, check_decoder

Resolution = Literal["stock", "native"]


@dataclass(frozen=True)
class GazeSettings:
    """How videos are sampled and what is kept of them.

    Args:
        selector: a `Selector`, or what `autogaze.load` takes; None keeps everything.
        ratio: cap on the kept units of every tubelet, as a share of all, in (0, 1].
        loss: stop a frame as soon as its loss is at most this, in units of the selector's metric.
        max_vision_tokens: the most units of a whole prompt, spread over its videos and their frames
            by what they need.
        units: how patches become units: "finest", "scales" or "union" (see `units_of_gaze`).
        resolution: "stock": frames as large as the checkpoint's settings bound them; "native": as
            large as the source. None: native with `max_vision_tokens` alone, else stock.
        num_frames: frames of every video, evenly spread.
        fps: frames per second of every video.
        max_frames: as num_frames, but all frames of a shorter video, and whatever rate the settings say.
            With none of the three, the checkpoint's settings.
        skip_corrupt: a frame that cannot be decoded is replaced by the one before, instead of
            raising.
        decoder: of videos: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`. Images are read
            by Pillow.

    Raises:
        MLLMError: a value that cannot be, or two of num_frames, fps and max_frames.
        VideoError: no such decoder, or one that is not here.
        SelectorError: text that names no selector. Weights are not opened here.
    """

    selector: Selector | str | Path | None = "greedy"
    ratio: float | None = None
    loss: float | None = None
    max_vision_tokens: int | None = None
    units: Mapping = "finest"
    resolution: Resolution | None = None
    num_frames: int | None = None
    fps: float | None = None
    skip_corrupt: bool = False
    max_frames: int | None = None
    decoder: DecoderName = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.selector, Selector | str | Path | None):
            raise MLLMError(
                "a selector is a Selector, a name, a path or None (which keeps everything), got "
                f"{describe_value(self.selector)}"
            )
        if isinstance(self.selector, str | Path):
            check_name(self.selector)
        if self.ratio is not None:
            check_unit_ratio(self.ratio)
        if self.loss is not None and not (is_finite(self.loss) and self.loss >= 0):
            raise MLLMError(
                f"loss must be a finite number of at least 0, got {describe_value(self.loss)}"
            )
        check_tokens(self.max_vision_tokens)
        check_mapping(self.units)
        check_choice(self.resolution, (None, "stock", "native"), "resolution")
        Sampling(self.num_frames, self.fps, max_frames=self.max_frames)  # checks them
        check_kind(self.skip_corrupt, bool, "skip_corrupt")
        check_decoder(self.decoder)

    @property
    def native(self) -> bool:
        """Whether frames are as large as their source."""
        if self.resolution is not None:
            return self.resolution == "native"
        return self.max_vision_tokens is not None and self.ratio is None

    def sampling(self, sampled: bool | None) -> Sampling:
        """Which frames are taken where a call's `do_sample_frames` is this; None where it says nothing."""
        if sampled is False:
            return Sampling(every=True)
        every = None if sampled is None else False
        return Sampling(self.num_frames, self.fps, every, self.max_frames)

    def updated(self, changes: dict[str, Any]) -> "GazeSettings":
        """The same with some options changed."""
        # A budget given in a call replaces those of other kinds that were set before; so do frames.
        budgets, frames = (
            ("ratio", "loss", "max_vision_tokens"),
            ("num_frames", "fps", "max_frames"),
        )
        for names in (budgets, frames):
            if any(changes.get(name) is not None for name in names):
                changes = {**dict.fromkeys(names), **changes}
        return replace(self, **changes)

    def saved(self) -> dict[str, Any]:
        """As JSON, without what depends on the machine.

        Raises:
            MLLMError: a selector that is an object, which no file can name.
        """
        if isinstance(self.selector, Selector):
            raise MLLMError(
                f"the selector {self.selector!r} is an object, which cannot be saved with a "
                "processor: give the selector by its name or folder"
            )
        values = asdict(self)
        del values["decoder"]  # of the machine
        return {**values, "selector": None if self.selector is None else str(self.selector)}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(field.name for field in fields(cls))
