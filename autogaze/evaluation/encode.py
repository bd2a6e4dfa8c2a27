"""`autogaze bench encode`: the cost of encoding a video, gazed and dense, stage by stage.

Passes over the same piece of video are run in rounds: dense, then every selector, and
again. Speed-ups are taken inside a round, so that a machine that is slower now than a
minute ago is slower for both sides.
"""

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from autogaze.evaluation.encoders import MeasuredEncoder, load_encoder
from autogaze.evaluation.flops import EncoderFlops, selection_flops
from autogaze.evaluation.passes import Encoded, VideoSample, dense_pass, gazed_pass
from autogaze.evaluation.selectors import MeasuredSelector, load_selector, with_controls
from autogaze.evaluation.timing import (
    Enter,
    PeakMeter,
    Stage,
    StageTimer,
    Timing,
    hardware,
    memory_gauge,
)
from autogaze.utils.device import BatchSize, DeviceOptions
from autogaze.utils.progress import ProgressBar, silent
from autogaze.video.decoders import DecoderName
from autogaze.video.reader import Video
from autogaze.vision_encoders.attention import recorded_backends

AT_224_PIXELS = ((1.0, 0.205), (3.0, 0.181), (10.0, 0.132), (30.0, 0.069))
AT_30_FPS = ((224.0, 0.069), (448.0, 0.058), (896.0, 0.040), (1792.0, 0.024), (3584.0, 0.009))
"""Frames per second or pixels per side, and the share of patches that AutoGaze's published
weights need there for a loss of 0.7."""

PUBLISHED = (
    "published shares for loss 0.7 (224 px: 1, 3, 10, 30 fps .205 .181 .132 .069; 30 fps: 448, "
    "896, 1792 px .058 .040 .024), interpolated linearly in logarithms, rate and resolution as "
    "independent factors, constant outside"
)


def published_ratio(fps: float, pixels: float) -> float:
    """The published share of patches at `fps` frames per second of `pixels` x `pixels`."""

    def interpolated(points: tuple[tuple[float, float], ...], at: float) -> float:
        where, share = np.log(points).T
        return float(np.exp(np.interp(np.log(at), where, share)))

    return interpolated(AT_224_PIXELS, fps) * interpolated(AT_30_FPS, pixels) / AT_30_FPS[0][1]


