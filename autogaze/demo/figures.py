"""Figures of a job as HTML: a table of numbers, and the budget over time as a drawing.

Colours and fonts are the page's, so that both follow its light and dark theme.
"""

from collections.abc import Sequence
from dataclasses import asdict
from html import escape

from autogaze.demo.work import Run
from autogaze.rendering.painter import percent, scale_colours
from autogaze.rendering.summary import FrameStats

WIDTH, HEIGHT = 1000, 100
"""Of drawings, in units of their own."""

MAX_STEPS = 600
"""Frames that are drawn, at most."""


def numbers(run: Run) -> dict[str, object]:
    """What the page shows, as plain values: those of `autogaze gaze --json`, and FLOP."""
    summary = run.summary.to_json()
    del summary["video"], summary["files"]  # places on this machine
    flops = {one.encoder: {**asdict(one), "saved": one.share} for one in run.savings}
    milliseconds = {
        name: 1000 * value / run.summary.frames for name, value in asdict(run.summary.times).items()
    }
    return {**summary, "ms_per_frame": milliseconds, "flop": flops}


def numbers_table(run: Run) -> str:
    """The same as a table."""
    summary = run.summary
    columns, rows = summary.tiles
    chips = "".join(
        f'<span class="ag-chip"><i style="background:{colour}"></i>{scale} px <b>{kept:,}</b></span>'
        for scale, kept, colour in zip(
            summary.scales, summary.kept, _colours(len(summary.scales)), strict=True
        )
    )
    stages = {name: 1000 * value / summary.frames for name, value in asdict(summary.times).items()}
    drawing = stages.pop("render")  # the page's own cost, which no gaze has
    facts = [
        (
            "Tokens kept",
            f"<b>{sum(summary.kept):,}</b> of {summary.total:,} <b>({percent(summary.ratio)})</b>",
        ),
        ("By scale", chips),
        (
            "Error",
            f"mean <b>{summary.loss_mean:.4f}</b>, {_largest_errors(run)} (share of the range of pixel values)",
        ),
        (
            "Time per frame",
            ", ".join(f"{name} <b>{value:.1f}</b>" for name, value in stages.items())
            + f" ms; drawing these pictures besides: {drawing:.1f} ms",
        ),
        *(
            (
                one.encoder,
                f"<b>{_flop(one.gazed + one.selecting)}</b> in place of {_flop(one.dense)}: "
                f"<b>{percent(abs(one.share))}</b> {'saved' if one.share >= 0 else 'more than dense'}",
            )
            for one in run.savings
        ),
        (
            "Seen",
            f"{summary.frames} frames of {summary.width} x {summary.height} on {columns} x {rows} tiles",
        ),
    ]
    body = "".join(f"<tr><th scope='row'>{name}</th><td>{value}</td></tr>" for name, value in facts)
    return f"<table class='ag-numbers'><caption>{escape(title(run))}</caption><tbody>{body}</tbody></table>"


def title(run: Run) -> str:
    """The selector and its settings in one line."""
    settings = run.settings
    budget = (
        [f"at most {100 * settings.ratio:g} % of the patches"] if settings.ratio is not None else []
    )
    budget += [f"until a frame's loss is {settings.loss:g}"] if settings.loss is not None else []
    return f"{run.summary.selector}, {', '.join(budget) or 'to its own stopping threshold'}"


def budget_chart(run: Run, most: int | None = None, worst: float | None = None) -> str:
    """Patches per frame over time, stacked by scale, above the error per frame.

    Drawings are stretched to the width there is, and their labels are text beside them.

    Args:
        most, worst: patches and error at the top, so that two drawings can be compared.
    """
    frames = run.frames[:: -(-len(run.frames) // MAX_STEPS)]  # every n-th
    most = most or peak(run) or 1
    start, span = _span(frames)
    worst = worst or largest_error(run) or 1.0
    edges = [WIDTH * (frame.seconds - start) / span for frame in frames] + [WIDTH]
    layers, floor = [], [0.0] * len(frames)
    for level, colour in enumerate(_colours(len(run.summary.scales))):
        roof = [low + frame.kept[level] for low, frame in zip(floor, frames, strict=True)]
        corners = [*_steps(edges, roof), *reversed(_steps(edges, floor))]
        layers.append(f"<polygon points='{_points(corners, most)}' fill='{colour}'/>")
        floor = roof
    losses = _steps(edges, [frame.loss or 0.0 for frame in frames])
    line = f"<polyline points='{_points(losses, worst)}' class='ag-line'/>"
    fewest, largest = min(map(_kept, frames)), max(map(_kept, frames))
    return (
        "<figure class='ag-chart'>"
        + _plot(
            "Patches per frame, by scale",
            f"{most:,}",
            "".join(layers),
            f"{fewest:,} to {largest:,} patches per frame over {span:.1f} seconds",
            "ag-high",
        )
        + _plot(
            "Error per frame", f"{worst:.4f}", line, f"at most {largest_error(run):.4f}", "ag-low"
        )
        + f"<div class='ag-time'><span>{start:.1f} s</span><span>{start + span:.1f} s</span></div>"
        + "</figure>"
    )


def _plot(name: str, top: str, drawing: str, description: str, kind: str) -> str:
    """A drawing in its frame; `top` is the value at its upper edge, 0 that at the lower."""
    return (
        f"<figcaption>{name}</figcaption><div class='ag-plot {kind}'>"
        f"<div class='ag-scale'><span>{top}</span><span>0</span></div>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' preserveAspectRatio='none' role='img' "
        f"aria-label='{name}: {description}'>{drawing}</svg></div>"
    )


def _points(corners: Sequence[tuple[float, float]], top: float) -> str:
    """Corners as SVG has them, y down."""
    return " ".join(f"{x:.1f},{HEIGHT * (1 - value / top):.2f}" for x, value in corners)


def peak(run: Run) -> int:
    """The most patches of a frame."""
    return max(_kept(frame) for frame in run.frames)


def largest_error(run: Run) -> float:
    """Of a frame, mean over its tiles."""
    return max(frame.loss or 0.0 for frame in run.frames)


def _largest_errors(run: Run) -> str:
    """Of a frame, as the chart has it; and of a tile, which is larger where there are several."""
    columns, rows = run.summary.tiles
    of_tile = f", of a tile {run.summary.loss_max:.4f}" if columns * rows > 1 else ""
    return f"largest of a frame {largest_error(run):.4f}{of_tile}"


def _kept(frame: FrameStats) -> int:
    return sum(frame.kept)


def _flop(count: int) -> str:
    tera = count / 1e12
    return f"{tera:.2f} TFLOP" if tera >= 1 else f"{count / 1e9:.1f} GFLOP"


def _colours(num_scales: int) -> list[str]:
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in scale_colours(num_scales).tolist()]


def _span(frames: Sequence[FrameStats]) -> tuple[float, float]:
    """First second, and seconds until the last frame leaves the screen."""
    start, last = frames[0].seconds, frames[-1].seconds
    step = (last - start) / (len(frames) - 1) if len(frames) > 1 else 1.0
    return start, max(1e-6, last - start + step)


def _steps(edges: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Corners of a staircase."""
    corners = []
    for left, right, value in zip(edges, edges[1:], values, strict=False):
        corners += [(left, value), (right, value)]
    return corners
