"""Seconds a frame by stage, gazed beside dense, for every frame rate and resolution."""

from pathlib import Path
from typing import Any

from autogaze.evaluation.encode_report import CellReport, Cost, EncodeReport, EncoderReport
from autogaze.evaluation.timing import Stage
from autogaze.rendering.plot_style import caption, clean, save

COLOURS = {
    Stage.DECODE: "#d5d8dd",
    Stage.PREPROCESS: "#a3a9b3",
    Stage.SELECT: "#e8832a",
    Stage.EMBED: "#7cc6bf",
    Stage.ENCODE: "#2b5fab",
}
_BAR, _GAP = 0.8, 1.2


def plot_encode(report: EncodeReport, path: str | Path) -> None:
    """A PNG: a row an encoder, a column a resolution, bars grouped by frame rate."""
    from matplotlib.figure import Figure

    resolutions = list(dict.fromkeys(c.resolution for e in report.encoders for c in e.cells))
    bars = max(
        sum(len(c.gazed) + 1 for c in e.cells if c.resolution == pixels)
        for e in report.encoders
        for pixels in resolutions
    )
    width = max(7.5, len(resolutions) * (1.3 + 0.36 * bars))
    figure = Figure(figsize=(width, 1.6 + 3.3 * len(report.encoders)), layout="constrained")
    panels = figure.subplots(len(report.encoders), len(resolutions), squeeze=False)
    for row, encoder in zip(panels, report.encoders, strict=True):
        for axes, resolution in zip(row, resolutions, strict=True):
            cells = [cell for cell in encoder.cells if cell.resolution == resolution]
            _draw(axes, encoder, cells)
        row[0].set_ylabel("time a frame (ms)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8.5
    )
    how = f"Clips of up to 16 frames, {report.attn_type} attention, {report.hardware}, {report.place}."
    rounds = (
        f"Medians of {report.repeats} rounds; numbers: how many times faster than dense "
        "(select + embed + encode), red unless faster in every round; dense encoding in batches of "
        + ", ".join(f"{e.dense_batch}" for e in report.encoders)
        + " frames."
    )
    name = Path(report.video).name
    caption(figure, [f"{name}. {how} {rounds}", " ".join(report.notes)])
    save(figure, path)


def _draw(axes: Any, encoder: EncoderReport, cells: list[CellReport]) -> None:
    at = 0.0
    ticks: list[float] = []
    labels: list[str] = []
    highest = max(c.whole.median / _frames(cell) for cell in cells for c in _costs(cell))
    for cell in cells:
        first = at
        for cost in _costs(cell):
            _stack(axes, at, cost, cell, label=not ticks)
            ticks.append(at)
            labels.append(cost.selector)
            if cost is not cell.dense:
                _factor(axes, at, cost, cell, 1e3 * highest)
            at += 1
        words = f"{cell.fps:g} fps"
        if cell.fps_seen < cell.fps:
            words += f" (video: {cell.fps_seen:g})"
        axes.text(
            (first + at - 1) / 2, 1.0, words, ha="center", va="bottom", fontsize=8.5,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        at += _GAP
    axes.set_xticks(ticks, labels, rotation=55, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.8, at - _GAP - 0.2)
    axes.set_ylim(0, 1e3 * highest * 1.12)
    size = f"{cells[0].pixels} px" + (f", {cells[0].tiles} tiles" if cells[0].tiles > 1 else "")
    axes.set_title(
        f"{Path(encoder.name).name}, {size}", loc="left", fontsize=9.5, fontweight="bold", pad=16
    )
    clean(axes)


def _stack(axes: Any, at: float, cost: Cost, cell: CellReport, label: bool) -> None:
    floor = 0.0
    for stage in Stage:
        height = 1e3 * cost.seconds[stage].median / _frames(cell)
        axes.bar(
            at, height, _BAR, bottom=floor, color=COLOURS[stage], linewidth=0,
            label=stage.value if label else None,
        )  # fmt: skip
        floor += height


def _factor(axes: Any, at: float, cost: Cost, cell: CellReport, highest: float) -> None:
    top = 1e3 * sum(timing.median for timing in cost.seconds) / _frames(cell)
    factor = cost.factor.median
    axes.text(
        at, top + 0.01 * highest, f"{factor:.2g}x", ha="center", va="bottom", fontsize=7,
        color="#c2201c" if cost.verdict != "faster" else "#33363d",
    )  # fmt: skip


def _costs(cell: CellReport) -> tuple[Cost, ...]:
    return (cell.dense, *cell.gazed)


def _frames(cell: CellReport) -> int:
    return max(1, cell.frames)
