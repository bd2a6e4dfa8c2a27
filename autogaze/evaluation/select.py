"""`autogaze bench select`: time of selecting, beside the arithmetic it needs.

Every time stands beside its floor: the arithmetic of the selection, counted by
`autogaze.evaluation.flops`, at the rate that a plain matrix product reaches on the
same machine in the same run.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from autogaze.clips import frame_caps
from autogaze.errors import SelectorError
from autogaze.evaluation.flops import selection_flops
from autogaze.evaluation.selectors import check_motion_needed, load_selector
from autogaze.evaluation.tables import TextTable, print_tables
from autogaze.evaluation.timing import Timing, hardware, matrix_rate, timed
from autogaze.evaluation.videos import benchmark_clips
from autogaze.models.autogaze.kv_cache import Library, attention_kernel
from autogaze.pipeline import CHUNK
from autogaze.reconstruction.native_search import SearchKernel
from autogaze.reconstruction.search_kernel import search_kernel
from autogaze.selectors import registry
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned
from autogaze.utils.device import DeviceOptions
from autogaze.utils.kernels import Kernel
from autogaze.video.chunks import ChunkReader
from autogaze.video.reader import Video
from autogaze.video.writer import VideoWriter

CALL_OVERHEAD = 2e-3
"""About the seconds of a selector's call that computes nothing (`random`, `centre`)."""

LEARNED_CASES = ((0.1, 1), (0.1, 8), (0.75, 1))
OTHER_CASES: tuple[tuple[float, int], ...] = ((0.1, 1), (0.1, 16))
"""Ratio and clips per batch."""


@dataclass(frozen=True)
class SelectCost:
    """Cost of one selector at one setting.

    Attributes:
        seconds: wall-clock seconds per clip of 16 frames.
        flops: counted arithmetic per clip.
        rate: FLOP per second of a matrix product, measured just before.
    """

    selector: str
    ratio: float
    batch: int
    seconds: Timing
    flops: int
    rate: float

    @property
    def floor(self) -> float:
        """Seconds per clip that the arithmetic alone would take at `rate`."""
        return self.flops / self.rate

    @property
    def over_floor(self) -> float | None:
        """Time over floor; None where a call's floor is below the overhead of any call."""
        if self.floor * self.batch < CALL_OVERHEAD:
            return None
        return self.seconds.median / self.floor


@dataclass(frozen=True)
class CodecCost:
    """Seconds of decoding 16 frames, and of what the codec selector adds to it."""

    decode: Timing
    decode_with_motion: Timing
    select: Timing
    video: str


@dataclass(frozen=True)
class SelectReport:
    """All that one run measured; `attention` is the kernel of the learned selector, `search` greedy's."""

    hardware: str
    costs: tuple[SelectCost, ...]
    codec: CodecCost | None
    attention: Kernel[Library] | None
    search: SearchKernel | None = None

    def to_json(self) -> str:
        rows = [{**asdict(cost), "over_floor": cost.over_floor} for cost in self.costs]
        codec = self.codec and asdict(self.codec)
        kernels = {
            name: kernel and {"name": kernel.name, "why": kernel.why}
            for name, kernel in (("attention", self.attention), ("search", self.search))
        }
        report = {"hardware": self.hardware, **kernels, "select": rows, "codec": codec}
        return json.dumps(report, indent=1)


@torch.inference_mode()
def bench_select(
    selectors: Sequence[str],
    *,
    weights: str | None = None,
    video: str | None = None,
    repeats: int = 7,
    device_options: DeviceOptions,
) -> SelectReport:
    """Time selectors.

    Args:
        selectors: names of `autogaze.list_selectors`.
        weights: checkpoint of the learned selector; None takes the package's own.
            At a given ratio all of one architecture take the same time.
        video: where clips come from; None makes moving textures.
        repeats: measured runs.
        device_options: where selectors run, and the precision of a model.
    """
    if video is not None:
        check_motion_needed(selectors, [Video(video).info])
    costs = []
    attention, search = None, None
    for name in selectors:
        if name == "codec":  # reads motion, not pixels: measured with decoding
            continue
        cases = OTHER_CASES
        path = weights if name == registry.LEARNED else None
        selector = load_selector(name, None, device_options, path).selector
        if name == registry.LEARNED:
            if not isinstance(selector, Learned):
                raise SelectorError(f"--weights {weights}: is no learned selector")
            cases = LEARNED_CASES
            decoder = selector.config.gaze_model_config.gaze_decoder_config
            like = torch.empty(0, device=device_options.device, dtype=device_options.dtype)
            attention = attention_kernel(like, decoder.head_dim)
        if name == "greedy":
            search = search_kernel(selector.pyramid, device_options.device)
        costs += [_measure(selector, *case, video, repeats, device_options) for case in cases]
    codec = _measure_codec(video, repeats) if "codec" in selectors else None
    return SelectReport(hardware(device_options.device), tuple(costs), codec, attention, search)


