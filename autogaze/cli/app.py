"""The command line. Heavy imports wait until a command runs, so that --help is quick."""

import signal
from types import FrameType
from typing import Annotated

import typer

from autogaze import __version__
from autogaze.cli.bench import bench
from autogaze.cli.calibrate import calibrate
from autogaze.cli.errors import EXIT_CODES, exit_codes, log_to_stderr
from autogaze.cli.judge import judge
from autogaze.cli.label import label
from autogaze.cli.outputs import check_endings, plan_jobs

app = typer.Typer(
    name="autogaze",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")

WHAT = "What to choose"
WHICH = "Which part of the video"
FILES = "Files to write (several videos: a folder, or a path with {name} in it)"


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"autogaze {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Choose the few multi-scale patches that carry a video's information."""
    log_to_stderr()


@app.command(epilog=EXIT_CODES)
def gaze(
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO", help="Anything that ffmpeg decodes.")
    ],
    selector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER|HUB-ID",
            help="Who chooses: see `autogaze selectors`; a checkpoint folder; or a hub id.",
            show_default="greedy",
            rich_help_panel=WHAT,
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Keep at most this share of all patches, in (0, 1].", rich_help_panel=WHAT
        ),
    ] = None,
    loss: Annotated[
        float | None,
        typer.Option(
            help="Stop a frame once its reconstruction loss is at most this, in units of the "
            "selector's judge. With --ratio too, whichever comes first.",
            show_default="the selector's own, if there is no --ratio",
            rich_help_panel=WHAT,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Repeat a random choice exactly.", rich_help_panel=WHAT),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(help="Frames a second to look at.", show_default="all", rich_help_panel=WHICH),
    ] = None,
    start: Annotated[
        float | None, typer.Option(help="From this second on.", rich_help_panel=WHICH)
    ] = None,
    end: Annotated[
        float | None, typer.Option(help="Up to this second.", rich_help_panel=WHICH)
    ] = None,
    tiles: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="How a frame is laid on square tiles: 'resize' to a whole number of them, "
            "'pad' those at the edge, 'one' for a fast look, or COLUMNSxROWS.",
            rich_help_panel=WHICH,
        ),
    ] = "resize",
    max_tiles: Annotated[
        int | None,
        typer.Option(
            help="Make larger frames smaller, to fit on so many tiles.",
            show_default="no bound",
            rich_help_panel=WHICH,
        ),
    ] = None,
    skip_corrupt: Annotated[
        bool,
        typer.Option(
            "--skip-corrupt",
            help="Go on behind frames that cannot be decoded, and say how many were lost.",
            rich_help_panel=WHICH,
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The gaze (.safetensors).", rich_help_panel=FILES),
    ] = None,
    overlay: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A video: chosen patches outlined by scale, the rest dimmed.",
            rich_help_panel=FILES,
        ),
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A contact sheet (.png), a row a scale.", rich_help_panel=FILES
        ),
    ] = None,
    reconstruction: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A video of what the chosen patches alone show.",
            rich_help_panel=FILES,
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Patches and loss over time (.png); needs matplotlib.",
            rich_help_panel=FILES,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line and video.")
    ] = False,
) -> None:
    """Gaze at videos: choose patches, measure what is lost, write what is asked for."""
    with exit_codes():
        outputs = {
            "out": out,
            "overlay": overlay,
            "sheet": sheet,
            "reconstruction": reconstruction,
            "plot": plot,
        }
        check_endings(videos, outputs)  # before imports that take seconds

        import torch

        from autogaze.cli.gaze import gaze_all
        from autogaze.cli.report import Report
        from autogaze.selectors import registry

        chooser = registry.load(selector)
        chooser.settings(ratio, loss)
        jobs = plan_jobs(videos, outputs)
        with Report(len(jobs), json) as report:
            code = gaze_all(
                jobs,
                chooser,
                report.add,
                ratio=ratio,
                loss=loss,
                tiles=tiles,
                max_tiles=max_tiles,
                fps=fps,
                start=start,
                end=end,
                skip_corrupt=skip_corrupt,
                generator=None if seed is None else torch.Generator().manual_seed(seed),
            )
        raise typer.Exit(code)


@app.command()
def selectors(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the selectors that need no weights."""
    with exit_codes():
        from autogaze.cli.info import print_selectors

        print_selectors(json)


@app.command(epilog=EXIT_CODES)
def info(
    file: Annotated[str, typer.Argument(help="A gaze file, a video or a checkpoint folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a file holds: a gaze, a video, or a checkpoint."""
    with exit_codes():
        from autogaze.cli.info import print_info

        print_info(file, json)


app.command(epilog=EXIT_CODES)(judge)
app.command(epilog=EXIT_CODES)(label)
app.command(epilog=EXIT_CODES)(calibrate)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def main() -> None:
    """Entry point of the `autogaze` command."""
    # A plain kill should clean up behind itself just as Ctrl-C does.
    signal.signal(signal.SIGTERM, _stop)
    app()


if __name__ == "__main__":
    main()
