"""`autogaze bench select`: what choosing costs, beside the arithmetic it needs.

Every time stands beside its floor: the arithmetic of the selection, counted by
`autogaze.evaluation.flops`, at the rate that a plain matrix product reaches on the
same machine in the same run.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from autogaze.clips import Clips, frame_caps
from autogaze.errors import SelectorError, VideoError
from autogaze.evaluation.choosers import check_motion_wanted, selection_flops
from autogaze.evaluation.timing import Timing, hardware, matrix_rate, timed
from autogaze.models.autogaze.native import AttentionKernel, attention_kernel
from autogaze.selectors import registry
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned
from autogaze.video.chunks import ChunkReader
from autogaze.video.reader import Video
from autogaze.video.writer import VideoWriter

FRAMES = 16

CALL_OVERHEAD = 2e-3
"""About what a call of a selector takes that computes nothing (`random`, `centre`), in seconds."""

LEARNED_CASES = ((0.1, 1), (0.1, 8), (0.75, 1))
OTHER_CASES = ((0.1, 1), (0.1, 16))
"""Ratio and clips a batch."""


@dataclass(frozen=True)
class SelectCost:
    """What one selector costs at one setting.

    Attributes:
        seconds: wall-clock seconds a clip of 16 frames (`fastest`, `slowest` too).
        flops: counted arithmetic a clip.
        rate: FLOP a second of a matrix product, measured just before.
    """

    selector: str
    ratio: float
    batch: int
    seconds: Timing
    flops: int
    rate: float

    @property
    def floor(self) -> float:
        """Seconds a clip that the arithmetic alone would take at `rate`."""
        return self.flops / self.rate

    @property
    def over_floor(self) -> float | None:
        """Time over floor; None where a call's floor is less than a call costs anyway."""
        if self.floor * self.batch < CALL_OVERHEAD:
            return None
        return self.seconds.median / self.floor


@dataclass(frozen=True)
class CodecCost:
    """Decoding 16 frames, and what the codec selector adds to it, in seconds."""

    decode: Timing
    decode_with_motion: Timing
    select: Timing
    video: str


@dataclass(frozen=True)
class SelectReport:
    """All that one run measured; `attention` is what the learned selector used for it."""

    hardware: str
    costs: tuple[SelectCost, ...]
    codec: CodecCost | None
    attention: AttentionKernel | None

    def to_json(self) -> str:
        rows = [{**asdict(cost), "over_floor": cost.over_floor} for cost in self.costs]
        codec = self.codec and asdict(self.codec)
        attention = self.attention and {"name": self.attention.name, "why": self.attention.why}
        report = {"hardware": self.hardware, "attention": attention, "select": rows, "codec": codec}
        return json.dumps(report, indent=1)


@torch.inference_mode()
def bench_select(
    selectors: list[str],
    weights: str | None,
    video: str | None,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
) -> "SelectReport":
    """Time selectors.

    Args:
        selectors: names; "learned" runs on `device` in `dtype`, the others on the CPU.
        weights: checkpoint of the learned selector; None takes the package's own.
            At a given ratio all of one architecture take the same time.
        video: where clips come from; None makes moving textures.
        repeats: measured runs.
    """
    if video is not None:
        check_motion_wanted(selectors, [Video(video).info])
    costs = []
    attention = None
    for name in selectors:
        if name == "codec":  # which takes motion, not pixels: measured with decoding
            continue
        if name == "learned":
            selector: Selector = registry.load(weights or registry.LEARNED)
            if not isinstance(selector, Learned):
                raise SelectorError(f"--weights {weights}: is no learned selector")
            model = selector.model.to(device).to(dtype)  # type: ignore[arg-type]
            model.static_shapes = device.type == "cuda"
            where = device, dtype
            decoder = model.config.gaze_model_config.gaze_decoder_config
            attention = attention_kernel(
                torch.empty(0, device=device, dtype=dtype), decoder.head_dim
            )
        else:
            selector = registry.load(name)
            where = torch.device("cpu"), torch.float32
        for ratio, batch in LEARNED_CASES if name == "learned" else OTHER_CASES:
            costs.append(_measure(selector, ratio, batch, video, repeats, *where))
    codec = _measure_codec(video, repeats) if "codec" in selectors else None
    return SelectReport(hardware(device), tuple(costs), codec, attention)


def _measure(
    selector: Selector,
    ratio: float,
    batch: int,
    video: str | None,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
) -> SelectCost:
    frames = clips_to_choose_from(batch, selector.pyramid.side, video)
    caps = frame_caps(ratio, FRAMES, selector.pyramid.num_patches)
    flops = selection_flops(selector, [caps])
    rate = matrix_rate(device, dtype)
    generator = torch.Generator().manual_seed(0)
    timing = timed(lambda: selector.select(frames, ratio=ratio, generator=generator), repeats)
    clip = Timing(timing.median / batch, timing.fastest / batch, timing.slowest / batch)
    return SelectCost(selector.name, ratio, batch, clip, flops, rate)


