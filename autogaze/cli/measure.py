"""`autogaze measure`: reconstruction losses of a saved gaze, per frame and in all."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autogaze.cli.command import Command, Decoder, Device, Dtype, PrintJson, Renamed
from autogaze.cli.report import facts_table, figures_table, print_json, results_console
from autogaze.errors import AutoGazeError, GeometryError, OutputError, VideoError
from autogaze.utils.files import all_or_none, check_output, replacing

if TYPE_CHECKING:  # heavy, so imported where the work begins
    import torch
    from torch import Tensor

    from autogaze.gaze import Gaze
    from autogaze.pipeline import GazedChunk, GazedVideo
    from autogaze.tasks.base import TaskOutput
    from autogaze.tasks.video_mae import VideoMAETask
    from autogaze.utils.device import DeviceOptions

CANVAS = "canvas"
RECONSTRUCTIONS = {CANVAS: CANVAS, "reconstruction": "VideoMAE"}
"""Reconstructions of a frame, as JSON and as tables name them: a VideoMAE's is there if one is asked for."""

UNITS = ("l1", "loss")
"""Of errors: mean |picture - frame| in [0, 1], and the VideoMAE's own loss."""

MAX_CLIPS = 4
"""Clips that are reconstructed at once."""

TOLERANCE = 1e-3
"""Largest difference of canvas losses of the same frames between machines and decoders."""


