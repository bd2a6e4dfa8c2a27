"""Validation: how well the selector serves the task on clips that it does not learn from."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from autogaze.datasets.clip import ClipKey
from autogaze.gaze import Gaze
from autogaze.models.autogaze.processing import normalise
from autogaze.models.autogaze.settings import draw_settings
from autogaze.selectors.base import frame_caps
from autogaze.tasks.pictures import task_picture
from autogaze.training.learner import BatchCounts, Learner
from autogaze.training.lesson import Lesson
from autogaze.training.loader import ListSampler, Place, PlacedBatch, make_loader
from autogaze.training.moment import Moment
from autogaze.training.options import TrainerOptions

if TYPE_CHECKING:
    from accelerate import Accelerator

Show = Callable[[str, np.ndarray], None]
"""Takes the name of a picture, and the picture."""


class Validation:
    """The first `val_clips` clips of a dataset, the same every time.

    Gazes are those that the model makes when it is used: its likeliest patches, with the
    ratio and threshold that its config has for inference (random ones for `dummy`).
    """

    def __init__(
        self,
        learner: Learner,
        clips: Dataset,
        options: TrainerOptions,
        accelerator: "Accelerator",
    ) -> None:
        self.learner, self.clips, self.accelerator = learner, clips, accelerator
        self.options = options
        number = min(options.val_clips, len(clips))  # type: ignore[arg-type]
        self.places = [Place(place, ClipKey(0, place)) for place in range(number)]

    @torch.no_grad()
    def run(self, show: Show | None = None) -> dict[str, float]:
        """Metrics over all clips and processes.

        - `val_task_loss`: of the task, over all frames.
        - `val_gazing_ratio`: gazed share of all patches.
        - `val_algorithm_loss`: what training minimises, where these clips allow it.
        """
        self.learner.task.eval()
        sums = torch.zeros(6, dtype=torch.float64)
        left = self.options.val_pictures if self.accelerator.is_main_process else 0
        for batch in self._batches():
            if not len(batch):
                continue
            gaze, lesson = self._gaze(batch)
            rgb = batch.clips.rgb(self.learner.device)
            output = self.learner.task(rgb, gaze, range(gaze.num_frames))
            sums[0] += float(output.losses.sum())
            sums[1] += output.losses.numel()
            sums[2] += gaze.num_patches
            sums[3] += gaze.lengths.numel() * gaze.pyramid.num_patches
            if lesson is not None and self.learner.train_gaze:
                counts = BatchCounts(lesson.num_rows, lesson.num_gazes, lesson.num_known)
                losses = self.learner.losses(lesson, counts).gaze
                if losses is not None:
                    sums[4] += float(losses.sum())
                    sums[5] += losses.numel()
            if left > 0 and show is not None:
                picture = task_picture(rgb, gaze, output, max_clips=left, max_frames=6)
                show(f"clips-from-{batch.places[0]:04d}", picture.permute(1, 2, 0).numpy())
            left -= len(batch)
        self.learner.task.train()
        on_device = sums.to(self.learner.device, torch.float32)  # not every device has float64
        total = self.accelerator.reduce(on_device, reduction="sum").tolist()  # type: ignore[union-attr]
        metrics = {}
        if total[1]:
            metrics["val_task_loss"] = total[0] / total[1]
            metrics["val_gazing_ratio"] = total[2] / total[3]
        if total[5]:
            metrics["val_algorithm_loss"] = total[4] / total[5]
        return metrics

    def _batches(self) -> Iterator[PlacedBatch]:
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        size = self.options.per_gpu_max_batch_size
        # Whole micro-batches, so that means within them do not depend on who makes them.
        parts = [self.places[start : start + size] for start in range(0, len(self.places), size)]
        sampler = ListSampler(parts[process::processes])
        return iter(make_loader(self.clips, sampler, self.options.num_workers))

    def _gaze(self, batch: PlacedBatch) -> tuple[Gaze, Lesson | None]:
        """What the model gazes at, and the algorithm's lesson where it can make one."""
        learner = self.learner
        moment = Moment(self.options.seed, 0, training=False)
        recipe, model = learner.recipe, learner.model
        lesson = None
        if not recipe.needs_labels or batch.clips.labels is not None:
            lesson = learner.lesson(batch, moment)
        if not recipe.teaches:
            assert lesson is not None
            return lesson.rows.gaze(), None
        video = batch.clips.rgb(learner.device)
        num_frames = video.shape[1]
        drawn = draw_settings(
            model.config, num_frames, training=False, generator=moment.generator("settings")
        )
        generation = model.generate(
            normalise(video),
            caps=frame_caps(drawn.ratio, num_frames, model.pyramid.num_patches),
            threshold=drawn.threshold,
        )
        return generation.to_gaze(), lesson
