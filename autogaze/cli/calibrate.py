"""`autogaze calibrate`: weights whose predicted loss is what is found where they stop."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autogaze.cli.errors import exit_codes
from autogaze.cli.options import PrintJson, device_option


def calibrate(
    weights: Annotated[
        str, typer.Argument(metavar="FOLDER|HUB-ID", help="Learned weights.", show_default=False)
    ],
    dataset: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Clips: a training's options of the group `dataset` (.yaml, .json), or all of its "
            "options (config.json).",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The calibrated weights.")],
    judge: Annotated[
        str,
        typer.Option(
            "--metric",
            "--judge",
            metavar="canvas|FOLDER|HUB-ID",
            help="Whose loss is predicted: the canvas', or that of a VideoMAE's checkpoint.",
        ),
    ] = "canvas",
    losses: Annotated[
        list[float] | None,
        typer.Option(
            "--loss",
            help="A threshold that must be met on average; repeat for more.",
            show_default="0.01, 0.015, 0.02, 0.03, 0.05",
        ),
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Which clips.")] = "train",
    clips: Annotated[int, typer.Option(min=1, help="How many of them, at random.")] = 96,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    default_loss: Annotated[
        float | None,
        typer.Option(
            help="Where it stops unless it is told: goes into its config.",
            show_default="as it was",
        ),
    ] = None,
    inhibition_of_return: Annotated[
        float | None,
        typer.Option(
            metavar="CHANGE",
            help="How much a patch must have changed, in mean pixel values of 0 to 1, to be new "
            "again once it was gazed at: goes into its config.",
            show_default="as it was",
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option("--half", help="Round all weights to float16 first, and write them so."),
    ] = False,
    device: Annotated[str, device_option()] = "cpu",
    json: PrintJson = False,
) -> None:
    """Mend the loss head of learned weights, so that they stop where they are asked to."""
    with exit_codes():
        from autogaze.cli.calibrating import Calibrating, print_report

        job = Calibrating.parse(
            weights=weights,
            dataset=dataset,
            out=out,
            judge=judge,
            losses=tuple(losses or ()),
            split=split,
            clips=clips,
            seed=seed,
            default_loss=default_loss,
            inhibition_of_return=inhibition_of_return,
            half=half,
            device=device,
        )
        print_report(job.run(), job, json)
