"""The processor's side of families to which a frame is a square image of one size.

Frames are resized to that square, whatever their aspect. Images, which these families cut into crops,
are prepared by transformers' own image processor and kept whole.
"""

import importlib
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
import transformers.utils
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import IS_TRANSFORMERS_4
from autogaze.mllm.checks import as_channels
from autogaze.mllm.frames import PatchFormat, cut_squares, resize_frames
from autogaze.mllm.processor_adapter import (
    Expansion,
    ProcessorAdapter,
    Sampling,
    WholeImage,
    check_count,
    check_steps,
    setting,
)
from autogaze.mllm.prompt import Kind
from autogaze.mllm.sampled_video import ASSUMED_RATE
from autogaze.mllm.stock_processor import StockProcessor
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.utils.normalization import CLIP
from autogaze.vision_encoders.patches import cut_cells

_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""By Pillow's number, as settings name them."""

_HAS_LANCZOS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12) and hasattr(
    transformers.utils, "is_torchvision_greater_or_equal"
)
"""transformers up to 5.10, and torchvision before PyTorch had it, take bicubic instead."""

_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False}
"""What is done to every frame; settings that ask for something else are refused."""


class FrameProcessorAdapter(ProcessorAdapter):
    """What families share whose frames are squares of one size, encoded one by one.

    A family sets the class attributes and implements `side`, `expand` and `image`.
    """

    any_size = False
    crops_images = True
    tokens: ClassVar[Mapping[Kind, str]] = {"video": "<video>", "image": "<image>"}
    size: ClassVar[int] = 384
    mean: ClassVar[tuple[float, ...]] = CLIP.mean
    std: ClassVar[tuple[float, ...]] = CLIP.std
    resample: ClassVar[int] = 3
    image_class: ClassVar[str]
    """Class of the family's image processor in transformers, "folder:class"."""

    def __init__(self, stock: StockProcessor) -> None:
        super().__init__(stock)
        check_steps(self.settings("video"), "video processor", _STEPS)

    def own(self, name: str, default: Any = None) -> Any:
        """A setting of the processor itself: the tokenizer's, or that of its file, if there is one."""
        found = getattr(self.stock.tokenizer, name, None)
        return setting(self.stock.own, name, default) if found is None else found

    def placeholder(self, kind: Kind) -> str:
        return str(self.own(f"{kind}_token", self.tokens[kind]))

    @property
    def side(self) -> int:
        """Units along a side of a frame."""
        raise NotImplementedError

    def frame_side(self, kind: Kind) -> int:
        """Pixels along a side of a frame."""
        size = setting(self.settings(kind), "size", {"height": self.size, "width": self.size})
        known = size if isinstance(size, Mapping) else {}
        height, width = known.get("height"), known.get("width")
        if not height or height != width:
            raise MLLMError(f"frames of this family are squares, its settings say size={size}")
        return int(height)

    def frame_size(
        self, kind: Kind, height: int, width: int, num_frames: int, native: bool
    ) -> tuple[int, int]:
        side = self.frame_side(kind)
        return side, side

    def grid(self, kind: Kind, tubelets: int, height: int, width: int) -> UnitGrid:
        return UnitGrid(tubelets, ((self.side, self.side),))

    def patch(self, kind: Kind) -> int:
        """Pixels along a side of what pixels are cut into; of whole units by default."""
        return self.frame_side(kind) // self.side

    def form(self, kind: Kind) -> PatchFormat:
        settings = self.settings(kind)
        return PatchFormat(
            patch=self.patch(kind),
            merge=1,
            tubelet=1,
            mean=as_channels(setting(settings, "image_mean", self.mean), "image_mean"),
            std=as_channels(setting(settings, "image_std", self.std), "image_std"),
        )

    def filter(self, kind: Kind) -> str:
        """How frames are resized, as PyTorch names it."""
        number = int(setting(self.settings(kind), "resample", self.resample))
        if number not in _FILTERS:
            raise MLLMError(
                f"resample={number} is not supported; there are {', '.join(map(str, _FILTERS))} "
                f"({', '.join(_FILTERS.values())})"
            )
        return _FILTERS[3 if number == 1 and not _HAS_LANCZOS else number]

    def resize(
        self, kind: Kind, frames: UInt8[Tensor, "T 3 H W"], height: int, width: int
    ) -> UInt8[Tensor, "T 3 h w"]:
        return resize_frames(frames, height, width, self.filter(kind))

    def cut(
        self, kind: Kind, frames: UInt8[Tensor, "T 3 S S"], kept: KeptUnits
    ) -> Float[Tensor, "K 3 u u"]:
        sides = [rows for rows, _ in kept.grid.grids]
        return cut_squares(frames, sides, kept.tubelet, kept.ids, self.form(kind))

    def sample(self, num_frames: int, rate: float | None, sampling: Sampling) -> list[int]:
        count, fps = self.asked(sampling)
        if count is None and fps is None:
            return list(range(num_frames))
        if count is None:
            count = max(1, int(num_frames / (rate or ASSUMED_RATE) * (fps or 1)))
        check_count(count, num_frames)
        return self.spread(num_frames, count)

    @property
    def takes_all_frames(self) -> bool:
        every = False if self.chat_samples else None
        return self.asked(Sampling(every=every)) == (None, None)

    def asked(self, sampling: Sampling) -> tuple[int | None, float | None]:
        """Number and rate of frames, of which the call's count first; all frames where both are None."""
        if sampling.num_frames is not None or sampling.fps is not None:
            return sampling.num_frames, sampling.fps
        settings = self.settings("video")
        every = sampling.every
        if every is None:
            every = not settings.get("do_sample_frames")
        return (None, None) if every else self.default_sampling(settings)

    def default_sampling(self, settings: Mapping[str, Any]) -> tuple[int | None, float | None]:
        """Number and rate of frames that the settings name."""
        return settings.get("num_frames"), settings.get("fps")

    def spread(self, num_frames: int, count: int) -> list[int]:
        """So many numbers, over the whole video."""
        if IS_TRANSFORMERS_4:  # which counts in single precision
            return torch.arange(0, num_frames, num_frames / count).int().tolist()
        return [number * num_frames // count for number in range(count)]

    @cached_property
    def image_processor(self) -> Any:
        """The family's own, of the processor that was given or of the checkpoint's settings."""
        own = getattr(self.stock.original, "image_processor", None)
        if callable(own):
            return own
        from transformers.utils import is_torchvision_available

        # As transformers chooses: all versions have a second class, for where torchvision is or is not.
        folder, _, name = self.image_class.partition(":")
        asked = str(self.stock.image.get("image_processor_type", ""))
        if not hasattr(transformers, f"{name}Pil"):  # transformers 5.2 and before
            wanted = asked.endswith("Fast") or not IS_TRANSFORMERS_4
            suffix = "Fast" if wanted and is_torchvision_available() else ""
            made = getattr(transformers, f"{name}{suffix}")
        elif is_torchvision_available():
            made = getattr(transformers, name)
        else:  # not from `transformers`, where versions up to 5.17 hide some of them
            module = importlib.import_module(
                f"transformers.models.{folder}.image_processing_pil_{folder}"
            )
            made = getattr(module, f"{name}Pil")
        return made.from_dict(dict(self.stock.image))

    def crops(
        self, pixels: UInt8[Tensor, "3 H W"], together: int = 1, **options: Any
    ) -> tuple[Float[Tensor, "n 3 S S"], Any]:
        """The crops of an image, and all that the family's image processor says of it.

        `together` is how many images its processor is to see in one prompt.

        Raises:
            MLLMError: crops that are no frames of the model.
        """
        picture = Image.fromarray(pixels.movedim(0, -1).contiguous().numpy())
        try:
            made = self.image_processor([[picture] * together], return_tensors="pt", **options)
        except ValueError as error:
            size = f"{picture.width} x {picture.height}"
            raise MLLMError(f"an image of {size} pixels cannot be prepared: {error}") from error
        crops = made["pixel_values"]
        crops = (crops[0] if crops.ndim == 5 else crops).float()
        side = self.frame_side("image")
        if crops.ndim != 4 or tuple(crops.shape[1:]) != (3, side, side):
            raise MLLMError(
                f"the image processor made {tuple(crops.shape)} of an image, the model takes squares "
                f"of {side} pixels; check its settings"
            )
        return crops, made


class ShuffledProcessorAdapter(FrameProcessorAdapter):
    """Families whose unit is a square of patches; frames and crops are blocks of one token."""

    sequence: ClassVar[tuple[str, int]]
    """Name of the processor's setting that counts the units of a frame, and its default."""

    @property
    def side(self) -> int:
        name, default = self.sequence
        units = int(self.own(name, default))
        side = math.isqrt(units)
        if side**2 != units:
            raise MLLMError(f"{name}={units} of the processor is no square: frames are")
        return side

    def unit_token(self, kind: Kind) -> str:
        return self.placeholder("image")

    def whole_image(self, crops: Float[Tensor, "n 3 S S"], expansion: Expansion) -> WholeImage:
        """An image of these crops, all of whose units are kept."""
        whole = KeptUnits.everything(self.grid("image", len(crops), 0, 0))
        pixels = cut_cells(crops, whole.tubelet, whole.ids, self.patch("image"))
        return WholeImage(whole.grid, pixels, expansion, len(crops), self.frame_side("image"))
