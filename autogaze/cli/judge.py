"""`autogaze judge`: what a saved gaze preserves of its video, by a VideoMAE and the canvas."""

from pathlib import Path
from typing import Annotated

import typer

from autogaze.cli.errors import exit_codes
from autogaze.cli.options import PrintJson, device_option


def judge(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="What was gazed at.")],
    gaze: Annotated[
        Path,
        typer.Argument(metavar="GAZE_FILE", help="What `autogaze gaze VIDEO --out` wrote."),
    ],
    judge: Annotated[
        str,
        typer.Option(
            metavar="learned|FOLDER|HUB-ID",
            help="Who reconstructs, besides the canvas: the package's own VideoMAE, or a "
            "checkpoint.",
        ),
    ] = "learned",
    loss_type: Annotated[
        str,
        typer.Option(
            help="Terms of its loss, e.g. l1+efficientnet; networks other than its own must be "
            "installed, or fetched from the hub."
        ),
    ] = "l1",
    loss_weights: Annotated[
        str | None,
        typer.Option(help="A weight for each, e.g. 1+0.3.", show_default="1, for one term"),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Up to eight frames (.png): the frame, its gaze, the canvas, the reconstruction "
            "and what they miss.",
        ),
    ] = None,
    device: Annotated[str, device_option("Where the judge runs")] = "cpu",
    json: PrintJson = False,
) -> None:
    """Say the true loss of a saved gaze: what a VideoMAE and the canvas make of its patches."""
    with exit_codes():
        from autogaze.cli.judge_report import print_report
        from autogaze.cli.judging import Judging

        job = Judging.parse(
            video=video,
            gaze=gaze,
            judge=judge,
            loss_type=loss_type,
            loss_weights=loss_weights,
            picture=picture,
            device=device,
        )
        print_report(job.run(), json)
