"""Frames as a vision tower takes them: their size, and the normalised pixels of kept units.

transformers' video processors resize and normalise every pixel of a clip, and need torchvision.
Here a clip goes through in chunks of whole tubelets, and only kept units are ever normalised: memory
is a chunk and the rows of what is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from autogaze.errors import MLLMError
from autogaze.mllm.units import KeptUnits
from autogaze.vision_encoders.patches import cut_cells

MAX_ASPECT = 200
"""The most that one side of a frame may be longer than the other."""


@dataclass(frozen=True)
class PatchFormat:
    """How the pixels of a unit are laid out in rows of patches.

    Args:
        patch: pixels along a patch's side.
        merge: patches along a unit's side.
        tubelet: frames that are encoded together.
        mean, std: of the normalisation, per channel, of pixels in [0, 1].
    """

    patch: int
    merge: int
    tubelet: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def unit(self) -> int:
        """Pixels along a unit's side."""
        return self.patch * self.merge

    @property
    def values(self) -> int:
        """Values of a patch: channels x frames x rows x columns."""
        return 3 * self.tubelet * self.patch**2


def bounded_size(
    height: int, width: int, form: PatchFormat, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width of a frame in whole units, by bounds on its pixels: Qwen2.5-VL's rule."""
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
    except ImportError:  # before transformers 5.4
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
    # Of 0 a frame below half a unit would have no unit.
    return smart_resize(height, width, form.unit, max(1, min_pixels), max_pixels)


def clip_size(
    height: int, width: int, num_frames: int, form: PatchFormat, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The same by bounds on the pixels of all frames together: Qwen3-VL's rule."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    # Clips shorter than a tubelet are refused there, and before 5.17 frames smaller than a unit.
    frames = max(num_frames, form.tubelet)
    height, width = _at_least_a_unit(height, width, form.unit)
    return smart_resize(frames, height, width, form.tubelet, form.unit, min_pixels, max_pixels)


def native_size(height: int, width: int, unit: int) -> tuple[int, int]:
    """The source's own size, in whole units."""
    height, width = _at_least_a_unit(height, width, unit)
    return round(height / unit) * unit, round(width / unit) * unit


def check_aspect(height: int, width: int) -> None:
    """Raise `MLLMError` where one side of a frame is over 200 times as long as the other."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MLLMError(
            f"frames of {width} x {height} pixels: one side must be at most {MAX_ASPECT} times as "
            "long as the other"
        )


def _at_least_a_unit(height: int, width: int, unit: int) -> tuple[int, int]:
    """The size of a frame that is scaled up until it has a unit."""
    if min(height, width) < unit:
        scale = max(unit / height, unit / width)
        height, width = max(unit, int(height * scale)), max(unit, int(width * scale))
    return height, width


def resize_frames(
    frames: UInt8[Tensor, "T 3 H W"], height: int, width: int, mode: str = "bicubic"
) -> UInt8[Tensor, "T 3 h w"]:
    """Frames of another size, with antialiasing, rounded to grey levels as they are read."""
    if tuple(frames.shape[-2:]) == (height, width):
        return frames
    return interpolate(frames, size=(height, width), mode=mode, antialias=True)


def cut_units(
    frames: UInt8[Tensor, "T 3 H W"], kept: KeptUnits, form: PatchFormat
) -> Float[Tensor, "N values"]:
    """Normalised pixels of the patches of kept units.

    Args:
        frames: of all tubelets of `kept`, of any size; where the last tubelet is not full its
            last frame stands for those missing.
        kept: which units; each of its grids is a frame of its own size.
        form: layout.

    Returns:
        One row per patch, (channel, frame, y, x) within it; the patches of a unit one after another,
        row by row; units in the order of `kept`.

    Raises:
        MLLMError: more or fewer frames than `kept` has tubelets.
    """
    frames = _whole_tubelets(frames, kept.grid.tubelets, form.tubelet)
    places, tubelets = kept.places, kept.tubelet
    units = torch.empty(kept.num_units, form.tubelet, 3, form.unit, form.unit, dtype=torch.uint8)
    for number, (rows, columns) in enumerate(kept.grid.grids):
        chosen = (places[:, 0] == number).nonzero()[:, 0]
        if not len(chosen):
            continue
        size, tubelet, parts = (rows * form.unit, columns * form.unit), tubelets[chosen], frames
        if tuple(frames.shape[-2:]) != size:
            # Tubelets of which this grid keeps nothing are not resized.
            used, tubelet = tubelet.unique(return_inverse=True)
            parts = frames.unflatten(0, (-1, form.tubelet))[used].flatten(0, 1)
            parts = resize_frames(parts, *size)
        cells = parts.view(-1, form.tubelet, 3, rows, form.unit, columns, form.unit)
        cells = cells.permute(0, 3, 5, 1, 2, 4, 6)  # tubelets, rows, columns, frames, 3, y, x
        some = cells[tubelet, places[chosen, 1], places[chosen, 2]]
        if len(chosen) == kept.num_units:
            return _rows(some, form)
        units[chosen] = some
    return _rows(units, form)


def cut_squares(
    frames: UInt8[Tensor, "T 3 S S"],
    sides: Sequence[int],
    tubelet: Int[Tensor, " N"],
    index: Int[Tensor, " N"],
    form: PatchFormat,
) -> Float[Tensor, "N 3 p p"]:
    """Normalised pixels of patches of square frames that are encoded one by one.

    Args:
        frames: as large as the model takes them; pixels beyond their last whole patch are not used.
        sides: patches along the side of every grid, coarse to fine. The last is that of the frames;
            for the others they are resized.
        tubelet: the frame of every patch.
        index: its place among the patches of a frame, grid by grid.
        form: layout.
    """
    patch = form.patch
    pixels = torch.empty(len(index), 3, patch, patch, dtype=torch.uint8)
    first = 0
    for number, side in enumerate(sides):
        here = ((index >= first) & (index < first + side**2)).nonzero()[:, 0]
        if len(here):
            is_last = number + 1 == len(sides)
            sized = frames if is_last else resize_frames(frames, side * patch, side * patch)
            pixels[here] = cut_cells(sized, tubelet[here], index[here] - first, patch)
        first += side**2
    return normalised(pixels.flatten(2), form).view(pixels.shape)


def _whole_tubelets(frames: Tensor, tubelets: int, length: int) -> Tensor:
    """The same frames; the last is repeated until the last tubelet is full."""
    missing = tubelets * length - len(frames)
    if not 0 <= missing < length:
        raise MLLMError(f"{len(frames)} frames are not {tubelets} tubelets of {length} frames each")
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames


def _rows(units: UInt8[Tensor, "K t 3 u u"], form: PatchFormat) -> Float[Tensor, "N values"]:
    """Rows of the patches of units."""
    sides = (form.merge, form.patch)
    patches = units.unflatten(4, sides).unflatten(3, sides)  # K, t, 3, m, p, m, p
    patches = patches.permute(0, 3, 5, 2, 1, 4, 6)  # K, m, m, 3, t, p, p
    channels = patches.reshape(-1, 3, form.values // 3)  # copied while a value is a byte
    return normalised(channels, form).flatten(1)


def normalised(pixels: UInt8[Tensor, "n 3 m"], form: PatchFormat) -> Float[Tensor, "n 3 m"]:
    """Pixels as a model takes them."""
    scale = pixels.new_tensor(form.std, dtype=torch.float32).mul_(255)[:, None]
    shift = pixels.new_tensor(form.mean, dtype=torch.float32).mul_(255)[:, None]
    return pixels.float().sub_(shift).div_(scale)


def upright(frames: Any) -> Any:
    """Frames whose PIL images are turned as their EXIF orientation says."""
    if isinstance(frames, Image.Image):
        return ImageOps.exif_transpose(frames)
    if isinstance(frames, list | tuple):
        return [upright(frame) for frame in frames]
    return frames
