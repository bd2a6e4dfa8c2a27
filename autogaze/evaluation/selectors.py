"""The selectors that are measured: any of them, on the pyramid of the encoder that they serve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from autogaze.clips import Clips
from autogaze.errors import SelectorError, VideoError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors import registry
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned
from autogaze.utils.device import DeviceOptions
from autogaze.video.decoders import DecoderName
from autogaze.video.frames import VideoInfo
from autogaze.video.motion import check_motion

CONTROLS = ("random", "centre")
"""Always measured: whatever a selector is worth, it must be worth more than these."""


class Selection(NamedTuple):
    """A gaze on the encoder's pyramid, and as the selector decoded it (perhaps in tiles)."""

    gaze: Gaze
    decoded: Gaze


@dataclass(frozen=True, eq=False)
class MeasuredSelector:
    """A selector under the name that it has in figures."""

    name: str
    selector: Selector

    @property
    def stops_early(self) -> bool:
        """Whether its own predicted loss ends a frame, where no ratio is given.

        The package's weights get a ratio like the others, so that speeds are compared at
        equal shares of patches.
        """
        return isinstance(self.selector, Learned) and self.name != registry.LEARNED

    @property
    def motion_grid(self) -> int | None:
        """Cells per side on which it needs the decoder's motion, if it needs any."""
        return self.selector.pyramid.grids[-1] if self.selector.needs_motion else None

    def select(self, clips: Clips, ratio: float | None, generator: torch.Generator) -> Selection:
        """Gaze at whole clips.

        Args:
            ratio: cap on every frame's share of all patches of all scales, in (0, 1].
            generator: continues from call to call, so that batches of other sizes give the
                same gazes.
        """
        selector = self.selector
        if not isinstance(selector, Learned) or selector.adaptation is None:
            gaze = selector.select(clips, ratio=ratio, generator=generator)
            return Selection(gaze, gaze)
        # As `Learned.select`, but the tiles' own gazes are needed to count arithmetic.
        cap, loss = selector.settings(ratio, None)
        caps = selector.caps(cap, 0, clips.num_frames)
        decoded = selector.decode(clips, caps, loss)
        return Selection(selector.adaptation.stitch(decoded, caps), decoded)


def load_selector(
    name: str, pyramid: PatchPyramid | None, device_options: DeviceOptions, path: str | None = None
) -> MeasuredSelector:
    """A selector by name.

    Args:
        name: in figures.
        pyramid: the patches to choose from; None for the selector's own.
        device_options: where it runs, and the precision of a model.
        path: what `autogaze.load` takes; None for the name.
    """
    options: dict[str, Any] = {} if pyramid is None else {"pyramid": pyramid}
    selector = registry.load(path or name, device=device_options.device, **options)
    if isinstance(selector, Learned):  # the others have no model to be rounded
        selector.to(device_options.device, device_options.dtype)
    return MeasuredSelector(name, selector)


def with_controls(names: Sequence[str]) -> list[str]:
    """The names, each once, then the controls."""
    return list(dict.fromkeys([*names, *CONTROLS]))


def check_selectors(names: Sequence[str], *, checkpoints: bool = True) -> None:
    """Raise `SelectorError`, before anything slow, for a name that can be no selector.

    Args:
        checkpoints: whether folders and hub ids are accepted.
    """
    known = registry.list_selectors()
    for name in names:
        if checkpoints:
            registry.check_name(name)
        elif name not in known:
            raise SelectorError(f"unknown selector {name!r}; known are {', '.join(known)}")


def check_motion_needed(
    names: Sequence[str], infos: Sequence[VideoInfo] = (), decoder: DecoderName = "auto"
) -> None:
    """Raise `VideoError`, before anything slow, where a selector needs motion that cannot be had.

    Args:
        infos: of the videos, whose codecs may export none.
        decoder: that was asked for; torchcodec exports none.
    """
    known = [name for name in names if name in registry.list_selectors()]
    for name in known:
        if name == registry.LEARNED or not registry.load(name).needs_motion:
            continue
        if decoder == "torchcodec":
            raise VideoError(
                f"torchcodec exports no motion vectors, which the selector {name} needs; leave decoder at "
                "auto, or take pyav"
            )
        for info in infos:
            check_motion(info.codec, info.path)
