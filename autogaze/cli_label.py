"""`autogaze label`: greedy gaze labels for next-token pre-training."""

import json as json_module
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autogaze.cli_errors import SOME_FAILED, exit_codes, log

if TYPE_CHECKING:
    from autogaze.labelling.clips import ClipToLabel
    from autogaze.labelling.label import LabelSettings
    from autogaze.labelling.search import Searcher

JUDGE = "Who judges"
CLIPS = "What is labelled"
WORK = "How the work is divided"


def label(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Videos, folders of them (searched to the bottom), files of decoded clips.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The label file (.json)."),
    ] = Path("gazing_labels.json"),
    judge: Annotated[
        str,
        typer.Option(
            metavar="canvas|FOLDER|HUB-ID",
            help="Whose loss is lowered: the canvas, or a VideoMAE's checkpoint.",
            rich_help_panel=JUDGE,
        ),
    ] = "canvas",
    loss_type: Annotated[
        str | None,
        typer.Option(
            help="Terms of a VideoMAE's loss, e.g. l1+dinov2_reg+siglip2.",
            show_default="what its config.json says, else l1",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    loss_weights: Annotated[
        str | None,
        typer.Option(help="A weight for each, e.g. 1+0.3+0.3.", rich_help_panel=JUDGE),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Of the patches.",
            show_default="the VideoMAE's own, else 32+64+112+224",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where a VideoMAE runs: cpu, cuda, cuda:1.", rich_help_panel=JUDGE)
    ] = "cpu",
    dtype: Annotated[
        str,
        typer.Option(help="A VideoMAE's: float32 or bfloat16.", rich_help_panel=JUDGE),
    ] = "float32",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Candidates that a VideoMAE reconstructs together.",
            show_default="8 on a CPU, 128 on a GPU",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    clip_len: Annotated[
        int, typer.Option(min=1, help="Frames of a clip: a video's first.", rich_help_panel=CLIPS)
    ] = 16,
    stride: Annotated[
        int, typer.Option(min=1, help="Of them, this many frames apart.", rich_help_panel=CLIPS)
    ] = 1,
    min_ratio: Annotated[
        float, typer.Option(help="Least mean ratio of a clip.", rich_help_panel=CLIPS)
    ] = 0.02,
    max_ratio: Annotated[
        float, typer.Option(help="Largest mean ratio of a clip.", rich_help_panel=CLIPS)
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the ratios.", rich_help_panel=CLIPS)] = 0,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Only part I of N, for N processes or machines that share a disk.",
            rich_help_panel=WORK,
        ),
    ] = "1/1",
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Put finished shards together.", rich_help_panel=WORK),
    ] = False,
    measure: Annotated[
        int,
        typer.Option(
            metavar="SAMPLES",
            min=0,
            help="Label nothing; time the search of the first clip, and the naive one, in so "
            "many states.",
            show_default=False,
            rich_help_panel=WORK,
        ),
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Label clips with the patches that a greedy search chooses: what pre-training imitates."""
    with exit_codes():
        from autogaze.datasets.video_folder import Window
        from autogaze.labelling.budget import GazeBudget
        from autogaze.labelling.clips import find_clips
        from autogaze.labelling.judges import JudgeChoice
        from autogaze.labelling.label import LabelSettings

        if merge:
            _print(_merge(out), json)
            return
        part = None if measure else _check_out(out, shard)
        settings = LabelSettings(Window(clip_len, stride), GazeBudget(min_ratio, max_ratio), seed)
        clips = find_clips(paths or [])
        chosen = JudgeChoice(judge, scales, loss_type, loss_weights, device, dtype, batch)
        searcher, task = chosen.build(clip_len)
        if measure:
            from autogaze.labelling.measure import measure_search

            _print(measure_search(clips[0], searcher, task, settings, measure), json)
            return
        report, code = _label(clips, searcher, settings, out, part)
        _print(report, json)
        raise typer.Exit(code)


def _check_out(out: Path, shard: str) -> Any:
    """The shard, when the file can be written and is not there yet."""
    from autogaze.errors import OutputError
    from autogaze.files import check_writable
    from autogaze.labelling.journal import Shard, check_new

    if out.suffix != ".json":
        raise OutputError(f"--out {out}: the name must end in .json")
    check_writable(out)
    check_new(out)
    return Shard.parse(shard)


def _label(
    clips: "list[ClipToLabel]",
    searcher: "Searcher",
    settings: "LabelSettings",
    out: Path,
    shard: Any,
) -> tuple[dict[str, Any], int]:
    """Label a shard; the report and the exit code."""
    from autogaze.errors import VideoError
    from autogaze.labelling.journal import Journal, merge
    from autogaze.labelling.label import label_clips

    mine = clips[shard.number - 1 :: shard.total]
    with Journal(out, shard, settings.identity(searcher)) as journal:
        before = len(journal.done)
        began = time.perf_counter()
        # What a finished shard could not read, it is not asked for again.
        mine = [] if journal.finished else mine
        with _progress(len(mine)) as advance:
            failed = label_clips(
                mine,
                searcher,
                settings,
                journal,
                advance,
                lambda clip: log.error("error: %s", clip.cause),
            )
        seconds = time.perf_counter() - began
        if mine and len(failed) == len(mine):
            raise VideoError(f"none of the {len(mine)} videos could be read")
        if not journal.finished:
            journal.finish()
    new = len(journal.done) - before
    report: dict[str, Any] = {
        "clips": new,
        "labelled_before": before,
        "unreadable": len(failed),
        "seconds": round(seconds, 3),
        "clips_an_hour": round(new / seconds * 3600) if new else None,
        "reconstructions_a_second": round(searcher.num_reconstructions / seconds) if new else None,
    }
    if shard.total == 1:
        report["out"] = str(merge(out).path)
    else:
        report["shard"] = str(journal.path)
    return report, SOME_FAILED if failed else 0


def _merge(out: Path) -> dict[str, Any]:
    from autogaze.labelling.journal import merge

    labels = merge(out)
    return {"clips": len(labels), "out": str(labels.path)}


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        if value is not None:
            print(f"{name.replace('_', ' '):{width}}  {value}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr if that is a terminal, else nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TextColumn("clips")
    with Progress(
        *columns, Remaining(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("labelling", total=total)
        yield lambda: progress.advance(task)
