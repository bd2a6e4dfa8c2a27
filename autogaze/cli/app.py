"""The command line. Heavy imports wait until a command runs, so that --help is quick."""

import signal
from types import FrameType
from typing import Annotated

import typer

from autogaze import __version__
from autogaze.cli.answer import AnswerCommand
from autogaze.cli.bench import BenchEncode, BenchFidelity, BenchSelect
from autogaze.cli.bench_quality import BenchQuality
from autogaze.cli.calibrate import CalibrateCommand
from autogaze.cli.command import EXIT_CODES, add_command, log_to_stderr
from autogaze.cli.corpus import CorpusCommand
from autogaze.cli.demo import DemoCommand
from autogaze.cli.download import DownloadCommand
from autogaze.cli.evaluate import EvalHLVid
from autogaze.cli.gaze import GazeCommand
from autogaze.cli.info import InfoCommand, SelectorsCommand
from autogaze.cli.label import LabelCommand
from autogaze.cli.measure import MeasureCommand

app = typer.Typer(
    name="autogaze",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


add_command(app, GazeCommand, "gaze")
add_command(app, SelectorsCommand, "selectors")
add_command(app, InfoCommand, "info")
add_command(app, MeasureCommand, "measure")
add_command(app, AnswerCommand, "answer")
add_command(app, MeasureCommand, "judge", renamed_to="measure")
add_command(app, DemoCommand, "demo")
add_command(app, LabelCommand, "label")
add_command(app, CalibrateCommand, "calibrate")
add_command(app, CorpusCommand, "corpus")
add_command(app, DownloadCommand, "download")

bench = typer.Typer(no_args_is_help=True, help="Measure speed and quality on this machine.")
add_command(bench, BenchSelect, "select")
add_command(bench, BenchEncode, "encode")
add_command(bench, BenchFidelity, "fidelity")
add_command(bench, BenchQuality, "quality")
app.add_typer(bench, name="bench")

evaluation = typer.Typer(no_args_is_help=True, help="Answer questions about videos, and measure.")
add_command(evaluation, EvalHLVid, "hlvid")
app.add_typer(evaluation, name="eval")


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def main() -> None:
    """Entry point of the `autogaze` command."""
    # A plain kill should clean up behind itself just as Ctrl-C does.
    signal.signal(signal.SIGTERM, _stop)
    app()


if __name__ == "__main__":
    main()
