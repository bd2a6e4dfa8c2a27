"""Reading a video by hand: the functions that AutoGaze's users import.

```python
container = av.open("video.mp4")
raw_video = read_video_pyav(container=container, indices=list(range(16)))
video = transform_video_for_pytorch(raw_video, processor)[None]  # (1, 16, 3, H, W)
```

For whole files of any size and length see `autogaze.video` and `autogaze.gaze_video`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from jaxtyping import Float, Int, Num, UInt8
from PIL import Image
from torch import Tensor

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.container import OpenStream, reason
from autogaze.video.frames import RGBConverter, describe
from autogaze.video.reader import Video


def read_video_pyav(
    container: InputContainer, indices: Sequence[int] | np.ndarray
) -> UInt8[np.ndarray, "T H W 3"]:
    """Decode some frames of an open container, by number: those of `autogaze.video.Video`.

    Args:
        container: what `av.open` returned, of a path or of a file object that can seek. The file
            is read anew, so the container and its position stay as they are.
        indices: T frame numbers from 0, in any order, also repeatedly.

    Returns:
        (T, H, W, 3) RGB as displayed, in the order of `indices`.

    Raises:
        VideoError: a `ValueError`: no indices, or numbers that the video does not have.
        CorruptVideoError: a frame up to the last of them cannot be decoded.
    """
    wanted = [int(index) for index in indices]
    name = Path(str(container.name))
    if not wanted:
        raise VideoError(f"{name}: no frame numbers given")
    if min(wanted) < 0:
        raise VideoError(f"{name}: frame numbers must be at least 0, got {min(wanted)}")
    frames: dict[int, np.ndarray] = {}
    count = 0
    for count, pixels in _numbered(container, min(wanted), max(wanted)):
        if count in wanted:
            frames[count] = pixels
    if max(wanted) not in frames:
        path = _path(container)
        count = count + 1 if path is None else Video(path).count_frames()
        raise VideoError(
            f"{name}: frame {max(wanted)} was asked for, but the video has {count} frames "
            f"(0 to {count - 1})"
        )
    return np.stack([frames[index] for index in wanted])


def _path(container: InputContainer) -> Path | None:
    """The file of a container; None for a file object."""
    path = Path(str(container.name).removeprefix("file:"))
    return path if container.file is None and path.is_file() else None


def _numbered(
    container: InputContainer, first: int, last: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Frames and their numbers, from `first` (or earlier) to `last`."""
    path = _path(container)
    if path is None:
        yield from _of_object(container, last)
    elif first < (video := Video(path)).count_frames():
        for frame in video.frames(first=first, last=last):
            yield frame.index, frame.pixels


