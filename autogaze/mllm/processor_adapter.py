"""Adapters of processors: how a family samples and sizes frames and writes them into a prompt.

The counterpart of `MLLMAdapter` on the processor's side; it needs no model. A family is one
subclass, named in `autogaze.mllm.registry` beside the model's adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.checks import describe_value, is_number, whole
from autogaze.errors import MLLMError
from autogaze.mllm.adapter import VisualInput
from autogaze.mllm.frames import PatchFormat, cut_units, resize_frames
from autogaze.mllm.prompt import Kind, PositionRule, SequencePositions
from autogaze.mllm.stock_processor import StockProcessor
from autogaze.mllm.units import KeptUnits, UnitGrid


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken.

    Args:
        num_frames: so many, evenly over the video.
        fps: so many per second.
        every: True: all of them; False: not all, even where the checkpoint's settings say so. With none
            of the three, what they say.
        max_frames: as `num_frames`, all of a shorter video, and whatever rate the settings say.
    """

    num_frames: int | None = None
    fps: float | None = None
    every: bool | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and (whole(value) or 0) < 1:
                raise MLLMError(f"{name} must be at least 1, got {describe_value(value)}")
        if self.fps is not None and not (is_number(self.fps) and 0 < self.fps < float("inf")):
            raise MLLMError(f"fps must be a number above 0, got {describe_value(self.fps)}")
        if self.num_frames is not None and self.fps is not None:
            raise MLLMError("give num_frames or fps, not both")
        if self.max_frames is not None and (self.num_frames or self.fps) is not None:
            raise MLLMError("give max_frames alone, or num_frames or fps")


@dataclass(frozen=True)
class FrameTimes:
    """When the sampled frames of a video are shown.

    Args:
        seconds: of every frame.
        rate: frames per second of the source; None where nothing tells.
        source_frames: frames of the source in all.
        fps: the rate that was asked for; None if none was.
        duration: seconds of the source; None where nothing tells.
    """

    seconds: tuple[float, ...]
    rate: float | None = None
    source_frames: int | None = None
    fps: float | None = None
    duration: float | None = None


@dataclass(frozen=True)
class Expansion:
    """What stands in a prompt for one video or image.

    Args:
        text: replaces the placeholder; it holds the token of a unit once for every block.
        blocks: tubelets [first, end) whose units stand at each of them, and how many placeholders
            that are always kept follow them.
    """

    text: str
    blocks: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class WholeImage:
    """An image as a family's own image processor prepares it: cut into crops, all of which are kept.

    Args:
        grid: its units.
        pixels: of all of them, as `MLLMAdapter.encode` takes them.
        expansion: what stands in the prompt.
        num_crops: frames that the vision encoder sees.
        side: pixels along the side of one.
    """

    grid: UnitGrid
    pixels: Float[Tensor, "N *values"]
    expansion: Expansion
    num_crops: int
    side: int


