"""What `autogaze judge` tells, for people and for machines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from autogaze.cli.report import results_console
from autogaze.gaze import Gaze
from autogaze.rendering.painter import percent
from autogaze.source import Source


@dataclass(frozen=True)
class ViewLoss:
    """How far one view is from the frames.

    Attributes:
        l1: mean |picture - frame|, in [0, 1].
        loss: by the judge's terms, in its unit.
    """

    l1: float
    loss: float


@dataclass(frozen=True)
class ViewLosses:
    """Of the canvas, of the canvas with its holes filled, and of the judge's reconstruction."""

    canvas: ViewLoss
    filled_canvas: ViewLoss
    reconstruction: ViewLoss

    @classmethod
    def of(cls, values: Float[Tensor, "3 2"]) -> "ViewLosses":
        """From what is left of `Verdict.errors` when clips and frames are summed up."""
        return cls(*(ViewLoss(*view) for view in values.tolist()))


@dataclass(frozen=True)
class ClipVerdict:
    """One tile of one chunk; `first_frame` is numbered as in the video."""

    tile: int
    first_frame: int
    num_frames: int
    num_kept: int
    mean: ViewLosses


@dataclass(frozen=True)
class FrameVerdict:
    """One frame, mean over its tiles; `frame` is its number in the video."""

    frame: int
    seconds: float
    num_kept: int
    mean: ViewLosses


@dataclass(frozen=True)
class JudgeReport:
    """How true a gaze is.

    Attributes:
        tiles: columns and rows.
        chunk: frames that were gazed at together, at most.
        num_kept: patches chosen; `ratio`: their share of all.
        mean, largest: over all frames of all tiles.
        clips: chunk by chunk, tile by tile.
    """

    video: str
    gaze: str
    judge: str
    loss_type: str
    loss_weights: str
    width: int
    height: int
    tiles: tuple[int, int]
    side: int
    chunk: int
    num_frames: int
    num_kept: int
    ratio: float
    mean: ViewLosses
    largest: ViewLosses
    clips: tuple[ClipVerdict, ...]
    frames: tuple[FrameVerdict, ...]

    @classmethod
    def of(
        cls,
        files: tuple[str, str],
        judge: str,
        recipe: Mapping[str, str],
        gaze: Gaze,
        source: Source,
        errors: Float[Tensor, "3 2 tiles T"],
    ) -> "JudgeReport":
        """From the errors of every frame of every tile.

        Args:
            files: the video and the gaze.
            judge: as it was asked for.
            recipe: of its loss, see `FrameLosses.recipe`.
            gaze: what was judged.
            source: where it lies in the video.
            errors: see `Verdict.errors`.
        """
        tiles, kept = source.tiles, gaze.lengths
        clips = []
        for start in range(0, gaze.num_frames, source.chunk):
            part = slice(start, min(start + source.chunk, gaze.num_frames))
            clips += [
                ClipVerdict(
                    tile,
                    source.frame_indices[start],
                    part.stop - start,
                    int(kept[tile, part].sum()),
                    ViewLosses.of(errors[:, :, tile, part].mean(-1)),
                )
                for tile in range(gaze.num_clips)
            ]
        frames = tuple(
            FrameVerdict(
                number,
                seconds,
                int(kept[:, place].sum()),
                ViewLosses.of(errors[..., place].mean(-1)),
            )
            for place, (number, seconds) in enumerate(
                zip(source.frame_indices, source.timestamps, strict=True)
            )
        )
        return cls(
            video=files[0],
            gaze=files[1],
            judge=judge,
            loss_type=recipe["loss_type"],
            loss_weights=recipe["loss_weights"],
            width=tiles.width,
            height=tiles.height,
            tiles=(tiles.columns, tiles.rows),
            side=tiles.side,
            chunk=source.chunk,
            num_frames=gaze.num_frames,
            num_kept=gaze.num_patches,
            ratio=gaze.ratio,
            mean=ViewLosses.of(errors.mean((2, 3))),
            largest=ViewLosses.of(errors.amax((2, 3))),
            clips=tuple(clips),
            frames=frames,
        )

    def one_line(self) -> str:
        """Size, share of patches and mean errors: what stands beside a picture's title."""
        frames = "frame" if self.num_frames == 1 else "frames"
        return (
            f"{self.width} x {self.height}, {self.num_frames} {frames}, {self.tiles[0]} x "
            f"{self.tiles[1]} tiles, {percent(self.ratio)} of the patches kept   \u00b7   mean l1: "
            f"canvas {self.mean.canvas.l1:.4f}, judge {self.mean.reconstruction.l1:.4f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)


def print_report(report: JudgeReport, as_json: bool) -> None:
    """Print it on stdout."""
    if as_json:
        print(json.dumps(report.to_json()))
        return
    facts = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    columns, rows = report.tiles
    frames = f"{report.num_frames} frame{'s' if report.num_frames != 1 else ''}"
    facts.add_row("video", Text(report.video))
    facts.add_row("gaze", Text(report.gaze))
    facts.add_row("size", f"{report.width} x {report.height}, {frames} in chunks of {report.chunk}")
    facts.add_row("tiles", f"{columns} x {rows} of {report.side} px")
    facts.add_row("kept", f"{report.num_kept:,} patches ({percent(report.ratio)})")
    facts.add_row("judge", Text(report.judge))
    facts.add_row("its loss", f"{report.loss_type}, weighted {report.loss_weights}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what the patches show")
    for name in ("l1 in [0, 1]", "largest", "judge's loss", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    mean, largest = report.mean, report.largest
    for name, middle, most in (
        ("canvas", mean.canvas, largest.canvas),
        ("canvas, holes filled", mean.filled_canvas, largest.filled_canvas),
        ("judge's reconstruction", mean.reconstruction, largest.reconstruction),
    ):
        values = (middle.l1, most.l1, middle.loss, most.loss)
        table.add_row(name, *(f"{value:.4f}" for value in values))
    console = results_console()
    console.print(facts)
    console.print(table)
