"""`autogaze bench fidelity`: how far gazed features are from dense ones.

Every frame is encoded whole by the untouched model and as gazed, and the two features
are compared: by their cosine, and by whether they have the same nearest neighbour. A
clip's feature is the mean of its frames'. The report is a table, and a plot against the share of tokens.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import EncoderError
from autogaze.evaluation.bootstrap import Estimate, estimate
from autogaze.evaluation.encoders import MeasuredEncoder
from autogaze.evaluation.selectors import MeasuredSelector, load_selector, with_controls
from autogaze.evaluation.tables import TextTable, changes, print_tables
from autogaze.evaluation.timing import hardware
from autogaze.evaluation.videos import TileClip, read_clips
from autogaze.rendering.plot_style import (
    GUIDE,
    LineEnd,
    caption,
    clean,
    interval_bars,
    label_ends,
    make_panels,
    save,
    selector_styles,
)
from autogaze.utils.progress import ProgressBar
from autogaze.video.decoders import DecoderName
from autogaze.vision_encoders.layout import TokenLayout

MIN_NEIGHBOUR_CLIPS = 3
"""Of two clips each is the other's nearest, whatever the features."""


@dataclass(frozen=True)
class Fidelity:
    """One selector at one budget.

    Attributes:
        share: gazed tokens / dense tokens.
        clip_cosine, frame_cosine: of gazed with dense features.
        clip_neighbour: share of clips with the same nearest other clip; None below
            `MIN_NEIGHBOUR_CLIPS` clips.
        frame_neighbour: share of frames with the same nearest frame of another clip
            (those of its own clip are next to the same picture).
    """

    selector: str
    ratio: float
    share: float
    clip_cosine: Estimate
    frame_cosine: Estimate
    clip_neighbour: Estimate | None
    frame_neighbour: Estimate


@dataclass(frozen=True)
class FidelityReport:
    """All that one run measured, and how.

    Attributes:
        random_weights: then cosines say next to nothing of what real weights would see.
        between_clips: mean cosine of dense features of two different clips, with which
            other cosines have to be compared.
        decoder: of the videos, as it was asked for.
    """

    hardware: str
    encoder: str
    random_weights: bool
    scales: str
    attn_type: str
    device: str
    videos: tuple[str, ...]
    num_clips: int
    num_frames: int
    between_clips: float
    rows: tuple[Fidelity, ...]
    decoder: DecoderName = "auto"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        notes = []
        if self.random_weights:
            notes.append(
                "RANDOM WEIGHTS: these figures say little of what a trained encoder would see; "
                "give one with --encoder FOLDER|HUB-ID."
            )
        notes.append(
            "Dense: the untouched model on whole frames at the largest scale. Dense features of "
            f"two different clips have a mean cosine of {self.between_clips:.3f}."
        )
        if self.num_clips < MIN_NEIGHBOUR_CLIPS:
            notes.append(
                f"{self.num_clips} clips only, which are each other's nearest in any case: no "
                "figure for the same neighbour of clips."
            )
        several = len(self.videos) > 1
        intervals = "Intervals: 95 %, from resampling whole videos."
        notes.append(intervals if several else "One video only, so there are no intervals.")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


def bench_fidelity(
    encoder: MeasuredEncoder,
    videos: Sequence[str],
    selectors: Sequence[str],
    ratios: Sequence[float],
    *,
    clips: int = 4,
    fps: float | None = None,
    tiles: str = "one",
    decoder: DecoderName = "auto",
) -> FidelityReport:
    """Compare gazed with dense features on some videos.

    Args:
        encoder: with the attention of gazed tokens. A dense frame attends to itself only.
        selectors: what `autogaze.load` takes; the controls are added.
        ratios: caps on every frame, as shares of all patches of all scales.
        clips: of every video at the most, each of up to 16 frames.
        fps: frames per second; None for all.
        tiles: how frames are laid out, as in `autogaze gaze --tiles`.
        decoder: see `autogaze.video.Video`.
    """
    names = with_controls(selectors)
    loaded = [load_selector(name, encoder.pyramid, encoder.device_options) for name in names]
    read = read_clips(
        videos,
        encoder.pyramid.side,
        per_video=clips,
        fps=fps,
        tiles=tiles,
        motion_grid=next((one.motion_grid for one in loaded if one.motion_grid is not None), None),
        decoder=decoder,
        device=encoder.device_options.device,
    )
    rows = []
    with ProgressBar(1 + len(names) * len(ratios)) as bar:
        bar.begin(f"dense, {len(read)} clips")
        dense = [dense_features(encoder, clip) for clip in read]
        for selector in loaded:
            for ratio in ratios:
                bar.begin(f"{selector.name}, ratio {ratio:g}")
                rows.append(_compare(encoder, read, dense, selector, ratio))
    return FidelityReport(
        hardware=hardware(encoder.device_options.device),
        encoder=encoder.name,
        random_weights=encoder.random,
        scales=str(encoder.pyramid),
        attn_type=encoder.gazed.settings.attn_type,
        device=str(encoder.device_options),
        videos=tuple(videos),
        num_clips=len(read),
        num_frames=sum(map(len, dense)),
        between_clips=between(_clip_means(dense)),
        rows=tuple(rows),
        decoder=decoder,
    )


