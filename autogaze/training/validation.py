"""Validation: losses of the selector's gazes, and of control gazes, on clips not trained on."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.clips import frame_caps
from autogaze.datasets.clip import ClipBatch, ClipKey, UnreadableClip, extra_to
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.limits import GazeSettings, draw_settings
from autogaze.tasks.pictures import task_picture
from autogaze.training.config import TrainerOptions
from autogaze.training.loader import (
    BatchItem,
    StepContext,
    check_unreadable,
    make_loader,
    report_unreadable,
)
from autogaze.training.rollouts import BatchCounts, drawn_gaze, random_gaze, shuffled
from autogaze.training.step import Objective
from autogaze.utils.seeding import seeded

if TYPE_CHECKING:
    from accelerate import Accelerator

SavePicture = Callable[[str, np.ndarray], None]
"""Takes the name of a picture, and the picture."""


class Validation:
    """Validation on at most `val_clips` clips of a dataset, the same for every seed.

    Gazes are decoded greedily, with the ratio and threshold that the model's config has for
    inference, and once more with each of `val_ratios`. For `dummy` they are random.

    Args:
        max_unreadable: share of the clips that may be unreadable.
    """

    def __init__(
        self,
        objective: Objective,
        clips: Dataset,
        options: TrainerOptions,
        accelerator: "Accelerator",
        max_unreadable: float = 0.05,
    ) -> None:
        self.objective, self.clips, self.accelerator = objective, clips, accelerator
        self.options, self.max_unreadable = options, max_unreadable
        self.context = StepContext(options.seed, 0, training=False)
        number = len(clips)  # type: ignore[arg-type]
        drawn = torch.randperm(number, generator=seeded("validation clips"))[: options.val_clips]
        self.items = [BatchItem(i, ClipKey(0, clip)) for i, clip in enumerate(drawn.tolist())]

    @torch.no_grad()
    def run(self, save_picture: SavePicture | None = None) -> dict[str, float]:
        """Metrics over all clips and processes; those of `val_ratios` end in `@ratio`.

        - `val/loss`: of the task, over all frames; beside it every term of a loss that has
          several, such as `val/l1` (see `TaskOutput.metrics`).
        - `val/shuffled_loss`, `val/random_loss`: for gazes of other clips, and for random ones,
          with equal counts; where the gazes are a selector's.
        - `val/gazing_ratio`: gazed share of all patches.
        - `val/algorithm_loss`: what NTP minimises, where these clips have labels.
        - `val/unreadable`: number of clips that could not be read, where there are any.

        Raises:
            TrainingError: more of them than `max_unreadable` allows, or all of them.
        """
        self.objective.task.eval()
        means = ClipMeans()
        pictures = self.options.val_pictures if self.accelerator.is_main_process else 0
        unreadable: list[UnreadableClip] = []
        for batch in self._batches():
            unreadable += batch.unreadable
            if not len(batch):
                continue
            for ratio in (None, *self.options.val_ratios):
                save = save_picture if pictures > 0 and ratio is None else None
                self._measure(batch, ratio, means, save, pictures)
            self._algorithm_loss(batch, means)
            pictures -= len(batch)
        self.objective.task.train()
        values = means.over_processes() | self._count_unreadable(unreadable)
        return {f"val/{name}": value for name, value in values.items()}

    def _batches(self) -> Iterator[ClipBatch]:
        """Micro-batches, of two clips at least, so that clips can swap their gazes.

        How they are divided does not depend on the number of processes, so neither do
        means within them.
        """
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        number, size = len(self.items), max(2, self.options.per_gpu_max_batch_size)
        parts = -(-number // size)
        if parts > 1 and number // parts < 2:
            parts -= 1
        ends = [part * number // parts for part in range(parts + 1)]
        slices = [self.items[a:b] for a, b in pairwise(ends)]
        workers, device = self.options.num_workers, self.objective.device
        return iter(make_loader(self.clips, slices[process::processes], workers, device=device))

    def _measure(
        self,
        batch: ClipBatch,
        ratio: float | None,
        means: "ClipMeans",
        save_picture: SavePicture | None,
        most: int,
    ) -> None:
        """The task's metrics, the controls' losses, and a picture of at most `most` clips.

        Args:
            ratio: of every frame; None for what the model's config says.
        """
        task, device = self.objective.task, self.objective.device
        suffix = "" if ratio is None else f"@{ratio:g}"
        rgb = batch.rgb(device)
        gaze = self._gaze(batch, ratio)
        extra = extra_to(batch.extra, device)
        output = task(rgb, gaze, range(gaze.num_frames), extra)
        for name, values in output.metrics().items():
            means.add(name + suffix, values)
        if ratio is None:
            means.add("gazing_ratio", gaze.lengths / gaze.pyramid.num_patches)
        if save_picture is not None:
            picture = task_picture(rgb, gaze, output, max_clips=most, max_frames=6)
            save_picture(f"clips-from-{batch.indices[0]:04d}", picture)
        if not self.objective.algorithm.trains_selector:
            return
        generators = [self.context.generator("random control", i) for i in batch.indices]
        controls = {"random": random_gaze(gaze.pyramid, gaze.lengths, generators).to(device)}
        if len(batch) > 1:
            controls["shuffled"] = shuffled(gaze)
        for name, control in controls.items():
            losses = task(rgb, control, range(gaze.num_frames), extra).losses
            means.add(f"{name}_loss{suffix}", losses)

    def _gaze(self, batch: ClipBatch, ratio: float | None) -> Gaze:
        """The model's gaze; random patches for `dummy`."""
        model, device = self.objective.model, self.objective.device
        T, V = batch.frames.shape[1], model.pyramid.num_patches
        if not self.objective.algorithm.trains_selector:
            if ratio is None:
                return drawn_gaze(model.config, batch.indices, T, self.context).to(device)
            lengths = torch.tensor([frame_caps(ratio, T, V)] * len(batch))
            generators = [self.context.generator("random gaze", i) for i in batch.indices]
            return random_gaze(model.pyramid, lengths, generators).to(device)
        drawn = GazeSettings(ratio, None)
        if ratio is None:
            generator = self.context.generator("settings")
            drawn = draw_settings(model.config, T, training=False, generator=generator)
        generation = model.generate(
            normalise(batch.rgb(device)),
            caps=frame_caps(drawn.ratio, T, V),
            threshold=drawn.threshold,
        )
        return generation.to_gaze()

    def _algorithm_loss(self, batch: ClipBatch, means: "ClipMeans") -> None:
        """Of algorithms that learn from labels, where there are any."""
        objective = self.objective
        if not (objective.algorithm.needs_labels and (batch.labels or batch.pending)):
            return
        rollouts = objective.rollouts(batch, self.context)
        predicts = objective.algorithm.options.optimize_task_loss_prediction
        if rollouts is not None and not (predicts and rollouts.losses is None):
            values = objective.gaze_values(rollouts, BatchCounts.of([rollouts]))
            means.add("algorithm_loss", values.losses["loss"])

    def _count_unreadable(self, unreadable: Sequence[UnreadableClip]) -> dict[str, float]:
        """Report this process's unreadable clips; the number of all processes, if any."""
        report_unreadable(unreadable, self.options.folder)
        own = torch.tensor([float(len(unreadable))], device=self.objective.device)
        reduced: Any = self.accelerator.reduce(own, reduction="sum")
        count, seen = int(reduced.item()), len(self.items)
        if count and count == seen:
            first = f", such as {unreadable[0].name} ({unreadable[0].cause})" if unreadable else ""
            raise TrainingError(
                f"none of the {seen} clips to validate on could be read{first}; "
                f"{self.options.folder / 'unreadable.jsonl'} lists them"
            )
        check_unreadable(count, seen, seen, self.max_unreadable)
        return {"unreadable": float(count)} if count else {}


class ClipMeans:
    """Means over clips and processes, by name."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def add(self, name: str, values: Tensor) -> None:
        """Add values to the mean of a name."""
        total, count = self.sums[name]
        self.sums[name] = total + float(values.sum()), count + values.numel()

    def over_processes(self) -> dict[str, float]:
        """The means over what all processes added."""
        from accelerate.utils import gather_object

        parts: list[dict[str, tuple[float, int]]] = gather_object([dict(self.sums)])
        means = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            totals, counts = zip(*(part[name] for part in parts if name in part), strict=True)
            means[name] = sum(totals, 0.0) / sum(counts)
        return means
