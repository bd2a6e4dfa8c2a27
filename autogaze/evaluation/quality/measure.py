"""Every selector at every budget under every metric; each gaze is made once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from autogaze.evaluation.quality.clips import QualityClip, read_batch
from autogaze.evaluation.quality.metrics import MeasuredClips, Metric
from autogaze.evaluation.quality.selectors import Variant, priors, shuffled, variants
from autogaze.evaluation.selectors import MeasuredSelector
from autogaze.gaze import Gaze
from autogaze.reconstruction.canvas import reconstruct
from autogaze.utils.progress import silent
from autogaze.utils.seeding import seeded

Gazes = list[list[Gaze]]
"""One gaze for every budget and clip."""


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a selector, its place among the selectors, and a variant."""

    selector: str
    number: int
    variant: Variant

    @property
    def name(self) -> str:
        return self.selector + self.variant.value


@dataclass(frozen=True, eq=False)
class Measurements:
    """Losses of every row on every clip.

    Attributes:
        clips: N of them.
        ratios: budgets, growing.
        metrics, units: names, and what their losses are.
        losses: (metrics, rows, budgets, N) mean over a clip's measured frames.
        shares: (rows, budgets, N) of all patches, really taken.
    """

    clips: tuple[QualityClip, ...]
    rows: tuple[Row, ...]
    ratios: tuple[float, ...]
    metrics: tuple[str, ...]
    units: tuple[str, ...]
    losses: Float[np.ndarray, "metrics rows budgets N"]
    shares: Float[np.ndarray, "rows budgets N"]


def make_rows(selectors: Sequence[MeasuredSelector]) -> tuple[Row, ...]:
    """All selectors, then the shuffled gazes of those that are no controls, then priors."""
    return tuple(
        Row(one.name, number, variant)
        for variant in Variant
        for number, one in enumerate(selectors)
        if variant in variants(one)
    )


def num_steps(selectors: Sequence[MeasuredSelector], clips: int, batch: int) -> int:
    """Steps of `measure`, for a progress bar."""
    return -(-clips // batch) * (len(selectors) + len(make_rows(selectors)))


@torch.inference_mode()
def measure(
    clips: Sequence[QualityClip],
    selectors: Sequence[MeasuredSelector],
    metrics: Sequence[Metric],
    ratios: Sequence[float],
    *,
    batch: int,
    device: torch.device,
    every: int = 1,
    seed: int = 0,
    step: Callable[[str], object] = silent,
) -> Measurements:
    """Gaze at all clips, then measure all gazes.

    Frames of one batch of clips are in memory at a time, and all gazes, which are small.

    Args:
        ratios: budgets; sorted here.
        batch: clips at a time. Figures do not depend on it, except by rounding.
        device: where the metrics are.
        every: networks measure every so-many-th frame, beginning at another one in every
            clip. Frames of a clip are alike, so more clips tell more than more frames.
    """
    ratios = tuple(sorted(set(ratios)))
    order = shuffled(clips)
    own = _gaze(clips, selectors, ratios, batch, seed, step)
    rows = make_rows(selectors)
    gazes = [_gazes_of(row.variant, own[row.number], clips, order, ratios) for row in rows]
    losses = np.empty((len(metrics), len(rows), len(ratios), len(clips)))
    shares = np.empty((len(rows), len(ratios), len(clips)))
    for start in range(0, len(clips), batch):
        members = list(range(len(clips)))[start : start + batch]
        frames = read_batch([clips[number] for number in members]).unit().to(device)
        clip_batch = MeasuredClips(frames, every, members)
        for r, row in enumerate(rows):
            step(f"measuring {row.name}")
            for b in range(len(ratios)):
                some = [gazes[r][b][number] for number in members]
                shares[r, b, members] = [gaze.ratio for gaze in some]
                gaze = Gaze.cat_clips(some)
                canvas = reconstruct(frames, gaze)
                for m, metric in enumerate(metrics):
                    found = metric.losses(clip_batch, gaze, canvas).mean(1, dtype=torch.float64)
                    losses[m, r, b, members] = found.cpu().numpy()
    names, units = (tuple(getattr(one, what) for one in metrics) for what in ("name", "unit"))
    return Measurements(tuple(clips), rows, ratios, names, units, losses, shares)


def _gaze(
    clips: Sequence[QualityClip],
    selectors: Sequence[MeasuredSelector],
    ratios: Sequence[float],
    batch: int,
    seed: int,
    step: Callable[[str], object],
) -> list[Gazes]:
    """Every selector's own gazes."""
    # The same seed for every budget: random's gaze at a small one is part of that at a large one.
    generators = [[seeded("quality", seed) for _ in ratios] for _ in selectors]
    gazes: list[Gazes] = [[[] for _ in ratios] for _ in selectors]
    for start in range(0, len(clips), batch):
        frames = read_batch(clips[start : start + batch])
        for s, selector in enumerate(selectors):
            step(f"{selector.name} gazes")
            for b, ratio in enumerate(ratios):
                gaze = selector.select(frames, ratio, generators[s][b]).gaze
                gazes[s][b] += gaze.to("cpu")
    return gazes


def _gazes_of(
    variant: Variant,
    own: Gazes,
    clips: Sequence[QualityClip],
    order: Sequence[int],
    ratios: Sequence[float],
) -> Gazes:
    """The gazes on which clips are measured, from a selector's own."""
    if variant is Variant.SHUFFLED:
        return [[gazes[other] for other in order] for gazes in own]
    if variant is Variant.PRIOR:
        return [priors(clips, gazes, ratio) for gazes, ratio in zip(own, ratios, strict=True)]
    return own
