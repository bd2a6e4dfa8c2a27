"""What the user asked `autogaze bench encode` for, checked before anything slow, and done."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from autogaze.clips import check_ratio
from autogaze.errors import AutoGazeError, OutputError, VideoError
from autogaze.evaluation.choosers import check_choosers, check_motion_wanted
from autogaze.evaluation.dense_batch import fastest_batch
from autogaze.evaluation.encode import EncodeOptions, bench_encode
from autogaze.evaluation.encode_plot import plot_encode
from autogaze.evaluation.encode_report import EncodeReport, print_report
from autogaze.evaluation.encoders import check_encoders, load_encoder, run_adapter_files
from autogaze.evaluation.memory_case import MemoryCase, measure_memory_case
from autogaze.evaluation.passes import sample_video
from autogaze.evaluation.progress import Step, progress
from autogaze.evaluation.scaling import Scaling, measure_scaling, num_steps, scaling_table
from autogaze.evaluation.timing import hardware
from autogaze.rendering.plot_style import check_plot
from autogaze.utils.device import Place
from autogaze.utils.files import check_output, write_json
from autogaze.video.reader import Video

ENCODERS = ("siglip2-base-patch16-224",)
SELECTORS = ("learned", "greedy", "run-length")
FPS = (1.0, 10.0, 30.0)
RESOLUTIONS = (224,)


@dataclass(frozen=True)
class EncodeJob:
    """One run of `autogaze bench encode`.

    Attributes:
        options: the grid.
        grid, scaling, memory: which parts are wanted.
        json, plot: files to write.
    """

    video: str
    options: EncodeOptions
    place: Place
    grid: bool
    scaling: bool
    memory: bool
    json: Path | None
    plot: Path | None

    @classmethod
    def parse(
        cls,
        *,
        video: str | None = None,
        encoders: Sequence[str] | None = None,
        adapters: Sequence[str] | None = None,
        selectors: Sequence[str] | None = None,
        fps: Sequence[float] | None = None,
        resolutions: Sequence[int] | None = None,
        frames: int = 16,
        ratio: float | None = None,
        attention: str = "block_causal",
        repeats: int = 3,
        dense_batch: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        grid: bool = True,
        scaling: bool = False,
        memory: bool = False,
        json: str | None = None,
        plot: str | None = None,
    ) -> "EncodeJob":
        """Fill in defaults; raises AutoGazeError for what cannot be measured or written."""
        options = EncodeOptions(
            encoders=tuple(encoders or ENCODERS),
            selectors=tuple(selectors or SELECTORS),
            fps=tuple(fps or FPS),
            resolutions=tuple(resolutions or RESOLUTIONS),
            frames=frames,
            ratio=ratio,
            attn_type=attention,
            repeats=repeats,
            dense_batch=dense_batch,
        )
        for rate in options.fps:
            if not (math.isfinite(rate) and rate > 0):
                raise VideoError(f"fps must be finite and greater than 0, got {rate:g}")
        for pixels in options.resolutions:
            if pixels < 1:
                raise VideoError(f"resolution must be at least 1 pixel, got {pixels}")
        check_ratio(ratio)
        run_adapter_files(adapters or ())
        check_encoders(options.encoders)
        check_choosers(options.selectors)
        if not (grid or scaling or memory):
            raise AutoGazeError("--no-grid leaves nothing to measure; add --scaling or --memory")
        if plot is not None:
            if not grid:
                raise OutputError("--plot shows the grid, which --no-grid leaves out")
            check_plot(plot)
        if json is not None:
            check_output(json, ".json", "--json")
        path = str(video if video is not None else sample_video()) if grid else ""
        if grid:
            check_motion_wanted(options.selectors, [Video(path).info])
        return cls(
            path,
            options,
            Place.parse(device, dtype),
            grid,
            scaling,
            memory,
            Path(json) if json is not None else None,
            Path(plot) if plot is not None else None,
        )


def run_job(job: EncodeJob, console: Console) -> None:
    """Measure, print tables, write files."""
    report = _grid(job) if job.grid else None
    scalings, cases = _extras(job)
    if report is not None:
        print_report(report, console)
        if job.plot is not None:
            plot_encode(report, job.plot)
    elif scalings or cases:
        console.print(f"{hardware(job.place.device)}, {job.place}")
    for scaling in scalings:
        console.print(scaling_table(scaling))
    for case in cases:
        console.print(str(case), markup=False)
    if job.json is not None:
        write_json(job.json, _as_json(job, report, scalings, cases))


def _grid(job: EncodeJob) -> EncodeReport:
    with progress(job.options.num_steps) as step:
        return bench_encode(job.video, job.options, job.place, step)


def _extras(job: EncodeJob) -> tuple[list[Scaling], list[MemoryCase]]:
    scalings: list[Scaling] = []
    cases: list[MemoryCase] = []
    if not (job.scaling or job.memory):
        return scalings, cases
    steps = (num_steps(job.options.repeats) if job.scaling else 0) + job.memory
    with progress(steps * len(job.options.encoders)) as step:
        for name in job.options.encoders:
            _measure_extras(job, name, step, scalings, cases)
    return scalings, cases


def _measure_extras(
    job: EncodeJob, name: str, step: Step, scalings: list[Scaling], cases: list[MemoryCase]
) -> None:
    encoder = load_encoder(name, job.place, job.options.attn_type)
    if job.scaling:
        batch = job.options.dense_batch or fastest_batch(encoder)
        scalings.append(measure_scaling(encoder, job.options.repeats, batch, step))
    if job.memory:
        step(f"{name}: 64 frames x 16 tiles")
        cases.append(measure_memory_case(encoder))


def _as_json(
    job: EncodeJob,
    report: EncodeReport | None,
    scalings: Sequence[Scaling],
    cases: Sequence[MemoryCase],
) -> dict[str, Any]:
    head = {"hardware": hardware(job.place.device), "place": str(job.place)}
    grid = report.to_json() if report is not None else {}
    return {
        **head,
        **grid,
        "scaling": [scaling.to_json() for scaling in scalings],
        "memory_case": [asdict(case) for case in cases],
    }
