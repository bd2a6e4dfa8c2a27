"""The table that `autogaze bench fidelity` prints."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autogaze.benchmarks.fidelity import FidelityReport
from autogaze.benchmarks.fidelity_measures import Estimate


def print_report(report: FidelityReport, console: Console) -> None:
    """How faithful every selector is at every budget, and how to read it."""
    if report.random_weights:
        console.print(report.notes[0], style="bold red")
    table = Table(title=escape(heading(report)), title_justify="left")
    table.add_column("selector")
    for name in ("patches", "tokens\nof dense", "cosine\nclips", "cosine\nframes"):
        table.add_column(name, justify="right")
    for name in ("same neighbour\nclips", "same neighbour\nframes"):
        table.add_column(name, justify="right")
    last = None
    for row in report.rows:
        if last not in (None, row.selector):
            table.add_section()
        last = row.selector
        table.add_row(
            escape(row.selector),
            f"{100 * row.ratio:g} %",
            f"{100 * row.share:.1f} %",
            _figure(row.clip_cosine, ".4f"),
            _figure(row.frame_cosine, ".4f"),
            _figure(row.clip_neighbour, ".0%"),
            _figure(row.frame_neighbour, ".0%"),
        )
    console.print(table)
    for note in report.notes[1 if report.random_weights else 0 :]:
        console.print(note, style="dim")


def heading(report: FidelityReport) -> str:
    """What was compared."""
    videos = f"{len(report.videos)} video{'s' if len(report.videos) > 1 else ''}"
    return (
        f"Gazed against dense features: {report.encoder}, {report.scales}, {report.attn_type}\n"
        f"{videos}, {report.num_clips} clips, {report.num_frames} frames"
    )


def _figure(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "-"
    mean = format(estimate.mean, form)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} ({format(estimate.low, form)}..{format(estimate.high, form)})"