def _measure(
    selector: Selector,
    ratio: float,
    batch: int,
    video: str | None,
    repeats: int,
    device_options: DeviceOptions,
) -> SelectCost:
    frames = benchmark_clips(batch, selector.pyramid.side, video).to(device_options.device)
    caps = frame_caps(ratio, CHUNK, selector.pyramid.num_patches)
    rate = matrix_rate(device_options.device, device_options.dtype)
    generator = torch.Generator().manual_seed(0)
    timing = timed(lambda: selector.select(frames, ratio=ratio, generator=generator), repeats)
    flops = selection_flops(selector, [caps])
    return SelectCost(selector.name, ratio, batch, timing.scaled(1 / batch), flops, rate)


def _measure_codec(video: str | None, repeats: int) -> CodecCost:
    selector = registry.load("codec")
    with tempfile.TemporaryDirectory() as folder:
        path = video or str(Path(folder) / "moving.mp4")
        if video is None:
            frames = benchmark_clips(1, 224, None)[0].permute(0, 2, 3, 1)
            with VideoWriter(path, 30, 224, 224) as writer:
                for _ in range(4):  # long enough that opening the file does not count
                    for frame in frames:
                        writer.write(frame.numpy())

        def decode(motion: bool) -> int:
            return sum(1 for _ in Video(path).frames(motion=motion))

        per_clip = CHUNK / decode(motion=False)
        plain = timed(lambda: decode(motion=False), repeats)
        exporting = timed(lambda: decode(motion=True), repeats)
        grid = selector.pyramid.grids[-1]
        chunks = ChunkReader(path, side=selector.pyramid.side, tiles="one", motion_grid=grid)
        clips = next(iter(chunks)).clips
        select = timed(lambda: selector.select(clips, ratio=0.1), repeats)
    return CodecCost(
        plain.scaled(per_clip),
        exporting.scaled(per_clip),
        select.scaled(CHUNK / clips.num_frames),
        video or "moving textures, H.264, 224 x 224",
    )


def print_report(report: SelectReport, console: Console) -> None:
    """The table of `autogaze bench select`."""
    header = (
        *("selector", "ratio", "batch", "ms per clip", "fastest..slowest", "GFLOP per clip"),
        *("GFLOP/s here", "floor, ms", "time / floor"),
    )
    rows = [
        (
            cost.selector,
            f"{cost.ratio:g}",
            str(cost.batch),
            f"{cost.seconds.median * 1e3:.1f}",
            f"{cost.seconds.fastest * 1e3:.1f}..{cost.seconds.slowest * 1e3:.1f}",
            f"{cost.flops / 1e9:.2f}" if cost.flops else "none",
            f"{cost.rate / 1e9:.0f}",
            f"{cost.floor * 1e3:.1f}" if cost.flops else "",
            "" if cost.over_floor is None else f"{cost.over_floor:.2f}",
        )
        for cost in report.costs
    ]
    title = f"Selecting from clips of 16 x 224 x 224\n{report.hardware}"
    caption = (
        "floor: the arithmetic alone, at the rate of a matrix product. time / floor is left "
        f"empty where a whole call's floor is below {1e3 * CALL_OVERHEAD:g} ms, about what a call "
        "takes that computes nothing."
    )
    if rows:
        print_tables(console, [TextTable(title, header, rows, caption=caption)])
    if report.attention:
        console.print(f"attention: {report.attention.name} ({report.attention.why})")
    if report.search:
        console.print(f"greedy search: {report.search.name} ({report.search.why})")
    if codec := report.codec:
        console.print(
            f"codec, 16 frames of {codec.video}: decoding {codec.decode.median * 1e3:.1f} ms; "
            f"with motion vectors exported {codec.decode_with_motion.median * 1e3:.1f} ms; "
            f"selecting {codec.select.median * 1e3:.2f} ms"
        )
