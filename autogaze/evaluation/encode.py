"""`autogaze bench encode`: what seeing a video costs, gazed and dense, stage by stage.

Passes over the same piece of video are run in rounds: dense, then every selector, and
again. Factors are taken inside a round, so that a machine that is slower now than a
minute ago is slower for both sides.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autogaze.evaluation.choosers import Chooser, load_chooser, with_controls
from autogaze.evaluation.dense_batch import fastest_batch
from autogaze.evaluation.encode_report import (
    CellReport,
    Cost,
    EncodeReport,
    EncoderReport,
    Spread,
)
from autogaze.evaluation.encoders import MeasuredEncoder, load_encoder
from autogaze.evaluation.flops import EncoderFlops
from autogaze.evaluation.passes import Footage, Seen, dense_pass, gazed_pass
from autogaze.evaluation.progress import Step, silent
from autogaze.evaluation.timing import (
    SEEING,
    ByStage,
    Meter,
    PeakMeter,
    Stage,
    Stopwatch,
    Timing,
    gauge_of,
    hardware,
)
from autogaze.utils.device import Place
from autogaze.video.reader import Video

# What share of the patches AutoGaze's published weights need, by frame rate and resolution.

AT_224_PIXELS = ((1.0, 0.205), (3.0, 0.181), (10.0, 0.132), (30.0, 0.069))
AT_30_FPS = ((224.0, 0.069), (448.0, 0.058), (896.0, 0.040), (1792.0, 0.024), (3584.0, 0.009))

HOW = (
    "published shares for loss 0.7 (224 px: 1, 3, 10, 30 fps .205 .181 .132 .069; 30 fps: 448, "
    "896, 1792 px .058 .040 .024); between them straight lines in logarithms, rate and "
    "resolution taken as independent factors, ends held"
)


def published_ratio(fps: float, pixels: float) -> float:
    """The share at `fps` frames a second of `pixels` x `pixels`.

    Between published points the logarithm of the share is linear in that of the rate or
    the resolution; the two are taken as independent factors. Outside the published range
    the nearest point holds.
    """
    factor = _between(AT_30_FPS, pixels) / AT_30_FPS[0][1]
    return _between(AT_224_PIXELS, fps) * factor


def _between(points: tuple[tuple[float, float], ...], at: float) -> float:
    where, share = np.log(points).T
    return float(np.exp(np.interp(np.log(at), where, share)))


DENSE = "dense"


@dataclass(frozen=True)
class EncodeOptions:
    """What `bench_encode` measures.

    Attributes:
        encoders: presets, checkpoint folders or hub ids.
        selectors: what `autogaze.load` takes; the controls are added.
        fps: frames a second.
        resolutions: pixels a side of the whole frame, covered by tiles of the encoder's side.
        frames: frames a pass.
        ratio: share of patches for every selector; None takes the published ones, and of
            trained weights their own stop.
        attn_type: who is seen by a gazed token.
        repeats: measured rounds, after one of warm-up.
        dense_batch: frames that dense encoding is given at once; None finds the fastest.
    """

    encoders: Sequence[str]
    selectors: Sequence[str]
    fps: Sequence[float]
    resolutions: Sequence[int]
    frames: int = 16
    ratio: float | None = None
    attn_type: str = "block_causal"
    repeats: int = 3
    dense_batch: int | None = None

    @property
    def num_steps(self) -> int:
        """Passes that will be run, for a progress bar."""
        passes = (len(with_controls(self.selectors)) + 1) * (self.repeats + 2)
        return len(self.encoders) * len(self.fps) * len(self.resolutions) * passes


@dataclass(frozen=True)
class _Runner:
    """One way to see a piece of video, and what is known of it."""

    name: str
    ratio: float | None
    chooser: Chooser | None  # None sees everything


def bench_encode(
    video: str, options: EncodeOptions, place: Place, step: Step = silent
) -> EncodeReport:
    """Measure a grid of frame rates, resolutions, selectors and encoders on one video."""
    opened = Video(video)
    encoders = []
    for name in options.encoders:
        encoder = load_encoder(name, place, options.attn_type)
        encoders.append(measure_encoder(encoder, opened, options, step))
        del encoder  # before the next one is made
    return EncodeReport(
        hardware=hardware(place.device),
        place=str(place),
        video=opened.info.path,
        video_size=(opened.info.width, opened.info.height),
        video_fps=opened.info.fps,
        budget=HOW if options.ratio is None else f"{options.ratio:g} for every selector",
        memory=gauge_of(place.device).method,
        attn_type=options.attn_type,
        repeats=options.repeats,
        encoders=tuple(encoders),
    )


def measure_encoder(
    encoder: MeasuredEncoder, video: Video, options: EncodeOptions, step: Step = silent
) -> EncoderReport:
    """All cells of one encoder."""
    names = with_controls(options.selectors)
    choosers = [load_chooser(name, encoder.pyramid, encoder.place) for name in names]
    batch = options.dense_batch or fastest_batch(encoder)
    cells = [
        _measure_cell(
            encoder,
            Footage.of(video, fps, options.frames, resolution, encoder.pyramid.side),
            choosers,
            resolution,
            batch,
            options,
            step,
        )
        for resolution in options.resolutions
        for fps in options.fps
    ]
    return EncoderReport(
        name=encoder.name,
        random_weights=encoder.random,
        scales=str(encoder.pyramid),
        dense_batch=batch,
        dense_batch_searched=options.dense_batch is None,
        cells=tuple(cells),
    )


def _measure_cell(
    encoder: MeasuredEncoder,
    footage: Footage,
    choosers: Sequence[Chooser],
    resolution: int,
    batch: int,
    options: EncodeOptions,
    step: Step,
) -> CellReport:
    published = published_ratio(footage.fps, resolution)
    runners = [_Runner(DENSE, None, None)]
    for chooser in choosers:
        ratio = published if options.ratio is None and not chooser.stops else options.ratio
        runners.append(_Runner(chooser.name, ratio, chooser))

    def run(runner: _Runner, meter: Meter) -> Seen:
        step(f"{encoder.name}, {resolution} px, {footage.fps:g} fps: {runner.name}")
        if runner.chooser is not None:
            return gazed_pass(footage, encoder, runner.chooser, runner.ratio, meter)
        count = dense_pass(footage, encoder, batch, meter)
        return Seen(((encoder.pyramid.cells[-1],),) * count, ())

    seen = [run(runner, Meter()) for runner in runners]  # the warm-up
    rounds = []
    for _ in range(options.repeats):
        watches = [Stopwatch(encoder.place.device) for _ in runners]
        for runner, watch in zip(runners, watches, strict=True):
            run(runner, watch)
        rounds.append(watches)
    costs = []
    for index, runner in enumerate(runners):
        gauge = PeakMeter(gauge_of(encoder.place.device))
        run(runner, gauge)
        watches = [watches[index] for watches in rounds]
        dense = [watches[0] for watches in rounds]
        costs.append(_cost(encoder, runner, seen[index], watches, dense, gauge))
    frames = len(seen[0].lengths) // footage.tiles.num_tiles
    return CellReport(
        fps=footage.fps,
        fps_seen=footage.fps_seen,
        frames=frames,
        resolution=resolution,
        pixels=footage.tiles.content_width,
        tiles=footage.tiles.num_tiles,
        dense=costs[0],
        gazed=tuple(costs[1:]),
    )


def _cost(
    encoder: MeasuredEncoder,
    runner: _Runner,
    seen: Seen,
    watches: Sequence[Stopwatch],
    dense: Sequence[Stopwatch],
    gauge: PeakMeter,
) -> Cost:
    pairs = list(zip(watches, dense, strict=True))
    return Cost(
        selector=runner.name,
        ratio=runner.ratio,
        tokens=seen.tokens,
        seconds=ByStage.of(lambda stage: Timing.of([watch.seconds[stage] for watch in watches])),
        seeing=Timing.of([watch.of(*SEEING) for watch in watches]),
        whole=Timing.of([watch.of(*Stage) for watch in watches]),
        factor=Spread.of([full.of(*SEEING) / watch.of(*SEEING) for watch, full in pairs]),
        whole_factor=statistics.median(full.of(*Stage) / watch.of(*Stage) for watch, full in pairs),
        encoding=statistics.median(
            watch.of(Stage.EMBED, Stage.ENCODE) / full.of(*SEEING) for watch, full in pairs
        ),
        flops=_flops(encoder, runner, seen),
        peak=ByStage.of(lambda stage: gauge.peaks[stage]),
    )


def _flops(encoder: MeasuredEncoder, runner: _Runner, seen: Seen) -> ByStage[int]:
    flops = EncoderFlops.of(encoder.adapter)
    chooser = runner.chooser
    embedding = flops.embedding(seen.tokens)
    if chooser is None:
        encoding = flops.encoding(seen.lengths, "frame_independent")
        return ByStage(0, 0, 0, embedding, encoding)
    selecting = sum(chooser.flops(own) for own in seen.own)
    encoding = flops.encoding(seen.lengths, encoder.gazed.settings.attn_type)
    return ByStage(0, 0, selecting, embedding, encoding)
