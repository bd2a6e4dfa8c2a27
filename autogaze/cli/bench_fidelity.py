"""`autogaze bench fidelity`: options in, a table and files out."""

from typing import Annotated

import typer

from autogaze.cli.errors import exit_codes
from autogaze.cli.options import (
    WHAT,
    Adapters,
    AttentionName,
    Device,
    Dtype,
    JsonFile,
    fps_option,
    plot_option,
    selectors_option,
)


def fidelity(
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VIDEO|FOLDER]...",
            help="Videos, or folders of them.",
            show_default="the sample that the demo shows",
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|HUB-ID|NAME",
            help="A vision encoder's checkpoint. A name of `autogaze bench encode` has random "
            "weights, with which the figures say little.",
            rich_help_panel=WHAT,
        ),
    ] = "siglip2-base-patch16-224",
    adapters: Adapters = None,
    selectors: Annotated[list[str] | None, selectors_option("greedy, run-length, change")] = None,
    ratios: Annotated[
        list[float] | None,
        typer.Option(
            "--ratio",
            help="Share of all patches, in (0, 1]; repeat for more.",
            show_default="0.02, 0.05, 0.1, 0.2, 0.4",
            rich_help_panel=WHAT,
        ),
    ] = None,
    attention: Annotated[
        AttentionName,
        typer.Option(
            help="Who is seen by a gazed token; the dense encoder sees one frame.",
            rich_help_panel=WHAT,
        ),
    ] = "frame_independent",
    clips: Annotated[
        int, typer.Option(min=1, help="Clips of 16 frames a video.", rich_help_panel=WHAT)
    ] = 4,
    fps: Annotated[float | None, fps_option("all")] = None,
    tiles: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="How a frame is laid on tiles, as in `autogaze gaze`.",
            rich_help_panel=WHAT,
        ),
    ] = "one",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: JsonFile = None,
    plot: Annotated[str | None, plot_option("Cosine against tokens")] = None,
) -> None:
    """Compare gazed with dense features: cosines, and whether nearest neighbours stay."""
    with exit_codes():
        from autogaze.cli.report import results_console
        from autogaze.evaluation.fidelity_job import FidelityJob, run_job

        job = FidelityJob.parse(
            videos=videos,
            encoder=encoder,
            adapters=adapters,
            selectors=selectors,
            ratios=ratios,
            attention=attention,
            clips=clips,
            fps=fps,
            tiles=tiles,
            device=device,
            dtype=dtype,
            json=json,
            plot=plot,
        )
        run_job(job, results_console())
