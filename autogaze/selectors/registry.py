"""Selectors by name: `autogaze.load("greedy")`, a folder, or a model of the Hugging Face hub.

Names and descriptions are listed without PyTorch; a selector's module is imported when it is
loaded.
"""

import difflib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from autogaze.checks import describe_value
from autogaze.errors import AutoGazeError, CheckpointError, SelectorError, first_line
from autogaze.utils.hub import find_checkpoint, is_hub_id
from autogaze.utils.progress import without_loading_bars

if TYPE_CHECKING:
    import torch

    from autogaze.gaze import Gaze
    from autogaze.pipeline import GazeOptions
    from autogaze.selectors.base import Selector

DEFAULT = "greedy"
"""Name of the selector that `load()` returns: needs no weights, and meets any loss exactly."""

LEARNED = "learned"
"""Name of the selector whose weights come with the package."""


class _Entry(NamedTuple):
    module: str
    class_name: str
    description: str


_SELECTORS = {
    "greedy": _Entry(
        "greedy", "Greedy", "the patch that lowers the canvas loss most, until the loss is met"
    ),
    "run-length": _Entry(
        "run_length", "RunLength", "finest patches that changed since the two frames before"
    ),
    "change": _Entry(
        "change", "Change", "finest patches that changed most since the frame before, in RGB"
    ),
    "codec": _Entry(
        "codec", "Codec", "finest patches that move by the video's motion vectors, no pixels read"
    ),
    LEARNED: _Entry(
        "learned", "Learned", "what a 3 M parameter model expects to lower the canvas loss most"
    ),
    "random": _Entry("controls", "Random", "patches drawn at random, a baseline"),
    "centre": _Entry(
        "controls", "Centre", "patches nearest to the middle of the frame, coarse first"
    ),
}


def list_selectors() -> dict[str, str]:
    """The selectors of this package: name -> one line on how it selects."""
    return {name: entry.description for name, entry in _SELECTORS.items()}


def load(
    name: str | Path | None = None,
    *,
    device: "str | torch.device" = "auto",
    dtype: "str | torch.dtype | None" = None,
    **options: Any,
) -> "Selector":
    """Load a selector by name.

    Args:
        name: one of `list_selectors()`; a folder with a `config.json` and weights; or
            a hub id such as "nvidia/AutoGaze", which is downloaded if it is not in the local
            cache (no other name uses the network). None: `DEFAULT`.
        device: where patches are chosen: "auto" (a CUDA GPU where there is one, else the CPU),
            "cpu", "cuda", "cuda:1" or "mps". A gaze lies where its frames were given.
        dtype: precision of a model: "float32", "float16" or "bfloat16"; None: float32 for the
            package's own weights, for others the one they were saved in.
        options: passed on to the selector, e.g. `pyramid=PatchPyramid(...)`.

    Raises:
        AutoGazeError: no such device or precision here.
        SelectorError: no selector of this name; the known ones are listed.
        CheckpointError: a folder or hub id that holds no usable weights.
    """
    if not isinstance(name, str | Path | None):
        raise SelectorError(f"a selector is named by text or a path, got {describe_value(name)}")
    name = str(name) if name is not None else DEFAULT
    if name == LEARNED:
        import torch

        from autogaze.weights import SELECTOR

        stored = torch.float32  # computed in, unless asked otherwise: the file has float16
        return _learned(SELECTOR, {"dtype": stored, **options}).to(device, dtype)
    if entry := _SELECTORS.get(name):
        module = importlib.import_module(f"autogaze.selectors.{entry.module}")
        selector: "Selector" = getattr(module, entry.class_name)(**options)
        return selector.to(device, dtype)
    folder = Path(name)
    if os.path.isdir(name):  # unlike Path.is_dir, takes names of any length
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: no config.json, so this is no checkpoint folder")
        return _learned(folder, options).to(device, dtype)
    check_name(name)
    return _learned(find_checkpoint(name), options).to(device, dtype)


def check_name(name: str | Path) -> None:
    """Raise `SelectorError` unless it is a selector's name, a folder or a hub id; opens none."""
    name = str(name)
    if name in _SELECTORS or os.path.isdir(name) or is_hub_id(name):
        return
    close = difflib.get_close_matches(name.lower(), _SELECTORS, n=1, cutoff=0.5)
    suggestion = f" (did you mean {close[0]!r}?)" if close else ""
    raise SelectorError(
        f"unknown selector {describe_value(name)}{suggestion}; known are {', '.join(_SELECTORS)}, the path of a "
        "checkpoint folder, or a hub id such as nvidia/AutoGaze"
    )


def stream_video(
    path: str | Path,
    *,
    selector: "str | Path | Selector | None" = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    **options: Unpack["GazeOptions"],
) -> "Iterator[Gaze]":
    """Gaze at a video of any length: one `Gaze` per chunk of 16 frames.

    Args:
        path: any video or image.
        selector: a `Selector`, or what `load` takes; None for the default.
        device, dtype: as of `load`; a `Selector` is moved there, and stays where it is for None.
        options: see `autogaze.pipeline.GazeStream`.

    Yields:
        Gazes of (tiles, frames) in source pixels and seconds. Memory does not grow with the
        video's length.

    Raises:
        AutoGazeError: bad settings at once; a bad video when it is read.
    """
    return _selector(selector, device, dtype).stream_video(path, **options)


def gaze_video(
    path: str | Path,
    *,
    selector: "str | Path | Selector | None" = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    **options: Unpack["GazeOptions"],
) -> "Gaze":
    """Gaze at a whole video: one `Gaze` of (tiles, frames), in source pixels and seconds.

    The same arguments as `stream_video`. Ids of the whole video are kept in memory, its frames
    never are.
    """
    return _selector(selector, device, dtype).gaze_video(path, **options)


def _selector(
    selector: "str | Path | Selector | None",
    device: "str | torch.device | None",
    dtype: "str | torch.dtype | None",
) -> "Selector":
    if selector is None or isinstance(selector, str | Path):
        return load(selector, device="auto" if device is None else device, dtype=dtype)
    if device is None and dtype is None:
        return selector
    return selector.to(selector.device or "cpu" if device is None else device, dtype)


def _learned(folder: Path, options: dict[str, Any]) -> "Selector":
    from safetensors import SafetensorError

    from autogaze.selectors.learned import Learned

    try:
        with without_loading_bars():  # of weights that are read in a moment
            return Learned.from_pretrained(str(folder), **options)
    except AutoGazeError as error:
        if str(folder) in str(error):
            raise
        raise CheckpointError(f"{folder}: {error}") from error
    except (OSError, ValueError, SafetensorError) as error:  # no weights, no JSON, damaged
        raise CheckpointError(f"{folder}: cannot be loaded: {first_line(error)}") from error
