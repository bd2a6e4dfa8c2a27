"""`autogaze calibrate`: a loss head whose early stopping meets its threshold on average."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autogaze.cli.command import DTYPE_HELP, Command, Device, PrintJson, Renamed
from autogaze.errors import OutputError, SelectorError, TrainingError, VideoError
from autogaze.utils.files import check_output_folder, replacing_folder

if TYPE_CHECKING:  # heavy, so imported where the work begins
    import torch
    from torch import Tensor

    from autogaze.models.autogaze.modeling import AutoGaze
    from autogaze.tasks.base import Task
    from autogaze.training.calibration import CalibrationReport


@dataclass(frozen=True)
class CalibrateCommand(Command):
    """Calibrate the loss head of learned weights, so that stopping thresholds are met on average."""

    weights: Annotated[
        str, typer.Argument(metavar="FOLDER|HUB-ID", help="Learned weights.", show_default=False)
    ]
    dataset: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Clips: a training's options of the group `dataset` (.yaml, .json), or all of its "
            "options (config.json).",
        ),
    ]
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The calibrated weights.")]
    metric: Annotated[
        str,
        typer.Option(
            metavar="canvas|FOLDER|HUB-ID",
            help="Metric whose loss is predicted: the canvas, or a VideoMAE's checkpoint.",
        ),
        Renamed("--judge", "--metric"),
    ] = "canvas"
    losses: Annotated[
        list[float] | None,
        typer.Option(
            "--loss",
            help="A stopping threshold that must be met on average; repeat for more.",
            show_default="0.01, 0.015, 0.02, 0.03, 0.05",
        ),
    ] = None
    split: Annotated[Literal["train", "val"], typer.Option(help="Which clips.")] = "train"
    clips: Annotated[int, typer.Option(min=1, help="Number of clips, drawn at random.")] = 96
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0
    default_loss: Annotated[
        float | None,
        typer.Option(
            help="Default stopping threshold, written to the config.", show_default="as it was"
        ),
    ] = None
    inhibition_of_return: Annotated[
        float | None,
        typer.Option(
            metavar="CHANGE",
            help="Inhibition of return, written to the config: mean change of a gazed patch's "
            "pixels, in [0, 1], from which it counts as new.",
            show_default="as it was",
        ),
    ] = None
    half: Annotated[
        bool,
        typer.Option("--half", help="Round all weights to float16 first, and write them so."),
    ] = False
    decoder: Annotated[
        Literal["auto", "pyav", "torchcodec", "opencv"] | None,
        typer.Option(
            help="What decodes the videos of --dataset; auto is pyav where it is installed, else opencv.",
            show_default="as it says",
        ),
    ] = None
    device: Device = "auto"
    dtype: Annotated[
        str,
        typer.Option(
            help=f"{DTYPE_HELP} In which the weights gaze meanwhile; they are written in float32, or as "
            "--half says, and losses are measured in float32."
        ),
    ] = "float32"
    json: PrintJson = False

    def __post_init__(self) -> None:
        if self.out.exists():
            raise OutputError(f"--out {self.out}: exists; name a new folder")
        check_output_folder(self.out, "--out")

    def run(self) -> None:
        from autogaze.training.calibration import CalibrationOptions, calibrate, num_passes
        from autogaze.utils.device import DeviceOptions
        from autogaze.utils.progress import ProgressBar

        place = DeviceOptions.parse(self.device, self.dtype)
        options = CalibrationOptions(seed=self.seed)
        if self.losses:
            options = CalibrationOptions(tuple(sorted(set(self.losses))), seed=self.seed)
        model = self._load_model(place.device)
        task, clips = self._load_task_and_clips(model)
        with ProgressBar(num_passes(len(clips), options), "passes", "calibrating") as bar:
            report = calibrate(model, task, clips, options, bar.advance, place.dtype)
        found = {**asdict(report), "thresholds": options.thresholds, "dtype": self.dtype}
        self._save(model, {**found, **self._recipe(len(clips))})
        if self.json:
            print(json.dumps({**found, "out": str(self.out)}))
        else:
            self._print(report, len(clips), options.thresholds)

    def _recipe(self, num_clips: int) -> dict[str, Any]:
        """What was calibrated, with which clips, as JSON."""
        return {
            "weights": self.weights,
            "dataset": str(self.dataset),
            "split": self.split,
            "clips": num_clips,
            "metric": self.metric,
            "seed": self.seed,
        }

    def _load_model(self, device: "torch.device") -> "AutoGaze":
        """The model in float32, with the options that go into its config.

        Raises:
            AutoGazeError: no learned weights, or options out of range.
        """
        import torch

        from autogaze.clips import check_loss
        from autogaze.models.autogaze.configuration import check_inhibition
        from autogaze.selectors import registry
        from autogaze.selectors.learned import Learned

        selector = registry.load(self.weights, device=device)
        if not isinstance(selector, Learned):
            raise SelectorError(f"{self.weights}: has no loss head, it is no learned selector")
        model = selector.model.to(device, torch.float32)  # type: ignore[arg-type]
        config = model.config
        if self.default_loss is not None:
            check_loss(self.default_loss)
            stop = config.task_loss_requirement_config
            stop["fixed"] = {"task_loss_requirement": self.default_loss}
            stop["sample_strategy_during_inference"] = "fixed"
            config.has_task_loss_requirement_during_inference = True
            # No cap besides, so that AutoGaze's own call also stops at this threshold.
            config.gazing_ratio_each_frame_config["sample_strategy_during_inference"] = "self"
        if self.inhibition_of_return is not None:
            check_inhibition(self.inhibition_of_return)
            config.inhibition_of_return = self.inhibition_of_return
        return model.half().float() if self.half else model

    def _load_task_and_clips(self, model: "AutoGaze") -> "tuple[Task, list[Tensor]]":
        """The task that measures losses, and decoded clips, (T, 3, S, S) uint8.

        Raises:
            AutoGazeError: no such metric, one of other patches, or no clips.
        """
        import torch

        from autogaze.datasets.clip import ClipKey, UnreadableClip
        from autogaze.tasks import CANVAS, load_metric
        from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
        from autogaze.training.mixture import DatasetFile, read_dataset, with_decoder
        from autogaze.utils.seeding import seeded

        task: Task = CanvasReconstruction(model.pyramid)
        if self.metric != CANVAS:
            task = load_metric(self.metric)
        if task.pyramid != model.pyramid:
            raise TrainingError(
                f"{self.weights} chooses from {model.pyramid}, --metric {self.metric} measures "
                f"{task.pyramid}"
            )
        _, options, its_seed = DatasetFile.load(self.dataset)
        options = _plain(options)
        if self.decoder is not None:
            try:
                options = with_decoder(options, self.decoder)
            except TrainingError as error:
                raise TrainingError(f"--decoder {self.decoder}: {self.dataset}: {error}") from error
        dataset = read_dataset(options)
        found = dataset.clips(self.split, model.pyramid, its_seed or 0)
        generator = seeded("calibration clips", self.seed)
        order = torch.randperm(len(found), generator=generator)  # type: ignore[arg-type]
        read = [found[ClipKey(0, number)] for number in order[: self.clips].tolist()]
        clips = [clip.frames for clip in read if not isinstance(clip, UnreadableClip)]
        if not clips:
            raise VideoError(
                f"{self.dataset}: none of {len(read)} clips of {self.split} could be read"
            )
        return task.to(model.device).eval(), clips

    def _save(self, model: "AutoGaze", found: Mapping[str, Any]) -> None:
        """Write the folder, whole or not at all: the weights, and how they were calibrated.

        Raises:
            OutputError: it cannot be written.
        """
        from autogaze.training.checkpoints import SAVE_ERRORS, save_gaze
        from autogaze.utils.files import write_json

        try:
            with replacing_folder(self.out) as temporary:
                save_gaze(model.half() if self.half else model, temporary)
                write_json(temporary / "calibration.json", dict(found))
        except SAVE_ERRORS as error:
            raise OutputError(f"--out {self.out}: cannot be written: {error}") from error

    def _print(
        self, report: "CalibrationReport", num_clips: int, thresholds: tuple[float, ...]
    ) -> None:
        before, after = report.error_before, report.error_after
        print(f"clips                  {num_clips}")
        print(f"precision              {self.dtype}")
        print(f"relative error         {before:.2f} before, {after:.2f} after")
        print(f"predictions            x {report.scale:.3f} {report.offset:+.4f}")
        print("actual / threshold - 1 on these clips, before and after")
        for threshold, first, last in zip(
            thresholds, report.excess[0], report.excess[-1], strict=True
        ):
            print(f"  at {threshold:<18g} {100 * first:+.0f} %, {100 * last:+.0f} %")
        print(f"out                    {self.out}")


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a dataset without labels and cache, since few clips are read, once each."""
    plain = {name: v for name, v in options.items() if name not in ("greedy_labels", "cache")}
    if isinstance(parts := plain.get("parts"), Mapping):
        plain["parts"] = {
            name: _plain(part) if isinstance(part, Mapping) else part
            for name, part in parts.items()
        }
    return plain
