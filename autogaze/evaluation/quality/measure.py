"""Every selector at every budget, judged by every judge: one gaze of each, made once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from autogaze.evaluation.progress import Step, silent
from autogaze.evaluation.quality.clips import QualityClip, read_batch
from autogaze.evaluation.quality.contenders import Contender, Serving, donors, habits
from autogaze.evaluation.quality.metrics import Judge, Shown, Trial
from autogaze.gaze import Gaze
from autogaze.utils.seeding import seeded


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        selector: its name.
        contender: its number.
        serving: which of its gazes a clip is served.
    """

    selector: str
    contender: int
    serving: Serving

    @property
    def name(self) -> str:
        return self.selector + self.serving.value


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was lost on every clip.

    Attributes:
        clips: N of them.
        rows: who was compared.
        ratios: budgets, growing.
        judges, units: who judged, and in what.
        losses: (judges, rows, budgets, N) mean over a clip's judged frames.
        shares: (rows, budgets, N) of all patches, really taken.
    """

    clips: tuple[QualityClip, ...]
    rows: tuple[Row, ...]
    ratios: tuple[float, ...]
    judges: tuple[str, ...]
    units: tuple[str, ...]
    losses: Float[np.ndarray, "judges rows budgets N"]
    shares: Float[np.ndarray, "rows budgets N"]


def make_rows(contenders: Sequence[Contender]) -> tuple[Row, ...]:
    """All contenders, then the shuffled gazes of those that are no controls, then the habit."""
    return tuple(
        Row(one.name, number, serving)
        for serving in Serving
        for number, one in enumerate(contenders)
        if serving in one.servings
    )


def num_steps(contenders: int, rows: int, clips: int, batch: int) -> int:
    """Steps for a progress bar."""
    return -(-clips // batch) * (contenders + rows)


@torch.inference_mode()
def measure(
    clips: Sequence[QualityClip],
    contenders: Sequence[Contender],
    judges: Sequence[Judge],
    ratios: Sequence[float],
    *,
    batch: int,
    device: torch.device,
    every: int = 1,
    seed: int = 0,
    step: Step = silent,
) -> Measurements:
    """Gaze at all clips, then judge all gazes.

    Frames of one batch of clips are in memory at a time, and all gazes, which are small.

    Args:
        ratios: budgets; sorted here.
        batch: clips at a time. Figures do not depend on it, except by rounding.
        device: where the judges are.
        every: networks judge every so-many-th frame, beginning at another one in every
            clip. Frames of a clip are alike, so more clips tell more than more frames.
    """
    ratios = tuple(sorted(set(ratios)))
    others = donors(clips)
    gazes = _gaze(clips, contenders, ratios, batch, seed, step)
    rows = make_rows(contenders)
    served = [_serve(row.serving, gazes[row.contender], clips, others, ratios) for row in rows]
    losses = np.empty((len(judges), len(rows), len(ratios), len(clips)))
    shares = np.empty((len(rows), len(ratios), len(clips)))
    for members in _batches(len(clips), batch):
        frames = read_batch([clips[number] for number in members]).unit().to(device)
        shown = Shown.of(frames, every, members)
        for r, row in enumerate(rows):
            step(f"judging {row.name}")
            for b in range(len(ratios)):
                seen = [served[r][b][number] for number in members]
                trial = Trial(shown, Gaze.cat_clips(seen))
                shares[r, b, members] = [gaze.ratio for gaze in seen]
                for j, judge in enumerate(judges):
                    found = judge.losses(trial).mean(1, dtype=torch.float64)
                    losses[j, r, b, members] = found.cpu().numpy()
    names, units = (tuple(getattr(one, what) for one in judges) for what in ("name", "unit"))
    return Measurements(tuple(clips), rows, ratios, names, units, losses, shares)


def _gaze(
    clips: Sequence[QualityClip],
    contenders: Sequence[Contender],
    ratios: Sequence[float],
    batch: int,
    seed: int,
    step: Step,
) -> list[list[list[Gaze]]]:
    """One gaze for every contender, budget and clip."""
    # The same seed for every budget: random's gaze at a small one is part of that at a large one.
    generators = [[seeded("quality", seed) for _ in ratios] for _ in contenders]
    gazes: list[list[list[Gaze]]] = [[[] for _ in ratios] for _ in contenders]
    for members in _batches(len(clips), batch):
        seen = read_batch([clips[number] for number in members])
        for c, contender in enumerate(contenders):
            step(f"{contender.name} gazes")
            for b, ratio in enumerate(ratios):
                gazes[c][b] += contender.gaze(seen, ratio, generators[c][b])
    return gazes


def _serve(
    serving: Serving,
    own: list[list[Gaze]],
    clips: Sequence[QualityClip],
    others: Sequence[int],
    ratios: Sequence[float],
) -> list[list[Gaze]]:
    """What every clip is served of a selector's own gazes, budget by budget."""
    if serving is Serving.SHUFFLED:
        return [[gazes[other] for other in others] for gazes in own]
    if serving is Serving.HABIT:
        return [habits(clips, gazes, ratio) for gazes, ratio in zip(own, ratios, strict=True)]
    return own


def _batches(count: int, batch: int) -> list[list[int]]:
    return [list(range(start, min(start + batch, count))) for start in range(0, count, batch)]