def _compare(
    encoder: MeasuredEncoder,
    clips: Sequence[TileClip],
    dense: Sequence[Float[Tensor, "_ C"]],
    selector: MeasuredSelector,
    ratio: float,
) -> Fidelity:
    features, tokens = zip(
        *(gazed_features(encoder, clip, selector, ratio, seed=n) for n, clip in enumerate(clips)),
        strict=True,
    )
    number, video = torch.arange(len(clips)), torch.tensor([clip.video for clip in clips])
    lengths = torch.tensor([len(frames) for frames in dense])
    frames = torch.cat(list(dense)), torch.cat(features)
    means = _clip_means(dense), _clip_means(features)
    frame_video = video.repeat_interleave(lengths)
    same_frames = same_neighbours(*frames, number.repeat_interleave(lengths))
    enough = len(clips) >= MIN_NEIGHBOUR_CLIPS
    return Fidelity(
        selector=selector.name,
        ratio=ratio,
        share=sum(tokens) / (len(frame_video) * encoder.pyramid.cells[-1]),
        clip_cosine=estimate(cosines(*means), video),
        frame_cosine=estimate(cosines(*frames), frame_video),
        clip_neighbour=estimate(same_neighbours(*means, number), video) if enough else None,
        frame_neighbour=estimate(same_frames, frame_video),
    )


def _clip_means(frames: Sequence[Float[Tensor, "_ C"]]) -> Float[Tensor, "n C"]:
    return torch.stack([features.mean(0) for features in frames])


@torch.inference_mode()
def dense_features(encoder: MeasuredEncoder, clip: TileClip) -> Float[Tensor, "T C"]:
    """One feature per frame by the untouched model: its own pooling, else its tokens' mean."""
    frames = encoder.normalised(clip.clips.frames)[0]
    pooled = [_pooled_dense(encoder, some) for some in frames.split(16)]
    return torch.cat(pooled).float().cpu()


def _pooled_dense(
    encoder: MeasuredEncoder, frames: Float[Tensor, "F 3 S S"]
) -> Float[Tensor, "F C"]:
    adapter = encoder.adapter
    output = adapter.dense(frames)
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled
    tokens = getattr(output, "last_hidden_state", None)
    if tokens is None:
        raise EncoderError(
            f"{encoder.name}: {type(adapter).__name__}.dense returned "
            f"{type(output).__name__}, which has neither pooler_output nor last_hidden_state; "
            "let it return an object that has (docs/encoders.md)"
        )
    # The adapter may pool what the model does not; gazed features are pooled by it too.
    patches = tokens.shape[1] - adapter.num_prefix
    frames_alone = ((patches,),) * len(frames)
    layout = TokenLayout(frames_alone, "frame_independent", tokens.device, adapter.num_prefix)
    pooled = adapter.pool(tokens.flatten(0, 1), layout)
    return tokens[:, adapter.num_prefix :].mean(1) if pooled is None else pooled


@torch.inference_mode()
def gazed_features(
    encoder: MeasuredEncoder, clip: TileClip, selector: MeasuredSelector, ratio: float, seed: int
) -> tuple[Float[Tensor, "T C"], int]:
    """One feature per frame by the gazed model, and of how many patches they were made."""
    generator = torch.Generator().manual_seed(seed)
    gaze = selector.select(clip.clips, ratio, generator).gaze
    output = encoder.gazed(encoder.normalised(clip.clips.frames), gaze)
    pooled = output.frame_means() if output.pooler_output is None else output.pooler_output
    return pooled[0].float().cpu(), gaze.num_patches


def cosines(a: Float[Tensor, "n C"], b: Float[Tensor, "n C"]) -> Float[Tensor, " n"]:
    """Row by row, in [-1, 1]."""
    return F.cosine_similarity(a.double(), b.double(), dim=-1)