@dataclass(frozen=True)
class SpeedUp:
    """Dense time over gazed time, over the rounds."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, factors: Sequence[float]) -> "SpeedUp":
        return cls(statistics.median(factors), min(factors), max(factors))


@dataclass(frozen=True)
class Cost:
    """Cost of encoding a piece of video in one way.

    Attributes:
        selector: "dense" encodes whole frames.
        ratio: cap asked for, as a share of all patches of all scales; None for dense, and
            where trained weights stopped by themselves.
        tokens: patches encoded, class tokens aside.
        share: tokens as a share of dense encoding's.
        select_to_encode: seconds of selecting, embedding and encoding together.
        factor: speed-up over dense encoding in `select_to_encode`.
        whole_factor: speed-up in all stages.
        over_share: time of embedding and encoding as a share of dense encoding's, over `share`.
        outcome: against dense encoding, "faster" or "slower" in every round, else "undecided".
        flops: counted, of the stages from selecting on.
        peak: peak bytes of every stage above the program and its weights; None where it
            cannot be measured.
    """

    selector: str
    ratio: float | None
    tokens: int
    share: float
    seconds: dict[Stage, Timing]
    select_to_encode: Timing
    all_stages: Timing
    factor: SpeedUp
    whole_factor: float
    over_share: float
    outcome: str
    flops: dict[Stage, int]
    peak: dict[Stage, int | None]

    @property
    def total_flops(self) -> int:
        return sum(self.flops.values())


@dataclass(frozen=True)
class CellReport:
    """One frame rate and resolution.

    Attributes:
        fps: frames per second asked for; `fps_found` what the video has of it.
        frames: frames encoded, fewer than asked for where the video is too short.
        resolution: pixels per side asked for; `pixels` what the tiles make of it.
        tiles: squares of the encoder's side that a frame is cut into.
    """

    fps: float
    fps_found: float
    frames: int
    resolution: int
    pixels: int
    tiles: int
    dense: Cost
    gazed: tuple[Cost, ...]

    @property
    def costs(self) -> tuple[Cost, ...]:
        return (self.dense, *self.gazed)


@dataclass(frozen=True)
class EncoderReport:
    """All cells of one encoder, gazed at `scales`.

    Attributes:
        backends: by which gazed attention was computed.
    """

    name: str
    random_weights: bool
    scales: str
    backends: tuple[str, ...]
    cells: tuple[CellReport, ...]


@dataclass(frozen=True)
class EncodeReport:
    """All that one run measured, and how.

    Attributes:
        device: and precision of the models.
        video_size: width and height in pixels.
        budget: where the selectors' ratios come from.
        memory: how peaks were measured.
        repeats: rounds.
        dense_batch: frames that dense encoding gets at once.
        decoder: what decoded, "pyav" or "torchcodec"; motion vectors are PyAV's in any case.
    """

    hardware: str
    device: str
    video: str
    video_size: tuple[int, int]
    video_fps: float | None
    budget: str
    memory: str
    attn_type: str
    repeats: int
    dense_batch: int
    encoders: tuple[EncoderReport, ...]
    decoder: str = "pyav"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        notes = [f"Shares of patches: {self.budget}."]
        cells = [cell for encoder in self.encoders for cell in encoder.cells]
        if any(cell.fps > cell.fps_found for cell in cells):
            notes.append(
                f"The video has {self.video_fps:g} frames per second: higher rates see those, "
                "with the share of patches of the rate asked for."
            )
        if len({cell.frames for cell in cells}) > 1:
            notes.append("The video is too short for all frames asked for at the lower rates.")
        if any(cell.pixels != cell.resolution for cell in cells):
            notes.append("Tiles make the next larger whole number of encoder sides.")
        if any(encoder.random_weights for encoder in self.encoders):
            notes.append("Encoders have random weights; their cost does not depend on them.")
        if self.decoder != "pyav":
            notes.append(f"Decoded by {self.decoder}.")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


def bench_encode(
    video: str,
    encoders: Sequence[str],
    selectors: Sequence[str],
    fps: Sequence[float],
    resolutions: Sequence[int],
    *,
    frames: int = 16,
    ratio: float | None = None,
    attn_type: str = "block_causal",
    backend: str = "auto",
    repeats: int = 3,
    dense_batch: int | None = None,
    decoder: DecoderName = "auto",
    device_options: DeviceOptions,
) -> EncodeReport:
    """Measure a grid of frame rates, resolutions, selectors and encoders on one video.

    Args:
        encoders: presets, checkpoint folders or hub ids.
        selectors: what `autogaze.load` takes; the controls are added.
        resolutions: pixels per side of the whole frame, covered by tiles of the encoder's side.
        frames: per pass.
        ratio: share of patches for every selector; None takes the published ones, and lets
            trained weights stop by themselves.
        attn_type: what a gazed token attends to.
        backend: of gazed attention; "auto" takes what suits the device and the gaze.
        repeats: measured rounds, after one of warm-up.
        dense_batch: frames that dense encoding gets at once; None: 4, on a GPU 64.
        decoder: see `autogaze.video.Video`.
    """
    opened = Video(video, decoder=decoder, device=device_options.device)
    batch = dense_batch or (64 if device_options.device.type == "cuda" else 4)
    frames_at_once = BatchSize("frames", "lower dense_batch (--dense-batch)")
    names = with_controls(selectors)
    passes = (len(names) + 1) * (repeats + 2)
    reports = []
    with ProgressBar(len(encoders) * len(fps) * len(resolutions) * passes, "passes") as bar:
        for name in encoders:
            encoder = load_encoder(name, device_options, attn_type, backend)
            loaded = [load_selector(one, encoder.pyramid, device_options) for one in names]
            cells = []
            backends: set[str] = set()
            for resolution in resolutions:
                for rate in fps:
                    sample = VideoSample.of(opened, rate, frames, resolution, encoder.pyramid.side)
                    published = published_ratio(rate, resolution)
                    dense = partial(dense_pass, sample, encoder, batch, _tiles(), frames_at_once)
                    ways = [Way("dense", None, None, dense)]
                    for one in loaded:
                        cap = published if ratio is None and not one.stops_early else ratio
                        run = partial(gazed_pass, sample, encoder, one, cap, _tiles())
                        ways.append(Way(one.name, one, cap, run))
                    with recorded_backends() as recorded:
                        cells.append(
                            _measure(encoder, sample, resolution, ways, repeats, bar.begin)
                        )
                    backends |= recorded
            scales, computed = str(encoder.pyramid), tuple(sorted(backends))
            reports.append(
                EncoderReport(encoder.name, encoder.random, scales, computed, tuple(cells))
            )
            del encoder, loaded, ways, run  # before the next ones are made
    return EncodeReport(
        hardware=hardware(device_options.device),
        device=str(device_options),
        video=opened.info.path,
        video_size=(opened.info.width, opened.info.height),
        video_fps=opened.info.fps,
        budget=PUBLISHED if ratio is None else f"{ratio:g} for every selector",
        memory=memory_gauge(device_options.device).method,
        attn_type=attn_type,
        repeats=repeats,
        dense_batch=frames_at_once.halved or batch,
        encoders=tuple(reports),
        decoder=opened.decoded_by,
    )


def _tiles() -> BatchSize:
    """Of the passes of one way to encode."""
    return BatchSize(
        "tiles", "lower the resolution (--resolution) or the share of patches (--ratio)"
    )


class Way(NamedTuple):
    """One way to encode a piece of video: by what a selector chose, or whole (None)."""

    name: str
    selector: MeasuredSelector | None
    ratio: float | None
    run: Callable[[Enter], Encoded]


def _measure(
    encoder: MeasuredEncoder,
    sample: VideoSample,
    resolution: int,
    ways: Sequence[Way],
    repeats: int,
    step: Callable[[str], object],
) -> CellReport:
    """Warm up, run rounds of all ways (dense first), then measure memory."""

    def run(way: Way, enter: Enter) -> Encoded:
        step(f"{encoder.name}, {resolution} px, {sample.fps:g} fps: {way.name}")
        return way.run(enter)

    encoded = [run(way, silent) for way in ways]
    rounds = []
    for _ in range(repeats):
        watches = [StageTimer() for _ in ways]
        for way, watch in zip(ways, watches, strict=True):
            run(way, watch.enter)
        rounds.append([watch.seconds for watch in watches])
    gc.collect()  # once: it takes long, and tensors do not wait for it
    costs = []
    for number, way in enumerate(ways):
        memory = PeakMeter(memory_gauge(encoder.device_options.device))
        run(way, memory.enter)
        pairs = [(seconds[number], seconds[0]) for seconds in rounds]
        tokens, flops = encoded[0].tokens, _flops(encoder, way, encoded[number])
        costs.append(_cost(way, encoded[number].tokens, tokens, pairs, flops, memory.peaks))
    return CellReport(
        fps=sample.fps,
        fps_found=sample.fps_found,
        frames=len(encoded[0].lengths) // sample.tiles.num_tiles,
        resolution=resolution,
        pixels=sample.tiles.content_width,
        tiles=sample.tiles.num_tiles,
        dense=costs[0],
        gazed=tuple(costs[1:]),
    )


def _flops(encoder: MeasuredEncoder, way: Way, encoded: Encoded) -> dict[Stage, int]:
    flops = EncoderFlops.of(encoder.adapter)
    attn_type, selecting = encoder.gazed.settings.attn_type, 0
    if way.selector is None:
        attn_type = "frame_independent"
    else:
        selecting = selection_flops(way.selector.selector, encoded.decoded)
    return {
        Stage.SELECT: selecting,
        Stage.EMBED: flops.embedding(encoded.tokens),
        Stage.ENCODE: flops.encoding(encoded.lengths, attn_type),
    }


def _cost(
    way: Way,
    tokens: int,
    dense_tokens: int,
    rounds: Sequence[tuple[dict[Stage, float], dict[Stage, float]]],
    flops: dict[Stage, int],
    peak: dict[Stage, int | None],
) -> Cost:
    """The cost of a way from its seconds and dense encoding's in every round."""

    def each(*stages: Stage) -> tuple[list[float], list[float]]:
        """Of every round the seconds of some stages: the way's and dense encoding's."""
        own, dense = zip(*rounds, strict=True)
        return [sum(by[s] for s in stages) for by in own], [
            sum(by[s] for s in stages) for by in dense
        ]

    def factors(own: list[float], dense: list[float]) -> list[float]:
        return [b / a for a, b in zip(own, dense, strict=True)]

    differing, whole = each(Stage.SELECT, Stage.EMBED, Stage.ENCODE), each(*Stage)
    encoding = factors(differing[1], each(Stage.EMBED, Stage.ENCODE)[0])
    share, factor = tokens / dense_tokens, SpeedUp.of(factors(*differing))
    return Cost(
        selector=way.name,
        ratio=way.ratio,
        tokens=tokens,
        share=share,
        seconds={stage: Timing.of(each(stage)[0]) for stage in Stage},
        select_to_encode=Timing.of(differing[0]),
        all_stages=Timing.of(whole[0]),
        factor=factor,
        whole_factor=statistics.median(factors(*whole)),
        over_share=statistics.median(encoding) / share,
        outcome=outcome(factor),
        flops=flops,
        peak=peak,
    )


def outcome(factor: SpeedUp) -> str:
    """Whether a speed-up is one in every round."""
    if factor.least > 1:
        return "faster"
    return "slower" if factor.largest < 1 else "undecided"
