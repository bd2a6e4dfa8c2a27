"""The work of `autogaze calibrate`: clips read, a loss head mended, a folder written."""

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.cli.progress import progress_bar
from autogaze.clips import check_loss
from autogaze.datasets.clip import ClipKey, UnreadableClip
from autogaze.errors import OutputError, SelectorError, TrainingError, VideoError
from autogaze.models.autogaze.configuration import check_inhibition
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.selectors import registry
from autogaze.selectors.learned import Learned
from autogaze.tasks.base import Task
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.tasks.metrics import CANVAS, load_metric
from autogaze.training.calibration import (
    CalibrationOptions,
    CalibrationReport,
    calibrate,
    num_passes,
)
from autogaze.training.checkpoints import CANNOT_SAVE, save_gaze
from autogaze.training.clip_sources import SourceFile, read_source
from autogaze.utils.device import Place
from autogaze.utils.seeding import seeded


@dataclass(frozen=True, eq=False)
class Calibrating:
    """Which weights are calibrated, by whom, on what.

    Attributes:
        clips: decoded.
        out: a folder that does not exist yet.
        half: whether it gets float16; `model` is then rounded to it already.
    """

    model: AutoGaze
    task: Task
    clips: Sequence[UInt8[Tensor, "T 3 S S"]]
    options: CalibrationOptions
    out: Path
    half: bool = False

    @classmethod
    def parse(
        cls,
        *,
        weights: str,
        dataset: Path,
        out: Path,
        judge: str,
        losses: tuple[float, ...],
        split: str,
        clips: int,
        seed: int,
        default_loss: float | None,
        inhibition_of_return: float | None,
        half: bool,
        device: str,
    ) -> "Calibrating":
        """From what the command line says.

        Raises:
            AutoGazeError: weights, clips or a judge that cannot be had or do not go together,
                or a folder that cannot be written.
        """
        if out.exists():
            raise OutputError(f"--out {out}: is there already; name a new folder")
        if not out.parent.is_dir():
            raise OutputError(f"--out {out}: the folder {out.parent} does not exist")
        options = CalibrationOptions(seed=seed)
        if losses:
            options = CalibrationOptions(tuple(sorted(set(losses))), seed=seed)
        place = Place.parse(device, "float32")
        selector = registry.load(weights)
        if not isinstance(selector, Learned):
            raise SelectorError(f"{weights}: has no loss head, it is no learned selector")
        model = selector.model.to(place.device, torch.float32)  # type: ignore[call-overload]
        if default_loss is not None:
            check_loss(default_loss)
            stop = model.config.task_loss_requirement_config
            stop["fixed"] = {"task_loss_requirement": default_loss}
            stop["sample_strategy_during_inference"] = "fixed"
            model.config.has_task_loss_requirement_during_inference = True
            # No cap besides: the call that AutoGaze's users know stops there, too.
            model.config.gazing_ratio_each_frame_config["sample_strategy_during_inference"] = "self"
        if inhibition_of_return is not None:
            check_inhibition(inhibition_of_return)
            model.config.inhibition_of_return = inhibition_of_return
        if half:
            model.half().float()
        _, options_there, its_seed = SourceFile.load(dataset)
        source = read_source(_plain(options_there))
        task: Task = CanvasReconstruction(model.pyramid)
        if judge != CANVAS:
            task = load_metric(judge)
        if task.pyramid != model.pyramid:
            raise TrainingError(
                f"{weights} chooses from {model.pyramid}, --judge {judge} judges {task.pyramid}"
            )
        found = source.clips(split, model.pyramid, its_seed or 0)
        order = torch.randperm(len(found), generator=seeded("calibration clips", seed))  # type: ignore[arg-type]
        read = [found[ClipKey(0, number)] for number in order[:clips].tolist()]
        frames = [clip.frames for clip in read if not isinstance(clip, UnreadableClip)]
        if not frames:
            raise VideoError(f"{dataset}: none of {len(read)} clips of {split} could be read")
        return cls(model, task.to(place.device).eval(), frames, options, out, half)

    def run(self) -> CalibrationReport:
        """Calibrate and write; the folder appears when it is whole.

        Raises:
            OutputError: it cannot be written.
        """
        passes = num_passes(len(self.clips), self.options)
        with progress_bar("calibrating", passes, "passes") as advance:
            report = calibrate(self.model, self.task, self.clips, self.options, advance)
        temporary = self.out.with_name(f".{self.out.name}.{secrets.token_hex(4)}.part")
        try:
            save_gaze(self.model.half() if self.half else self.model, temporary)
            temporary.rename(self.out)
        except CANNOT_SAVE as error:
            raise OutputError(f"--out {self.out}: cannot be written: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return report


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a dataset whose few clips are read once: neither labelled nor kept."""
    plain = {n: v for n, v in options.items() if n not in ("greedy_labels", "cache")}
    if isinstance(parts := plain.get("parts"), Mapping):
        plain["parts"] = {
            name: _plain(part) if isinstance(part, Mapping) else part
            for name, part in parts.items()
        }
    return plain


def print_report(report: CalibrationReport, job: Calibrating, as_json: bool) -> None:
    """Print it on stdout."""
    if as_json:
        print(
            json.dumps(
                {**asdict(report), "thresholds": job.options.thresholds, "out": str(job.out)}
            )
        )
        return
    print(f"clips                  {len(job.clips)}")
    print(
        f"relative error         {report.error_before:.2f} before, {report.error_after:.2f} after"
    )
    print(f"predictions            x {report.scale:.3f} {report.offset:+.4f}")
    print("actual / threshold - 1 on these clips, before that and after")
    for place, threshold in enumerate(job.options.thresholds):
        first, last = report.excess[0][place], report.excess[-1][place]
        print(f"  at {threshold:<18g} {100 * first:+.0f} %, {100 * last:+.0f} %")
    print(f"out                    {job.out}")
