"""Who chooses in a benchmark: any selector, on the pyramid of the encoder that is measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autogaze.clips import Clips, frame_caps
from autogaze.errors import SelectorError
from autogaze.evaluation.flops import canvas_flops, difference_flops, learned_flops
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.grid_adaptation import GridAdaptation
from autogaze.models.autogaze.processing import normalise
from autogaze.selectors import registry
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned
from autogaze.utils.device import Place
from autogaze.video.container import VideoInfo
from autogaze.video.motion import check_motion

CONTROLS = ("random", "centre")
"""Always measured: whatever a selector is worth, it must be worth more than these."""
LEARNED = registry.LEARNED


@dataclass(frozen=True)
class Chosen:
    """A gaze on the encoder's pyramid, and the same as the selector itself made it."""

    gaze: Gaze
    own: Gaze


@dataclass(frozen=True, eq=False)
class Chooser:
    """A selector for the frames of one encoder.

    Attributes:
        name: as it was asked for.
        selector: who chooses.
        choose: clips, ratio, source of randomness -> what was chosen.
        on_device: whether it wants its frames where the encoder is.
        stops: whether its own prediction of the loss ends a frame. The package's weights take
            a share that they are given, so that speeds are compared at published ones.
    """

    name: str
    selector: Selector
    choose: Callable[[Clips, float | None, torch.Generator], Chosen]
    on_device: bool = False
    stops: bool = False

    @property
    def motion_grid(self) -> int | None:
        """Cells a side that it wants the decoder's motion on, if it wants any."""
        return self.selector.pyramid.grids[-1] if self.selector.needs_motion else None

    def flops(self, own: Gaze) -> int:
        """Arithmetic of what was chosen, counted from the architecture."""
        return selection_flops(self.selector, own.lengths.tolist())


def selection_flops(selector: Selector, lengths: Sequence[Sequence[int]]) -> int:
    """FLOP of choosing `lengths[b][t]` patches of frame t of clip b; 0 where nothing is computed."""
    if isinstance(selector, Learned):
        return sum(learned_flops(selector.model.config, clip) for clip in lengths)
    frames = sum(len(clip) for clip in lengths)
    if selector.name == "greedy":
        return canvas_flops(selector.pyramid, frames)
    if selector.name in ("run-length", "change"):
        return difference_flops(selector.pyramid, frames)
    return 0


def with_controls(names: Sequence[str]) -> list[str]:
    """The names, each once, and the controls behind them."""
    return list(dict.fromkeys([*names, *CONTROLS]))


def check_choosers(names: Sequence[str]) -> None:
    """Raise SelectorError for a name that can be no selector, before anything slow."""
    for name in names:
        if name not in registry.list_selectors() and not Path(name).is_dir() and "/" not in name:
            raise SelectorError(
                f"unknown selector {name!r}; known are {', '.join(registry.list_selectors())}, "
                "the path of a checkpoint folder, or a hub id"
            )


def check_motion_wanted(names: Sequence[str], infos: Sequence[VideoInfo]) -> None:
    """Raise VideoError, before anything slow, where a selector wants motion that a codec lacks."""
    known = [name for name in names if name in registry.list_selectors()]
    if any(registry.load(name).needs_motion for name in known):
        for info in infos:
            check_motion(info.codec, info.path)


def load_chooser(name: str, pyramid: PatchPyramid, place: Place) -> Chooser:
    """A selector that chooses patches of `pyramid`.

    Args:
        name: what `autogaze.load` takes.
        place: where the learned selector runs; the others run on the CPU.
    """
    if name in registry.list_selectors() and name != LEARNED:
        selector = registry.load(name, pyramid=pyramid)
        return Chooser(name, selector, _as_it_is(selector))
    learned = registry.load(name)
    if not isinstance(learned, Learned):
        raise SelectorError(f"{name}: is no learned selector")
    learned.model.static_shapes = place.device.type == "cuda"
    learned.model.to(place.device).to(place.dtype)  # type: ignore[arg-type]
    choose = (
        _as_it_is(learned)
        if learned.pyramid == pyramid
        else _adapted(learned, GridAdaptation(learned.pyramid, pyramid))
    )
    return Chooser(name, learned, choose, on_device=True, stops=name != LEARNED)


def _as_it_is(selector: Selector) -> Callable[[Clips, float | None, torch.Generator], Chosen]:
    def choose(clips: Clips, ratio: float | None, generator: torch.Generator) -> Chosen:
        gaze = selector.select(clips, ratio=ratio, generator=generator)
        return Chosen(gaze, gaze)

    return choose


def _adapted(
    learned: Learned, adaptation: GridAdaptation
) -> Callable[[Clips, float | None, torch.Generator], Chosen]:
    """For an encoder with another grid: tiles in, the encoder's patches out."""

    def choose(clips: Clips, ratio: float | None, generator: torch.Generator) -> Chosen:
        model = learned.model
        video = normalise(clips.unit().to(model.device)).to(model.dtype)
        ratio, loss = learned.settings(ratio, None)  # type: ignore[assignment]
        own = model.generate(
            adaptation.cut(video),
            caps=frame_caps(ratio, clips.num_frames, learned.pyramid.num_patches),
            threshold=loss,
        ).to_gaze()
        return Chosen(adaptation.stitch(own), own)

    return choose
