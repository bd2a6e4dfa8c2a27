"""Validation: how well the selector serves the task on clips that it does not learn from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.clips import frame_caps
from autogaze.datasets.clip import ClipKey, UnreadableClip
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.models.autogaze.limits import GazeSettings, draw_settings
from autogaze.models.autogaze.processing import normalise
from autogaze.tasks.pictures import task_picture
from autogaze.training.algorithms import drawn_gaze
from autogaze.training.config import TrainerOptions
from autogaze.training.loader import ListSampler, Moment, Place, PlacedBatch, make_loader
from autogaze.training.losses import BatchCounts, Learner
from autogaze.training.rollouts import random_gaze, shuffled
from autogaze.training.step import check_share, report
from autogaze.utils.seeding import seeded

if TYPE_CHECKING:
    from accelerate import Accelerator

Show = Callable[[str, np.ndarray], None]
"""Takes the name of a picture, and the picture."""


@dataclass(frozen=True)
class Setting:
    """How much may be gazed at.

    Attributes:
        suffix: of the metrics' names: `@0.05`, or nothing for what the config says.
        ratio: of every frame; None: what the config says.
    """

    suffix: str = ""
    ratio: float | None = None


class Validation:
    """At most `val_clips` clips of a dataset, drawn once and for all, whatever the seed is.

    Gazes are those that the model makes when it is used: its likeliest patches, with the
    ratio and threshold that its config has for inference, and once more with each of
    `val_ratios`. Random ones for `dummy`.

    Args:
        max_unreadable: share of the clips that may be unreadable.
    """

    def __init__(
        self,
        learner: Learner,
        clips: Dataset,
        options: TrainerOptions,
        accelerator: "Accelerator",
        max_unreadable: float = 0.05,
    ) -> None:
        self.learner, self.clips, self.accelerator = learner, clips, accelerator
        self.options, self.max_unreadable = options, max_unreadable
        self.moment = Moment(options.seed, 0, training=False)
        held = len(clips)  # type: ignore[arg-type]
        drawn = torch.randperm(held, generator=seeded("validation clips"))[: options.val_clips]
        self.places = [Place(i, ClipKey(0, number)) for i, number in enumerate(drawn.tolist())]
        ratios = [Setting(f"@{ratio:g}", ratio) for ratio in options.val_ratios]
        self.settings = [Setting(), *ratios]

    @torch.no_grad()
    def run(self, show: Show | None = None) -> dict[str, float]:
        """Metrics over all clips and processes; those of `val_ratios` end in `@ratio`.

        - `val/loss`: of the task, over all frames; beside it every term of a loss that has
          several, such as `val/l1` (see `TaskOutput.metrics`).
        - `val/shuffled_loss`, `val/random_loss`: its loss for gazes of other clips, and for
          random ones, at equal counts; where the gazes are a selector's.
        - `val/gazing_ratio`: gazed share of all patches.
        - `val/algorithm_loss`: what NTP minimises, where these clips have labels.
        - `val/unreadable`: clips that could not be read, where there are any.

        Raises:
            TrainingError: more of them than `max_unreadable` allows, or all of them.
        """
        self.learner.task.eval()
        means = ClipMeans()
        left = self.options.val_pictures if self.accelerator.is_main_process else 0
        unreadable: list[UnreadableClip] = []
        for batch in self._batches():
            unreadable += batch.clips.unreadable
            if not len(batch):
                continue
            for setting in self.settings:
                shown = show if left > 0 and not setting.suffix else None
                self._judge(batch, setting, means, shown, left)
            self._algorithm_loss(batch, means)
            left -= len(batch)
        self.learner.task.train()
        values = means.of_all() | self._check(unreadable)
        return {f"val/{name}": value for name, value in values.items()}

    def _check(self, unreadable: Sequence[UnreadableClip]) -> dict[str, float]:
        """Name this process's unreadable clips; how many all processes have, if any."""
        folder = Path(self.options.exp_folder) / self.options.exp_name
        if unreadable:
            report(unreadable, folder)
        own = torch.tensor([float(len(unreadable))], device=self.learner.device)
        reduced: Any = self.accelerator.reduce(own, reduction="sum")
        lost, seen = int(reduced.item()), len(self.places)
        if lost and lost == seen:
            first = f", such as {unreadable[0].name} ({unreadable[0].cause})" if unreadable else ""
            raise TrainingError(
                f"none of the {seen} clips to validate on could be read{first}; "
                f"{folder / 'unreadable.jsonl'} names them"
            )
        check_share(lost, seen, seen, self.max_unreadable)
        return {"unreadable": float(lost)} if lost else {}

    def _batches(self) -> Iterator[PlacedBatch]:
        """Micro-batches, of two clips at least, so that clips can swap their gazes.

        How they are divided does not depend on the number of processes, so neither do
        means within them.
        """
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        number, size = len(self.places), max(2, self.options.per_gpu_max_batch_size)
        parts = -(-number // size)
        if parts > 1 and number // parts < 2:
            parts -= 1
        ends = [part * number // parts for part in range(parts + 1)]
        slices = [self.places[a:b] for a, b in pairwise(ends)]
        sampler = ListSampler(slices[process::processes])
        return iter(make_loader(self.clips, sampler, self.options.num_workers))

    def _judge(
        self, batch: PlacedBatch, setting: Setting, means: "ClipMeans", show: Show | None, most: int
    ) -> None:
        """The task's metrics, the controls' losses, and a picture of at most `most` clips."""
        task, device = self.learner.task, self.learner.device
        rgb = batch.clips.rgb(device)
        gaze = self._gaze(batch, setting)
        output = task(rgb, gaze, range(gaze.num_frames))
        for metric in output.metrics():
            means.add(metric.name + setting.suffix, metric.values)
        if setting.ratio is None:
            means.add("gazing_ratio", gaze.lengths / gaze.pyramid.num_patches)
        if show is not None:
            picture = task_picture(rgb, gaze, output, max_clips=most, max_frames=6)
            show(f"clips-from-{batch.places[0]:04d}", picture.permute(1, 2, 0).numpy())
        if not self.learner.recipe.teaches:
            return
        generators = [self.moment.generator("random control", place) for place in batch.places]
        controls = {"random": random_gaze(gaze.pyramid, gaze.lengths, generators).to(device)}
        if len(batch) > 1:
            controls["shuffled"] = shuffled(gaze)
        for name, control in controls.items():
            losses = task(rgb, control, range(gaze.num_frames)).losses
            means.add(f"{name}_loss{setting.suffix}", losses)

    def _gaze(self, batch: PlacedBatch, setting: Setting) -> Gaze:
        """What the model gazes at; random patches for `dummy`."""
        model, device = self.learner.model, self.learner.device
        T, V = batch.clips.frames.shape[1], model.pyramid.num_patches
        if not self.learner.recipe.teaches:
            if setting.ratio is None:
                return drawn_gaze(model.config, batch.places, T, self.moment).to(device)
            lengths = torch.tensor([frame_caps(setting.ratio, T, V)] * len(batch))
            generators = [self.moment.generator("random gaze", place) for place in batch.places]
            return random_gaze(model.pyramid, lengths, generators).to(device)
        drawn = GazeSettings(setting.ratio, None)
        if setting.ratio is None:
            generator = self.moment.generator("settings")
            drawn = draw_settings(model.config, T, training=False, generator=generator)
        generation = model.generate(
            normalise(batch.clips.rgb(device)),
            caps=frame_caps(drawn.ratio, T, V),
            threshold=drawn.threshold,
        )
        return generation.to_gaze()

    def _algorithm_loss(self, batch: PlacedBatch, means: "ClipMeans") -> None:
        """Of algorithms that learn from labels, where there are any."""
        learner = self.learner
        if not (learner.recipe.needs_labels and batch.clips.labels):
            return
        lesson = learner.lesson(batch, self.moment)
        predicts = learner.recipe.options.optimize_task_loss_prediction
        if lesson is not None and not (predicts and lesson.losses is None):
            counts = BatchCounts(lesson.num_rows, lesson.num_gazes, lesson.num_known)
            means.add("algorithm_loss", learner.gaze_losses(lesson, counts)[0])


class ClipMeans:
    """Means over clips and processes, by name."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Count values in."""
        self._add(name, float(values.sum()), values.numel())

    def of_all(self) -> dict[str, float]:
        """The means over all processes, of what was counted in anywhere."""
        from accelerate.utils import gather_object

        together = ClipMeans()
        for sums in gather_object([self.sums]):
            for name, (total, count) in sums.items():
                together._add(name, total, count)
        return {name: total / count for name, (total, count) in together.sums.items()}

    def _add(self, name: str, total: float, count: int) -> None:
        before, counted = self.sums.get(name, (0.0, 0))
        self.sums[name] = before + total, counted + count