class ProcessorAdapter:
    """Interface to the processor's side of one family.

    A family sets `tokens` and implements `sample`, `frame_size`, `form` and `expand`; the rest has
    defaults, which fit patches in rows as `autogaze.mllm.frames` cuts them, and 1-D positions.

    Args:
        stock: the family's own processor.
    """

    tokens: ClassVar[Mapping[Kind, str]]
    """The placeholder of a video and of an image in a prompt's text."""

    any_size: ClassVar[bool] = True
    """Whether frames may have any number of whole units, or only the one of `frame_size`."""

    crops_images: ClassVar[bool] = False
    """Whether images are prepared by `image`, and not as a frame of a video is."""

    chat_samples: ClassVar[bool] = False
    """Whether videos of conversations are sampled where the settings say that videos are not."""

    video_template: ClassVar[str | None] = None
    """Chat template of conversations with a video, where it is not the checkpoint's."""

    def __init__(self, stock: StockProcessor) -> None:
        self.stock = stock

    def settings(self, kind: Kind) -> Mapping[str, Any]:
        """Settings of the stock video or image processor."""
        return self.stock.video if kind == "video" else self.stock.image

    def placeholder(self, kind: Kind) -> str:
        """The token that stands for a video or image in a prompt's text."""
        return self.tokens[kind]

    def unit_token(self, kind: Kind) -> str:
        """The token that stands for a unit in what replaces the placeholder; the same by default."""
        return self.placeholder(kind)

    def unit_id(self, kind: Kind) -> int:
        """Its id.

        Raises:
            MLLMError: the tokenizer does not know it.
        """
        token, tokenizer = self.unit_token(kind), self.stock.tokenizer
        found = tokenizer.convert_tokens_to_ids(token)
        if found is None or found == getattr(tokenizer, "unk_token_id", None):
            raise MLLMError(f"the tokenizer has no token {token!r}, the placeholder of a {kind}")
        return int(found)

    def sample(self, num_frames: int, rate: float | None, sampling: Sampling) -> list[int]:
        """Numbers of the frames of a video that are taken, ascending, at least one.

        Args:
            num_frames: of the video.
            rate: its frames per second; None where nothing tells.
            sampling: what was asked for.
        """
        raise NotImplementedError

    def sample_most(self, num_frames: int, most: int) -> list[int]:
        """Numbers of at most so many frames, at even distances; of all where there are no more."""
        return self.sample(num_frames, None, Sampling(num_frames=min(most, num_frames)))

    def numbers(self, num_frames: int, rate: float | None, sampling: Sampling) -> list[int]:
        """As `sample`, or `sample_most` where `max_frames` was asked for."""
        if sampling.max_frames is not None:
            return self.sample_most(num_frames, sampling.max_frames)
        return self.sample(num_frames, rate, sampling)

    @property
    def takes_all_frames(self) -> bool:
        """Whether all frames of a conversation's video are taken where nothing else is asked for."""
        return False

    def frame_size(
        self, kind: Kind, height: int, width: int, num_frames: int, native: bool
    ) -> tuple[int, int]:
        """Height and width of the model's frames.

        Args:
            kind: of a video or an image.
            height, width: of the source.
            num_frames: sampled frames.
            native: as large as the source, not as the checkpoint's settings bound it.
        """
        raise NotImplementedError

    def grid(self, kind: Kind, tubelets: int, height: int, width: int) -> UnitGrid:
        """Units of a video or image whose model frames are so large."""
        unit = self.form(kind).unit
        return UnitGrid(tubelets, ((height // unit, width // unit),))

    def form(self, kind: Kind) -> PatchFormat:
        """How pixels are laid out: sides of a patch and a unit, frames of a tubelet."""
        raise NotImplementedError

    def resize(
        self, kind: Kind, frames: UInt8[Tensor, "T 3 H W"], height: int, width: int
    ) -> UInt8[Tensor, "T 3 h w"]:
        """Frames as large as the model's."""
        return resize_frames(frames, height, width)

    def image(self, pixels: UInt8[Tensor, "3 H W"], together: int) -> WholeImage:
        """An image, where `crops_images`.

        Args:
            pixels: of the image.
            together: images in the list that it was given in, its own prompt's; 1 without such lists.
        """
        raise NotImplementedError

    def cut(
        self, kind: Kind, frames: UInt8[Tensor, "T 3 H W"], kept: KeptUnits
    ) -> Float[Tensor, "N *values"]:
        """What `MLLMAdapter.encode` takes as pixels of the kept units of some whole tubelets."""
        return cut_units(frames, kept, self.form(kind))

    def rows_per_unit(self, kind: Kind) -> int | None:
        """Rows that `cut` makes of a unit; None where units share patches."""
        return self.form(kind).merge ** 2

    def expand(self, kind: Kind, kept: KeptUnits, times: FrameTimes) -> Expansion:
        """What stands in the prompt for a video or image."""
        raise NotImplementedError

    def prepare_text(self, text: str) -> str:
        """A prompt's text before placeholders are expanded."""
        return text

    def interval(self, kind: Kind, times: FrameTimes) -> float | None:
        """Seconds between tubelets; None where the family does not ask."""
        return None

    def rule(self, visuals: Sequence[VisualInput]) -> PositionRule:
        """Positions of the units; the model places them again by its own configuration."""
        return SequencePositions()


def check_steps(
    settings: Mapping[str, Any], where: str, steps: Mapping[str, Any], resample: int | None = None
) -> None:
    """Raise `MLLMError` where settings ask for other steps than are done to every frame.

    `resample` is Pillow's number of the only filter; None where others are supported.
    """
    for name, expected in steps.items():
        if bool(setting(settings, name, expected)) != expected:
            raise MLLMError(
                f"{name}={settings[name]} of the {where} is not supported: frames are "
                "resized, and normalised, as the family's published checkpoints do"
            )
    factor = setting(settings, "rescale_factor", 1 / 255)
    if abs(255 * factor - 1) > 1e-4:  # as files round it
        raise MLLMError(
            f"rescale_factor={factor} of the {where} is not supported: grey levels become [0, 1], by 1/255"
        )
    if resample is not None and int(setting(settings, "resample", resample)) != resample:
        raise MLLMError(
            f"resample={settings['resample']} of the {where} is not supported; {resample} is"
        )


def check_count(count: int, num_frames: int) -> None:
    """Raise `MLLMError` where more frames were asked for than a video has."""
    if count > num_frames:
        raise MLLMError(
            f"{count} frames were asked for, the video has {num_frames}; ask for fewer, "
            "for fps, or for max_frames"
        )


def setting(settings: Mapping[str, Any], name: str, default: Any) -> Any:
    """A setting; the stock class's default where the checkpoint does not say."""
    value = settings.get(name)
    return default if value is None else value