@dataclass(frozen=True)
class MeasureCommand(Command):
    """Measure reconstruction losses of a saved gaze, on the canvas and by a VideoMAE."""

    video: Annotated[str, typer.Argument(metavar="VIDEO", help="What was gazed at.")]
    gaze: Annotated[
        Path, typer.Argument(metavar="GAZE_FILE", help="What `autogaze gaze VIDEO --out` wrote.")
    ]
    metric: Annotated[
        str,
        typer.Option(
            metavar="canvas|FOLDER|HUB-ID",
            help="The canvas alone, or besides it a VideoMAE's checkpoint.",
        ),
        Renamed("--judge", "--metric"),
    ] = CANVAS
    loss_type: Annotated[
        str,
        typer.Option(
            help="Terms of a VideoMAE's loss, e.g. l1+efficientnet; their networks must be "
            "installed, or are fetched from the hub."
        ),
    ] = "l1"
    loss_weights: Annotated[
        str | None,
        typer.Option(help="A weight for each, e.g. 1+0.3.", show_default="1, for one term"),
    ] = None
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Up to eight frames of the first chunk (.png): the frame, its gaze, and its "
            "reconstruction.",
        ),
    ] = None
    stream: Annotated[
        int | None,
        typer.Option(
            help="Number of the video stream that was gazed at, from 0.",
            show_default="the one that the gaze names",
            min=0,
        ),
    ] = None
    decoder: Decoder = "auto"
    device: Device = "auto"
    dtype: Dtype = "float32"
    json: PrintJson = False

    def __post_init__(self) -> None:
        of_video_mae = (self.loss_type, self.loss_weights, self.dtype)
        if self.metric == CANVAS and of_video_mae != ("l1", None, "float32"):
            raise AutoGazeError(
                "--loss-type, --loss-weights and --dtype are for a VideoMAE, the canvas is computed in "
                "float32; name one with --metric"
            )
        if self.picture is not None:
            check_output(self.picture, ".png", "--picture")
            inputs = (os.path.realpath(self.video), os.path.realpath(self.gaze))
            if os.path.realpath(self.picture) in inputs:
                raise OutputError(
                    f"--picture {self.picture}: is the input itself, choose another file"
                )

    def run(self) -> None:
        import torch

        from autogaze.gaze import Gaze
        from autogaze.utils.device import DeviceOptions, trim_memory
        from autogaze.utils.progress import ProgressBar

        options = DeviceOptions.parse(self.device, self.dtype)
        video = self._open(options.device)
        task = None if self.metric == CANVAS else self._load_task(video).to(options.device)
        found = []
        num_clips = video.gaze.num_clips * video.num_chunks
        # A picture is kept only if all frames turn out to be those of the gaze.
        with all_or_none(), ProgressBar(num_clips, "clips", "measuring") as bar:
            for number, chunk in enumerate(video):
                parts = []
                for start in range(0, chunk.gaze.num_clips, MAX_CLIPS):
                    frames = chunk.frames[start : start + MAX_CLIPS]
                    tiles = range(start, start + len(frames))
                    gaze = Gaze.cat_clips([chunk.gaze[tile] for tile in tiles])
                    errors, output = measure_clips(frames, gaze, task, options)
                    parts.append(errors)
                    if self.picture is not None and number == start == 0:
                        draw(self.picture, frames, gaze, output)
                    bar.advance(len(tiles))
                found.append(torch.cat(parts, dim=2))
                check_frames(video, chunk, found[-1][0, 0])
                trim_memory()
        report = self._report(video, task, torch.cat(found, dim=3))
        if self.json:
            print_json(report)
        else:
            print_report(report)

    def _open(self, device: "torch.device") -> "GazedVideo":
        """The video with its saved gaze; errors name the one of the two files that they are about."""
        from autogaze.gaze import Gaze
        from autogaze.pipeline import GazedVideo

        gaze = Gaze.load(self.gaze)
        try:
            return GazedVideo(
                self.video, gaze, stream=self.stream, decoder=self.decoder, device=device
            )
        except VideoError:
            raise
        except AutoGazeError as error:
            raise type(error)(f"{self.gaze}: {error}") from error

    def _load_task(self, video: "GazedVideo") -> "VideoMAETask":
        """The VideoMAE, in evaluation mode.

        Raises:
            CheckpointError: no VideoMAE there.
            GeometryError: one of other patches, or of shorter clips.
        """
        from autogaze.tasks import check_metric
        from autogaze.tasks.video_mae import VideoMAETask

        check_metric(self.metric)
        weights = self.loss_weights
        if weights is None and "+" not in self.loss_type:
            weights = "1"
        task = VideoMAETask.from_checkpoint(
            self.metric, loss_type=self.loss_type, loss_weights=weights
        )
        gaze, most = video.gaze, task.mae.config.max_num_frames
        if task.pyramid != gaze.pyramid:
            raise GeometryError(
                f"{self.gaze}: chosen from {gaze.pyramid}, but --metric {self.metric} "
                f"reconstructs from {task.pyramid}"
            )
        if (longest := max(part.stop - part.start for part in video.source.chunks)) > most:
            raise GeometryError(
                f"{self.gaze}: was made in chunks of {longest} frames, but --metric "
                f"{self.metric} knows at most {most}"
            )
        return task.eval()

    def _report(
        self, video: "GazedVideo", task: "VideoMAETask | None", errors: "Tensor"
    ) -> dict[str, Any]:
        """The report, from the errors of all frames of all tiles, (reconstructions, units, tiles, T)."""
        gaze, source = video.gaze, video.source
        tiles, kept = source.tiles, gaze.lengths
        return {
            "video": self.video,
            "gaze": str(self.gaze),
            "metric": self.metric,
            "judge": self.metric,  # its former name
            **(task.losses.recipe if task else {}),
            "dtype": self.dtype,
            "decoder": video.decoded_by,
            "width": tiles.width,
            "height": tiles.height,
            "tiles": (tiles.columns, tiles.rows),
            "side": tiles.side,
            "chunk": source.chunk,
            "num_frames": gaze.num_frames,
            "num_kept": gaze.num_patches,
            "ratio": gaze.ratio,
            "mean": by_reconstruction(errors.mean((2, 3))),
            "largest": by_reconstruction(errors.amax((2, 3))),
            "clips": [
                {
                    "tile": tile,
                    "first_frame": source.frame_indices[chunk.start],
                    "num_frames": chunk.stop - chunk.start,
                    "num_kept": int(kept[tile, chunk].sum()),
                    "mean": by_reconstruction(errors[:, :, tile, chunk].mean(-1)),
                }
                for chunk in source.chunks
                for tile in range(gaze.num_clips)
            ],
            "frames": [
                {
                    "frame": source.frame_indices[place],
                    "seconds": source.timestamps[place],
                    "num_kept": int(kept[:, place].sum()),
                    "mean": by_reconstruction(errors[..., place].mean(-1)),
                }
                for place in range(gaze.num_frames)
            ],
        }


