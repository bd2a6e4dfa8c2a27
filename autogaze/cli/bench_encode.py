"""`autogaze bench encode`: options in, tables and files out."""

from typing import Annotated

import typer

from autogaze.cli.errors import exit_codes
from autogaze.cli.options import (
    HOW,
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


def encode(
    video: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What to see.",
            show_default="the sample that the demo shows",
            rich_help_panel=WHAT,
        ),
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            metavar="NAME|FOLDER|HUB-ID",
            help="siglip2-base-patch16-224, siglip2-so400m-patch14-384 or dinov2-base (random "
            "weights), or a checkpoint; repeat for more.",
            show_default="siglip2-base-patch16-224",
            rich_help_panel=WHAT,
        ),
    ] = None,
    adapters: Adapters = None,
    selectors: Annotated[list[str] | None, selectors_option("learned, greedy, run-length")] = None,
    fps: Annotated[list[float] | None, fps_option("1, 10, 30", "; repeat for more")] = None,
    resolutions: Annotated[
        list[int] | None,
        typer.Option(
            "--resolution",
            help="Pixels a side of a frame, cut into tiles; repeat for more.",
            show_default="224",
            rich_help_panel=WHAT,
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames to see, in clips of 16.", rich_help_panel=WHAT)
    ] = 16,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Share of patches for every selector.",
            show_default="as published for the rate and resolution; of trained weights their stop",
            rich_help_panel=WHAT,
        ),
    ] = None,
    attention: Annotated[
        AttentionName, typer.Option(help="Who is seen by a gazed token.", rich_help_panel=WHAT)
    ] = "block_causal",
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Also: does encoding time follow the share of tokens?",
            rich_help_panel=WHAT,
        ),
    ] = False,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory",
            help="Also: memory of 64 frames x 16 tiles at 10 % of the patches.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid/--no-grid",
            help="The grid of rates and resolutions itself; without it only what is asked for.",
            rich_help_panel=WHAT,
        ),
    ] = True,
    repeats: Annotated[
        int, typer.Option(min=1, help="Measured rounds; medians are shown.", rich_help_panel=HOW)
    ] = 3,
    dense_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Frames that dense encoding gets at once.",
            show_default="the fastest of 1, 4, 16; on a GPU of 16, 64, 128",
            rich_help_panel=HOW,
        ),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: JsonFile = None,
    plot: Annotated[str | None, plot_option("Time a frame by stage")] = None,
) -> None:
    """Time seeing a video, gazed against dense: decode, preprocess, select, embed, encode.

    Also counts arithmetic, measures memory, and says where selecting + encoding is faster
    than dense encoding, and by how much.
    """
    with exit_codes():
        from autogaze.cli.report import results_console
        from autogaze.evaluation.encode_job import EncodeJob, run_job

        job = EncodeJob.parse(
            video=video,
            encoders=encoders,
            adapters=adapters,
            selectors=selectors,
            fps=fps,
            resolutions=resolutions,
            frames=frames,
            ratio=ratio,
            attention=attention,
            repeats=repeats,
            dense_batch=dense_batch,
            device=device,
            dtype=dtype,
            grid=grid,
            scaling=scaling,
            memory=memory,
            json=json,
            plot=plot,
        )
        run_job(job, results_console())