def _measure_codec(video: str | None, repeats: int) -> CodecCost:
    selector = registry.load("codec")
    with tempfile.TemporaryDirectory() as folder:
        path = video
        if path is None:
            path = str(Path(folder) / "moving.mp4")
            frames = clips_to_choose_from(1, 224, None)[0].permute(0, 2, 3, 1)
            with VideoWriter(path, 30, 224, 224) as writer:
                for _ in range(4):  # long enough that opening the file does not count
                    for frame in frames:
                        writer.write(frame.numpy())

        def decode(motion: bool) -> int:
            return sum(1 for _ in Video(path).frames(motion=motion))

        per_clip = FRAMES / decode(motion=False)
        plain = timed(lambda: decode(motion=False), repeats)
        exporting = timed(lambda: decode(motion=True), repeats)
        grid = selector.pyramid.grids[-1]
        chunk = next(
            iter(ChunkReader(path, side=selector.pyramid.side, tiles="one", motion_grid=grid))
        )
        clips = Clips(chunk.clips.frames, chunk.clips.motion)
        select = timed(lambda: selector.select(clips, ratio=0.1), repeats)
        name = video or "moving textures, H.264, 224 x 224"
        return CodecCost(
            _scaled(plain, per_clip),
            _scaled(exporting, per_clip),
            _scaled(select, FRAMES / clips.num_frames),
            name,
        )


def _scaled(timing: Timing, factor: float) -> Timing:
    return Timing(timing.median * factor, timing.fastest * factor, timing.slowest * factor)


def clips_to_choose_from(batch: int, side: int, video: str | None) -> UInt8[Tensor, "B T 3 S S"]:
    """Clips of 16 frames: of a video, over and over if it is short, or textures that move."""
    if video is None:
        return torch.stack([_moving_texture(side, seed) for seed in range(batch)])
    clips: list[Tensor] = []
    while len(clips) < batch:
        for chunk in ChunkReader(video, side=side, tiles="one", chunk=FRAMES):
            if chunk.clips.num_frames == FRAMES:
                clips.append(chunk.clips.frames[0])
        if not clips:
            raise VideoError(f"{video}: shorter than {FRAMES} frames")
    return torch.stack(clips[:batch])


def _moving_texture(side: int, seed: int) -> UInt8[Tensor, "T 3 S S"]:
    """A square of one texture moving over another that pans, seeded."""
    generator = torch.Generator().manual_seed(seed)
    large = side + 4 * FRAMES

    def texture(size: int) -> Float[Tensor, "3 size size"]:
        picture = torch.zeros(3, size, size)
        for cells, weight in ((5, 4), (17, 2), (61, 1)):
            noise = torch.rand(1, 3, cells, cells, generator=generator)
            picture += weight / 7 * F.interpolate(noise, (size, size), mode="bicubic")[0]
        return picture.clamp(0, 1)

    ground, thing = texture(large), texture(side // 4)
    frames = []
    for t in range(FRAMES):
        frame = ground[:, 2 * t : 2 * t + side, 3 * t : 3 * t + side].clone()
        left, top = (5 * t) % (side - side // 4), side // 3
        frame[:, top : top + side // 4, left : left + side // 4] = thing
        frames.append(frame)
    return (torch.stack(frames) * 255).round().byte()


def print_report(report: SelectReport, console: Console) -> None:
    """The table that `autogaze bench select` shows."""
    table = Table(
        title=f"Choosing from clips of 16 x 224 x 224\n{report.hardware}",
        caption="floor: the arithmetic alone, at the rate of a matrix product. time / floor is left "
        f"empty where a whole call's floor is below {1e3 * CALL_OVERHEAD:g} ms, about what a call "
        "takes that computes nothing.",
        caption_justify="left",
    )
    for name in ("selector", "ratio", "batch", "ms a clip", "fastest..slowest"):
        table.add_column(name, justify="left" if name == "selector" else "right")
    for name in ("GFLOP a clip", "GFLOP/s here", "floor, ms", "time / floor"):
        table.add_column(name, justify="right")
    for cost in report.costs:
        over = cost.over_floor
        table.add_row(
            cost.selector,
            f"{cost.ratio:g}",
            str(cost.batch),
            f"{cost.seconds.median * 1e3:.1f}",
            f"{cost.seconds.fastest * 1e3:.1f}..{cost.seconds.slowest * 1e3:.1f}",
            f"{cost.flops / 1e9:.2f}" if cost.flops else "none",
            f"{cost.rate / 1e9:.0f}",
            f"{cost.floor * 1e3:.1f}" if cost.flops else "",
            f"{over:.2f}" if over is not None else "",
        )
    if report.costs:
        console.print(table)
    if report.attention:
        console.print(f"attention: {report.attention.name} ({report.attention.why})")
    if codec := report.codec:
        console.print(
            f"codec, 16 frames of {codec.video}: decoding {codec.decode.median * 1e3:.1f} ms; "
            f"with motion vectors exported {codec.decode_with_motion.median * 1e3:.1f} ms; "
            f"choosing {codec.select.median * 1e3:.2f} ms"
        )