def measure_clips(
    frames: "Tensor", gaze: "Gaze", task: "VideoMAETask | None", options: "DeviceOptions"
) -> "tuple[Tensor, TaskOutput]":
    """Errors of some clips, (reconstructions, units, B, T), and the output of the last task.

    Args:
        frames: (B, T, 3, S, S) uint8.
        gaze: of these frames.
        task: None for the canvas alone.
        options: where they are measured, and the precision of the task's networks; the canvas and all
            losses are float32.
    """
    import torch

    from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
    from autogaze.utils.device import autocast

    every = range(gaze.num_frames)
    with torch.inference_mode():
        real = frames.to(options.device).float() / 255
        canvas = CanvasReconstruction(gaze.pyramid)(real, gaze, every)
        if task is None:
            return canvas.losses[None, None].cpu(), canvas
        with autocast(options):
            output = task(real, gaze, every)
            in_its_unit = task.losses(canvas.reconstruction, real)[0]
        l1 = (output.reconstruction - real).abs().mean((2, 3, 4))
        of_canvas = torch.stack([canvas.losses, in_its_unit])
        return torch.stack([of_canvas, torch.stack([l1, output.losses])]).cpu(), output


def draw(path: Path, frames: "Tensor", gaze: "Gaze", output: "TaskOutput") -> None:
    """Write the picture of some clips, of (B, T, 3, S, S) uint8 frames."""
    from PIL import Image

    from autogaze.tasks.pictures import task_picture

    picture = task_picture(frames.float() / 255, gaze, output)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def check_frames(video: "GazedVideo", chunk: "GazedChunk", canvas: "Tensor") -> None:
    """Raise `VideoError` if canvas losses, (tiles, T), differ from those saved with the gaze."""
    saved = chunk.gaze.losses
    if saved is None or chunk.gaze.metric != CANVAS:
        return
    difference = (canvas - saved).abs()
    if not float(difference.max()) <= TOLERANCE:
        tile, place = divmod(int(difference.argmax()), chunk.gaze.num_frames)
        raise VideoError(
            f"{video.path}: shows other frames than the gaze was made at: the canvas loss of frame "
            f"{chunk.source.frame_indices[place]} is {float(canvas[tile, place]):.4f}, but was "
            f"{float(saved[tile, place]):.4f}; give the very file that it was made at{video.called}"
        )


def by_reconstruction(errors: "Tensor") -> dict[str, dict[str, float]]:
    """Errors (reconstructions, units) by their names."""
    return {
        name: dict(zip(UNITS, values, strict=False))
        for name, values in zip(RECONSTRUCTIONS, errors.tolist(), strict=False)
    }


def print_report(report: dict[str, Any]) -> None:
    """Means and largest values as tables on stdout."""
    columns, rows = report["tiles"]
    frames = f"{report['num_frames']} frame{'s' if report['num_frames'] != 1 else ''}"
    facts = {
        "video": report["video"],
        "gaze": report["gaze"],
        "size": f"{report['width']} x {report['height']}, {frames} in chunks of {report['chunk']}",
        "tiles": f"{columns} x {rows} of {report['side']} px",
        "kept": f"{report['num_kept']:,} patches ({100 * report['ratio']:.2f} %)",
        "metric": report["metric"],
    }
    units = {"l1": "l1 in [0, 1]"}
    if "loss_type" in report:
        facts["its loss"] = f"{report['loss_type']}, weighted {report['loss_weights']}"
        facts["precision"] = report["dtype"]
        units["loss"] = "its loss"
    table = figures_table(
        "reconstruction", *(name for unit in units.values() for name in (unit, "largest"))
    )
    for name, mean in report["mean"].items():
        largest = report["largest"][name]
        values = [value for unit in units for value in (mean[unit], largest[unit])]
        table.add_row(RECONSTRUCTIONS[name], *(f"{value:.4f}" for value in values))
    console = results_console()
    console.print(facts_table(facts.items()))
    console.print(table)
