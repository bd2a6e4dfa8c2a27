"""`autogaze bench fidelity`: options in, a table and files out."""

from typing import Annotated

import typer

from autogaze.cli_bench_encode import FILES, HOW, WHAT, Attention
from autogaze.cli_errors import exit_codes


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
    selectors: Annotated[
        list[str] | None,
        typer.Option(
            "--selector",
            metavar="NAME|FOLDER|HUB-ID",
            help="Any of `autogaze selectors`, 'learned' (random weights), or a checkpoint; "
            "repeat for more. random and centre are always there.",
            show_default="greedy, run-length, change",
            rich_help_panel=WHAT,
        ),
    ] = None,
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
        Attention,
        typer.Option(
            help="Who is seen by a gazed token; the dense encoder sees one frame.",
            rich_help_panel=WHAT,
        ),
    ] = "frame_independent",
    clips: Annotated[
        int, typer.Option(min=1, help="Clips of 16 frames a video.", rich_help_panel=WHAT)
    ] = 4,
    fps: Annotated[
        float | None,
        typer.Option(help="Frames a second.", show_default="all", rich_help_panel=WHAT),
    ] = None,
    tiles: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="How a frame is laid on tiles, as in `autogaze gaze`.",
            rich_help_panel=WHAT,
        ),
    ] = "one",
    device: Annotated[
        str, typer.Option(help="Where models run: cpu or cuda.", rich_help_panel=HOW)
    ] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="In float32 or bfloat16.", rich_help_panel=HOW)
    ] = "float32",
    json: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="All figures (.json).", rich_help_panel=FILES),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Cosine against tokens (.png); needs matplotlib.",
            rich_help_panel=FILES,
        ),
    ] = None,
) -> None:
    """Compare gazed with dense features: cosines, and whether nearest neighbours stay."""
    with exit_codes():
        from autogaze.benchmarks.fidelity_job import FidelityJob, run_job
        from autogaze.cli_report import results_console

        job = FidelityJob.parse(
            videos=videos,
            encoder=encoder,
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
