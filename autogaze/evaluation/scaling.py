"""Does the cost of a ViT follow what was chosen? Random gazes of a fixed size, gazed and dense.

The target: with s = gazed tokens / dense tokens, encoding takes at most 1.25 x s of dense
encoding's time, and 5 % of it besides.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from autogaze.evaluation.encode_report import Spread
from autogaze.evaluation.encoders import MeasuredEncoder
from autogaze.evaluation.passes import encode_dense, encode_gazed
from autogaze.evaluation.progress import Step, silent
from autogaze.evaluation.timing import SEEING, Meter, Stopwatch, Timing
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders import gazed
from autogaze.vision_encoders.layout import AttentionType

FRAMES = 16
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)
ATTENTION: tuple[AttentionType, ...] = ("frame_independent", "block_causal")
SLOPE, OFFSET = 1.25, 0.05


@dataclass(frozen=True)
class ScalingRow:
    """Encoding random gazes of one size.

    Attributes:
        ragged: whether frames differ in length (by up to a half of the mean) or are equal.
        share: gazed tokens / dense tokens.
        seconds: embedding and encoding.
        relative: the same as a share of dense encoding's time, inside a round.
    """

    attn_type: str
    ragged: bool
    share: float
    seconds: Timing
    relative: Spread

    @property
    def allowed(self) -> float:
        """The target for `relative`."""
        return SLOPE * self.share + OFFSET

    @property
    def over_share(self) -> float:
        return self.relative.median / self.share

    @property
    def met(self) -> bool:
        return self.relative.median <= self.allowed


@dataclass(frozen=True)
class Scaling:
    """All of one encoder; dense encoding takes `dense` seconds for `frames` frames."""

    encoder: str
    frames: int
    dense_batch: int
    dense: Timing
    rows: tuple[ScalingRow, ...]

    def to_json(self) -> dict[str, Any]:
        rows = [
            {**asdict(row), "allowed": row.allowed, "over_share": row.over_share, "met": row.met}
            for row in self.rows
        ]
        return {**asdict(self), "rows": rows}


@dataclass(frozen=True)
class _Case:
    attn_type: AttentionType
    ragged: bool
    gaze: Gaze
    encoder: MeasuredEncoder


def num_steps(repeats: int) -> int:
    """Passes that `measure_scaling` runs."""
    return (1 + 2 * len(ATTENTION) * len(SHARES)) * (1 + repeats)


@torch.inference_mode()
def measure_scaling(
    encoder: MeasuredEncoder, repeats: int, batch: int, step: Step = silent
) -> Scaling:
    """Encode random gazes at one clip of 16 frames, in rounds with dense encoding."""
    place, side = encoder.place, encoder.pyramid.side
    generator = torch.Generator().manual_seed(0)
    shape = (1, FRAMES, 3, side, side)
    frames = torch.rand(shape, generator=generator).to(place.device, place.dtype)
    cases = [
        _Case(attn_type, ragged, gaze, _with_attention(encoder, attn_type))
        for share in SHARES
        for ragged in (False, True)
        for gaze in (random_gaze(encoder.pyramid, FRAMES, share, generator, ragged),)
        for attn_type in ATTENTION
    ]

    def full() -> float:
        step(f"{encoder.name}: dense")
        watch = Stopwatch(place.device)
        encode_dense(encoder, frames[0], batch, watch)
        return watch.of(*SEEING)

    def part(case: _Case, watch: Meter) -> None:
        step(f"{encoder.name}: {case.gaze.num_patches} tokens, {case.attn_type}")
        encode_gazed(case.encoder, frames, case.gaze, watch)
        watch.stop()

    full()
    for case in cases:
        part(case, Meter())
    dense: list[float] = []
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        dense.append(full())
        for case, taken in zip(cases, seconds, strict=True):
            watch = Stopwatch(place.device)
            part(case, watch)
            taken.append(watch.of(*SEEING))
    cells = FRAMES * encoder.pyramid.cells[-1]
    rows = tuple(
        ScalingRow(
            case.attn_type,
            case.ragged,
            case.gaze.num_patches / cells,
            Timing.of(taken),
            Spread.of([one / whole for one, whole in zip(taken, dense, strict=True)]),
        )
        for case, taken in zip(cases, seconds, strict=True)
    )
    return Scaling(encoder.name, FRAMES, batch, Timing.of(dense), rows)


def random_gaze(
    pyramid: PatchPyramid,
    num_frames: int,
    share: float,
    generator: torch.Generator,
    ragged: bool = False,
    num_clips: int = 1,
) -> Gaze:
    """Patches of all scales at random, `share` times the finest scale's cells a frame.

    Args:
        ragged: frames have between a half and one and a half times as many, in all the same.
    """
    total, count = num_clips * num_frames, round(share * pyramid.cells[-1])
    counts = torch.full((total,), count)
    if ragged:
        spread = torch.randint(-(count // 2), count // 2 + 1, (total // 2,), generator=generator)
        counts[: 2 * len(spread)] += torch.stack([spread, -spread], 1).flatten()
    counts = counts.clamp(1, pyramid.num_patches)
    ids = [torch.randperm(pyramid.num_patches, generator=generator)[:n] for n in counts.tolist()]
    return Gaze(pyramid, torch.cat(ids), counts.view(num_clips, num_frames))


def scaling_table(scaling: Scaling) -> Table:
    """The table that `--scaling` prints."""
    dense = scaling.dense
    title = (
        f"Encoding a share s of the tokens of {scaling.frames} frames, {scaling.encoder}; dense "
        f"takes {1e3 * dense.median:.0f} ms ({1e3 * dense.fastest:.0f}.."
        f"{1e3 * dense.slowest:.0f}, {scaling.dense_batch} frames at once)\n"
        f"target: time / dense at most {SLOPE} s + {OFFSET:g}"
    )
    table = Table(title=escape(title), title_justify="left")
    for name in ("attention", "frames"):
        table.add_column(name)
    for name in ("s", "ms", "time / dense", "(range)", "target", "time / (s x dense)", "met"):
        table.add_column(name, justify="right")
    for attn_type in ATTENTION:
        table.add_section()
        for row in (row for row in scaling.rows if row.attn_type == attn_type):
            table.add_row(
                row.attn_type,
                "ragged" if row.ragged else "equal",
                f"{row.share:.3f}",
                f"{1e3 * row.seconds.median:.0f}",
                f"{row.relative.median:.3f}",
                f"{row.relative.least:.3f}..{row.relative.largest:.3f}",
                f"{row.allowed:.3f}",
                f"{row.over_share:.2f}",
                "yes" if row.met else "NO",
            )
    return table


def _with_attention(encoder: MeasuredEncoder, attn_type: AttentionType) -> MeasuredEncoder:
    return replace(encoder, gazed=gazed(encoder.dense, attn_type=attn_type))
