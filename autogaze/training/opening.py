"""What is said before the first step: what is trained, on what, where, and from where on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from autogaze.datasets.clip import LabelCoverage
from autogaze.datasets.mixture import MixedClips
from autogaze.training.greedy_labels import GreedyLabelled
from autogaze.training.learner import Learner
from autogaze.training.loader import TrainingData
from autogaze.training.options import TrainerOptions
from autogaze.training.resuming import Start

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")

FEW = 0.5
"""Share of the clips found below which a label file is probably another dataset's."""


@dataclass(frozen=True)
class LabelCount:
    """The clips of a dataset, by where their labels come from.

    Attributes:
        files: clips with labels of a file.
        greedy: clips that are labelled while they are read.
        bare: clips without labels.
        coverages: of the label files.
    """

    files: int = 0
    greedy: int = 0
    bare: int = 0
    coverages: tuple[LabelCoverage, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> "LabelCount":
        """Count a dataset's clips; of a mixture, those of all its parts."""
        if isinstance(dataset, MixedClips):
            parts = [cls.of(part) for part in dataset.datasets]
            return cls(
                sum(part.files for part in parts),
                sum(part.greedy for part in parts),
                sum(part.bare for part in parts),
                tuple(chain.from_iterable(part.coverages for part in parts)),
            )
        number = len(dataset)  # type: ignore[arg-type]
        if isinstance(dataset, GreedyLabelled):
            return cls(greedy=number)
        coverage: LabelCoverage | None = getattr(dataset, "coverage", None)
        return cls(bare=number) if coverage is None else cls(number, coverages=(coverage,))

    @property
    def total(self) -> int:
        return self.files + self.greedy + self.bare

    def describe(self) -> str:
        """`86 clips with labels; 14 of 100 found have none and are left out`."""
        kinds = (
            (self.files, "with labels"),
            (self.greedy, "labelled as they are read"),
            (self.bare, "without labels"),
        )
        parts = [f"{number} {kind}" for number, kind in kinds if number]
        one = len(parts) == 1
        text = parts[0].replace(" ", " clips ", 1) if one else f"{self.total} clips: "
        text += "" if one else ", ".join(parts)
        found = sum(coverage.found for coverage in self.coverages)
        left_out = found - sum(coverage.labelled for coverage in self.coverages)
        return text + (f"; {left_out} of {found} found have none: left out" if left_out else "")


def warn_of_few_labels(coverages: Sequence[LabelCoverage]) -> None:
    """Warn of label files that name less than half of the clips found."""
    for one in coverages:
        if one.labelled < FEW * one.found:
            log.warning(
                "%s labels only %d of the %d clips found: the others, such as %s, are left out. "
                "Is it the label file of this dataset?",
                one.file,
                one.labelled,
                one.found,
                one.missing,
            )


def announce(
    learner: Learner,
    accelerator: "Accelerator",
    options: TrainerOptions,
    data: TrainingData,
    start: Start,
    num_steps: int,
) -> None:
    """Log what is going to happen."""
    trains = learner.train_gaze or learner.train_task
    validation = None if data.val is None else LabelCount.of(data.val)
    rows = [("start", line) for line in _beginning(start, options)]
    coverages: list[LabelCoverage] = []
    if trains:
        count = LabelCount.of(data.train)
        coverages += count.coverages
        epochs = num_steps * options.batch_size / len(data.train)  # type: ignore[arg-type]
        steps = f"{start.state.step} to {num_steps}, {options.batch_size} clips each, "
        if start.state.step >= num_steps:
            steps = f"none left of {num_steps} (trainer.max_steps, n_epochs), "
        rows += [("train", count.describe()), ("steps", f"{steps}{epochs:.3g} epochs")]
    rows.append(("val", _validation(validation, options)))
    if trains:
        rows.append(("trained", _parameters(learner)))
    folder = Path(options.exp_folder) / options.exp_name
    rows += [("device", _device(accelerator)), ("results", str(folder))]
    for name, text in rows:
        log.info("%-8s %s", name, text)
    if options.resume is True and start.checkpoint is None:
        log.warning("trainer.resume=True, but %s has no checkpoints to go on from", folder)
    warn_of_few_labels(coverages + list(validation.coverages if validation else ()))


def _beginning(start: Start, options: TrainerOptions) -> list[str]:
    if start.checkpoint is None:
        named = [name for name in (options.gaze_weights, options.task_weights) if name is not None]
        first = ["at step 0"] if named else ["at step 0, weights drawn at random"]
        return [*first, *(f"weights of {name}" for name in named)]
    if start.continues:
        return [f"after step {start.state.step}", f"from {start.checkpoint}"]
    return [
        "at step 0",
        f"weights of {start.checkpoint}",
        f"not its optimizer, steps, order of clips: of {start.algorithm}",
    ]


def _validation(count: LabelCount | None, options: TrainerOptions) -> str:
    if count is None:
        return "none" if options.val_nsteps else "none (trainer.val_nsteps=0)"
    return f"{min(options.val_clips, count.total)} of {count.describe()}"


def _parameters(learner: Learner) -> str:
    counts = {
        "selector": (learner.train_gaze, learner.model),
        "judge": (learner.train_task, learner.task),
    }
    return ", ".join(
        f"{sum(p.numel() for p in module.parameters() if p.requires_grad):,} weights of the {name}"
        for name, (learns, module) in counts.items()
        if learns
    )


def _device(accelerator: "Accelerator") -> str:
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    processes = accelerator.num_processes
    return f"{accelerator.device}, {precision}" + (
        f", {processes} processes" if processes > 1 else ""
    )