def nearest(features: Float[Tensor, "n C"], group: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """For every row the most similar row (by cosine) of another group; -1 if there is none."""
    unit = F.normalize(features.double(), dim=-1)
    similarity = unit @ unit.T
    similarity[group[:, None] == group] = -torch.inf
    best = similarity.max(dim=1)
    return torch.where(best.values.isinf(), -1, best.indices)


def same_neighbours(
    dense: Float[Tensor, "n C"], gazed: Float[Tensor, "n C"], group: Int[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Whether a row's nearest row of another group is the same by both sets of features."""
    return nearest(dense, group) == nearest(gazed, group)


def between(features: Float[Tensor, "n C"]) -> float:
    """Mean cosine of two different rows."""
    unit = F.normalize(features.double(), dim=-1)
    n = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))


def print_report(report: FidelityReport, console: Console) -> None:
    """How faithful every selector is at every budget, and how to read it."""
    notes = report.notes
    if report.random_weights:
        console.print(notes[0], style="bold red")
        notes = notes[1:]
    videos = f"{len(report.videos)} video{'s' if len(report.videos) > 1 else ''}"
    title = (
        f"Gazed against dense features: {report.encoder}, {report.scales}, {report.attn_type}\n"
        f"{videos}, {report.num_clips} clips, {report.num_frames} frames"
    )
    header = (
        *("selector", "patches", "tokens\nof dense", "cosine\nclips", "cosine\nframes"),
        *("same neighbour\nclips", "same neighbour\nframes"),
    )
    rows = [
        (
            row.selector,
            f"{100 * row.ratio:g} %",
            f"{100 * row.share:.1f} %",
            _figure(row.clip_cosine, ".4f"),
            _figure(row.frame_cosine, ".4f"),
            _figure(row.clip_neighbour, ".0%"),
            _figure(row.frame_neighbour, ".0%"),
        )
        for row in report.rows
    ]
    print_tables(console, [TextTable(title, header, rows, changes([r[0] for r in rows]))], notes)


def _figure(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "-"
    return format(estimate.mean, form) + estimate.brackets(lambda end: format(end, form))


def plot_fidelity(report: FidelityReport, path: str | Path) -> None:
    """A PNG: cosine on the left, nearest-neighbour agreement on the right; clips and frames."""
    from matplotlib.ticker import PercentFormatter

    figure, ((cosine, neighbour),) = make_panels(1, 2, (11, 4.6))
    cosine_ends = _lines(cosine, report, "cosine")
    neighbour_ends = _lines(neighbour, report, "neighbour")
    between = cosine.get_ylim()[0] < report.between_clips
    if between:
        cosine.axhline(report.between_clips, color=GUIDE, linewidth=0.8, linestyle=":", zorder=1)
    cosine.set_ylabel("cosine with the dense feature")
    neighbour.set_ylabel("same nearest neighbour as dense")
    neighbour.set_ylim(-0.02, 1.02)
    neighbour.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (cosine, neighbour):
        axes.set_xlabel("tokens, as a share of dense encoding's")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(left=0)
        clean(axes)
    if between:
        right = cosine.get_xlim()[1]
        cosine_ends.append(LineEnd("two clips, dense", GUIDE, right, report.between_clips))
    label_ends(cosine, cosine_ends)
    label_ends(neighbour, neighbour_ends)
    weights = ", RANDOM WEIGHTS" if report.random_weights else ""
    title = f"{Path(report.encoder).name}{weights}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    names = ", ".join(Path(video).name for video in report.videos[:4])
    more = f" and {len(report.videos) - 4} more" if len(report.videos) > 4 else ""
    what = (
        f"{report.num_clips} clips, {report.num_frames} frames of {names}{more}; gazed at "
        f"{report.scales}, {report.attn_type}, {report.device}. Solid: mean over a clip's frames; dashed or dotted: "
        "frames (neighbours in other clips). Bars: 95 % intervals; points are offset horizontally for legibility."
    )
    caption(figure, [what, " ".join(report.notes)])
    save(figure, path)


def _lines(axes: Any, report: FidelityReport, what: str) -> list[LineEnd]:
    """Lines of every selector: clips solid, if they have this figure, and frames dashed."""
    names = list(dict.fromkeys(row.selector for row in report.rows))
    widest = max(row.share for row in report.rows)
    ends = []
    for name, style in selector_styles(names).items():
        # Same shares for most selectors: a little apart, so that all bars are seen.
        rows = sorted((r for r in report.rows if r.selector == name), key=lambda row: row.share)
        apart = 0.004 * widest * (names.index(name) - len(names) / 2)
        shares = [row.share + apart for row in rows]
        means = [getattr(row, f"frame_{what}").mean for row in rows]
        axes.plot(shares, means, color=style.colour, linewidth=1.1, dashes=style.dashes, alpha=0.9)
        clips: list[Estimate] = [e for row in rows if (e := getattr(row, f"clip_{what}"))]
        if clips:
            means = [e.mean for e in clips]
            axes.plot(
                shares, means, "-", color=style.colour, marker=style.marker, markersize=4.5,
                markerfacecolor=style.face, linewidth=1.6,
            )  # fmt: skip
            interval_bars(axes, shares, [(e.low, e.high) for e in clips], style.colour)
        # Of a checkpoint's path its last part, for want of room.
        ends.append(LineEnd(Path(name).name, style.colour, shares[-1], means[-1]))
    return ends
