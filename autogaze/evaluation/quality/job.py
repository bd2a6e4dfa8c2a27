"""What the user asked `autogaze bench quality` for, checked before anything slow, and done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from autogaze.clips import check_loss, check_ratio
from autogaze.errors import OutputError, SelectorError, VideoError
from autogaze.evaluation.choosers import CONTROLS
from autogaze.evaluation.progress import progress
from autogaze.evaluation.quality.clips import CLIP_LEN, Material, plan_clips
from autogaze.evaluation.quality.contenders import (
    SELECTORS,
    Weights,
    check_selectors,
    donors,
    load_contenders,
)
from autogaze.evaluation.quality.curves_plot import plot_curves
from autogaze.evaluation.quality.measure import make_rows, measure, num_steps
from autogaze.evaluation.quality.metrics import CANVAS, VIDEO_MAE, JudgeOptions
from autogaze.evaluation.quality.report import QualityReport, Setting, make_report
from autogaze.evaluation.quality.stops import can_stop, measure_stops
from autogaze.evaluation.quality.stops_plot import plot_stops
from autogaze.evaluation.quality.tables import print_report, to_markdown
from autogaze.evaluation.timing import hardware
from autogaze.rendering.plot_style import check_plot
from autogaze.selectors.registry import LEARNED
from autogaze.utils.device import Place
from autogaze.utils.files import all_or_none, check_output, check_writable, replacing, write_json

RATIOS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Files:
    """What is written, where it was asked for."""

    json: Path | None = None
    markdown: Path | None = None
    plot: Path | None = None
    stop_plot: Path | None = None

    def check(self) -> None:
        """Raise OutputError or MissingExtraError for what could not be written later."""
        for path in (self.plot, self.stop_plot):
            if path is not None:
                check_plot(path)
        if self.json is not None:
            check_output(self.json, ".json", "--json")
        if self.markdown is not None:
            if self.markdown.suffix.lower() != ".md":
                raise OutputError(f"--markdown {self.markdown}: the name must end in .md")
            check_writable(self.markdown)


@dataclass(frozen=True)
class QualityJob:
    """One run of `autogaze bench quality`.

    Attributes:
        clips: of a kind.
        every: networks judge every so-many-th frame.
        stop_losses: thresholds, in the unit of `stop_judge`; none asks for no stops.
        batch: clips at a time.
    """

    material: Material
    selectors: tuple[str, ...]
    weights: tuple[Weights, ...]
    ratios: tuple[float, ...]
    judges: JudgeOptions
    clips: int
    reference: str
    stop_losses: tuple[float, ...]
    stop_judge: str
    every: int
    seed: int
    batch: int
    place: Place
    files: Files

    @classmethod
    def parse(
        cls,
        *,
        data: str | None = None,
        split: str = "val",
        static: Sequence[str] | None = None,
        photos: Sequence[str] | None = None,
        weights: Sequence[str] | None = None,
        selectors: Sequence[str] | None = None,
        ratios: Sequence[float] | None = None,
        judge: str | None = None,
        efficientnet: bool = True,
        clips: int = 24,
        reference: str | None = None,
        stop_losses: Sequence[float] | None = None,
        stop_judge: str = CANVAS,
        every: int = 1,
        seed: int = 0,
        batch: int = 4,
        device: str = "cpu",
        json: str | None = None,
        markdown: str | None = None,
        plot: str | None = None,
        stop_plot: str | None = None,
    ) -> "QualityJob":
        """Fill in defaults; raises AutoGazeError for what cannot be measured or written."""
        learned = tuple(Weights.parse(text) for text in weights or ())
        names = tuple(dict.fromkeys(selectors or SELECTORS[1 if learned else 0 :]))
        check_selectors(names, learned)
        for ratio in ratios or ():
            check_ratio(ratio)
        judges = JudgeOptions(judge, efficientnet)
        judges.check()
        names = tuple(sorted(names, key=lambda name: name != LEARNED))  # with other weights, first
        everybody = list(dict.fromkeys([*(one.name for one in learned), *names, *CONTROLS]))
        reference = everybody[0] if reference is None else reference
        if reference not in everybody:
            raise SelectorError(
                f"--reference {reference!r} is not compared; there are {', '.join(everybody)}"
            )
        if CLIP_LEN % every:
            raise SelectorError(f"--every must divide the {CLIP_LEN} frames of a clip, got {every}")
        thresholds = tuple(sorted(set(stop_losses or ())))
        stopping = bool(learned) or LEARNED in names
        _check_stops(thresholds, stop_judge, judges, stopping, stop_plot)
        files = Files(*(None if n is None else Path(n) for n in (json, markdown, plot, stop_plot)))
        files.check()
        return cls(
            material=_material(data, split, static or (), photos or ()),
            selectors=names,
            weights=learned,
            ratios=tuple(ratios or RATIOS),
            judges=judges,
            clips=clips,
            reference=reference,
            stop_losses=thresholds,
            stop_judge=stop_judge,
            every=every,
            seed=seed,
            batch=batch,
            place=Place.parse(device, "float32"),
            files=files,
        )


def run_quality(job: QualityJob) -> QualityReport:
    """Measure everything, with a progress bar where stderr is a terminal."""
    device = job.place.device
    contenders = load_contenders(job.selectors, job.weights, device)
    pyramid = contenders[0].selector.pyramid
    clips = plan_clips(job.material, per_kind=job.clips, side=pyramid.side, seed=job.seed)
    donors(clips)  # raises where a kind is too small
    judges = job.judges.load(pyramid, device)
    stopping = [one for one in contenders if can_stop(one.selector, job.stop_judge)]
    steps = num_steps(len(contenders), len(make_rows(contenders)), len(clips), job.batch)
    if job.stop_losses:
        steps += -(-len(clips) // job.batch) * len(stopping)
    with progress(steps) as step:
        measured = measure(
            clips, contenders, judges, job.ratios,
            batch=job.batch, device=device, every=job.every, seed=job.seed, step=step,
        )  # fmt: skip
        stops = None
        if job.stop_losses:
            judge = next(one for one in judges if one.name == job.stop_judge)
            stops = measure_stops(
                clips, stopping, judge, job.stop_losses,
                batch=job.batch, device=device, seed=job.seed, step=step,
            )  # fmt: skip
    setting = Setting(
        reference=job.reference,
        seed=job.seed,
        every=job.every,
        place=str(job.place),
        weights=tuple((one.name, one.place) for one in job.weights)
        + ((LEARNED, "of the package"),) * (LEARNED in job.selectors),
        video_mae=job.judges.video_mae,
    )
    return make_report(measured, setting, stops)


def run_job(job: QualityJob, console: Console, *, by_kind: bool = False) -> None:
    """Measure, print the tables, write files."""
    report = run_quality(job)
    print_report(report, console, by_kind=by_kind)
    files = job.files
    with all_or_none():
        if files.plot is not None:
            plot_curves(report, files.plot)
        if files.stop_plot is not None:
            plot_stops(report, files.stop_plot)
        if files.markdown is not None:
            with replacing(files.markdown) as temporary:
                temporary.write_text(to_markdown(report))
        if files.json is not None:
            write_json(files.json, {"hardware": hardware(job.place.device), **report.to_json()})


def _material(
    data: str | None, split: str, static: Sequence[str], photos: Sequence[str]
) -> Material:
    if data is not None and (static or photos):
        raise VideoError("give either --data ROOT or --static and --photos, not both")
    if data is not None:
        return Material.of_root(data, split)
    if not (static or photos):
        raise VideoError(
            "no clips to judge on: give --data ROOT, whose folders */val hold videos and "
            "pictures, or --static FOLDER of videos and --photos FOLDER of pictures"
        )
    return Material.of_places(static, photos)


def _check_stops(
    thresholds: Sequence[float],
    stop_judge: str,
    judges: JudgeOptions,
    stopping: bool,
    plot: str | None,
) -> None:
    if not thresholds:
        if plot is not None:
            raise SelectorError("--stop-plot needs thresholds: give --stop-loss")
        return
    for threshold in thresholds:
        check_loss(threshold)
        if threshold == 0:
            raise SelectorError("--stop-loss must be above 0: actual losses are compared with it")
    if not stopping:
        raise SelectorError(
            "--stop-loss is about losses that weights predict (greedy stands beside them): give "
            f"--weights NAME=PATH, or --selector {LEARNED}"
        )
    if stop_judge not in (CANVAS, VIDEO_MAE):
        raise SelectorError(f"--stop-judge must be {CANVAS} or {VIDEO_MAE}, got {stop_judge!r}")
    if stop_judge == VIDEO_MAE and judges.video_mae is None:
        raise SelectorError(
            f"--stop-judge {VIDEO_MAE} needs that judge: give --judge FOLDER (or {LEARNED}), or --stop-judge "
            f"{CANVAS} for weights that were trained with the canvas"
        )