def _of_object(
    container: InputContainer, last: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Frames and their numbers of a file object, from the beginning to `last`."""
    name, file = Path(str(container.name)), getattr(container.file, "file", None)
    if file is None:
        raise VideoError(f"{name}: cannot be read anew; give a container of a path")
    position = file.tell()
    try:
        file.seek(0)
        with av.open(file) as copy, OpenStream.of(copy, name) as opened:
            info, layout = describe(opened)
        to_rgb = RGBConverter(layout, tone_map=info.hdr is not None)
        file.seek(0)
        with av.open(file) as copy, OpenStream.of(copy, name) as opened:
            for number, item in enumerate(opened.decode()):
                if isinstance(item, av.FFmpegError):
                    raise CorruptVideoError(
                        f"{name}: frame {number} cannot be decoded ({reason(item)})"
                    )
                yield number, to_rgb(item[0])
                if number == last:
                    break
    finally:
        file.seek(position)


def transform_video_for_pytorch(
    video: Num[np.ndarray, "T H W 3"] | Sequence[np.ndarray],
    transform: Callable[..., Any] | None = None,
) -> Float[Tensor, "T 3 h w"]:
    """Preprocess the frames of one video and stack them for a model.

    Args:
        video: (T, H, W, 3) frames, usually uint8.
        transform: an image processor in the style of transformers (called once, with
            all frames as `images`, returning `pixel_values`); a function of the list of
            frames, arrays (H, W, 3), that returns something with `pixel_values`; a function of one
            PIL image that returns a tensor (3, h, w), an array or an image (h, w, 3); or
            None for no change but the axes. A function of a list is known by its argument's name,
            one of `LIST_ARGUMENTS`, or by that it cannot take one image.

    Returns:
        (T, 3, h, w) floats, in whatever range the transform gives.

    Raises:
        VideoError: a `ValueError`: no frames, or a transform that returns other shapes.
    """
    frames = [np.asarray(frame) for frame in video]
    if not frames:
        raise VideoError("no frames to transform")
    if transform is None:
        values = torch.from_numpy(np.stack(frames))
    elif _takes_images(transform):
        values = _tensor(transform(images=frames, return_tensors="pt")["pixel_values"])
    elif _takes_list(transform):
        values = _tensor(_pixel_values(transform(list(frames))))
    else:
        values = _frame_by_frame(frames, transform)
    if values.ndim == 5 and values.shape[0] == 1:  # video processors return a batch of one
        values = values[0]
    if values.ndim == 4 and values.shape[1] != 3 and values.shape[3] == 3:
        values = values.permute(0, 3, 1, 2)
    if values.ndim != 4 or values.shape[:2] != (len(frames), 3):
        raise VideoError(
            f"the transform should give ({len(frames)}, 3, height, width) for {len(frames)} frames, "
            f"got {tuple(values.shape)}"
        )
    return values if values.is_floating_point() else values.float()


LIST_ARGUMENTS = ("frames", "video", "videos")
"""Names of the first argument of functions that take all frames at once."""


def _frame_by_frame(
    frames: Sequence[np.ndarray], transform: Callable[..., Any]
) -> Num[Tensor, "T ..."]:
    """What a function of one PIL image makes of every frame; or a function of the list, of all."""
    try:
        first = transform(Image.fromarray(frames[0]))
    except Exception as error:  # whatever a function of lists does with an image
        try:
            return _tensor(_pixel_values(transform(list(frames))))
        except Exception:
            raise error from None
    if _has_pixel_values(first):
        return _tensor(_pixel_values(transform(list(frames))))
    others = [transform(Image.fromarray(frame)) for frame in frames[1:]]
    return torch.stack([_tensor(values) for values in (first, *others)])


def _has_pixel_values(result: Any) -> bool:
    return hasattr(result, "pixel_values") or (
        isinstance(result, Mapping) and "pixel_values" in result
    )


def _pixel_values(result: Any) -> Any:
    """`pixel_values` of a mapping or of an object's attributes; else the result itself."""
    if not _has_pixel_values(result):
        return result
    return result["pixel_values"] if isinstance(result, Mapping) else result.pixel_values


def _takes_list(transform: Callable[..., Any]) -> bool:
    """Whether the first argument's name says that all frames are taken at once."""
    names = _arguments(transform)
    return bool(names) and names[0] in LIST_ARGUMENTS


def _takes_images(transform: Callable[..., Any]) -> bool:
    """Whether `transform` is an image processor: something with an `images` argument."""
    return hasattr(transform, "preprocess") or "images" in _arguments(transform)


def _arguments(function: Callable[..., Any]) -> list[str]:
    """Names of a function's arguments; none of built-in ones, which have no signature to look at."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _tensor(values: Any) -> Tensor:
    """A tensor from a tensor, an array, an image or (nested) lists of them."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, list | tuple):
        return torch.stack([_tensor(value) for value in values])
    return torch.from_numpy(np.array(values))


def process_video_frames(
    video: Num[np.ndarray, "N H W 3"], clip_len: int
) -> Num[np.ndarray, "T H W 3"]:
    """The first `clip_len` frames; where there are fewer, the last is repeated.

    Raises:
        VideoError: a `ValueError`: no frames, or a number below 1.
    """
    if clip_len < 1 or not len(video):
        raise VideoError(f"{clip_len} frames of a video of {len(video)} cannot be made")
    return video[np.minimum(np.arange(clip_len), len(video) - 1)]


def get_relative_video_path(path: str | Path) -> str:
    """A video's name in label files: the last three parts of its path, `dataset/split/file.mp4`.

    A path of fewer parts is its own name.
    """
    return "/".join(str(path).replace("\\", "/").split("/")[-3:])


def sample_frame_indices(
    clip_len: int, frame_sample_rate: float, seg_len: int, random_sample_frame: bool = False
) -> Int[np.ndarray, " T"]:
    """Numbers of a clip's frames in a video of `seg_len` frames.

    The clip takes `clip_len` frames at even distances from a span of clip_len * frame_sample_rate,
    the last frame of the span included. A video that isn't longer than that gives its first frames,
    one after the other, and its last again where it has too few.

    Args:
        frame_sample_rate: length of the span, in frames for each of the clip.
        random_sample_frame: the span starts anywhere, by NumPy's global generator; else at the
            first frame.

    Raises:
        VideoError: a `ValueError`: a number that isn't above 0.
    """
    given = {"clip_len": clip_len, "frame_sample_rate": frame_sample_rate, "seg_len": seg_len}
    for name, value in given.items():
        if value <= 0:
            raise VideoError(f"{name} must be above 0, got {value}")
    span = int(clip_len * frame_sample_rate)
    if seg_len <= span:
        return np.minimum(np.arange(clip_len, dtype=np.int64), seg_len - 1)
    start = int(np.random.randint(seg_len - span)) if random_sample_frame else 0
    places = np.linspace(start, start + span, clip_len)
    return np.minimum(places, start + span - 1).astype(np.int64)
