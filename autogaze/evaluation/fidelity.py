"""`autogaze bench fidelity`: how far gazed features are from dense ones.

Every frame is encoded whole by the untouched model and as gazed, and the two features
are compared: by their cosine, and by whether they have the same nearest neighbour. A
clip's feature is the mean of its frames'.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.clips import Clips
from autogaze.datasets.video_windows import VIDEOS, find_files
from autogaze.errors import EncoderError, VideoError
from autogaze.evaluation.bootstrap import Estimate, estimate
from autogaze.evaluation.encoders import MeasuredEncoder
from autogaze.evaluation.selectors import MeasuredSelector, load_selector, with_controls
from autogaze.evaluation.timing import hardware
from autogaze.pipeline import CHUNK
from autogaze.utils.progress import ProgressBar
from autogaze.video.chunks import ChunkReader
from autogaze.video.decoders import DecoderName
from autogaze.vision_encoders.layout import TokenLayout

MIN_NEIGHBOUR_CLIPS = 3
"""Of two clips each is the other's nearest, whatever the features."""


class TileClip(NamedTuple):
    """A tile of a few frames of one video.

    Attributes:
        video: its number among the videos.
        clips: (1, T, 3, S, S) at the side of the encoder.
    """

    video: int
    clips: Clips


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


def find_videos(paths: Sequence[str]) -> list[str]:
    """Files as they are, and the videos below folders; each once.

    Raises:
        VideoError: a folder without videos.
    """
    found: list[str] = []
    for path in paths:
        inside = find_files([path], VIDEOS) if Path(path).is_dir() else [path]
        if not inside:
            raise VideoError(f"{path}: no videos in this folder ({', '.join(VIDEOS)})")
        found += map(str, inside)
    return list(dict.fromkeys(found))


def read_clips(
    paths: Sequence[str],
    side: int,
    *,
    per_video: int,
    fps: float | None = None,
    tiles: str = "one",
    motion_grid: int | None = None,
    decoder: DecoderName = "auto",
    device: torch.device | None = None,
) -> list[TileClip]:
    """The first clips of up to 16 frames of every video, one per tile.

    Args:
        side: pixels of a tile.
        per_video: clips of a video at the most.
        fps: frames per second; None for all.
        tiles: how frames are laid out, see `plan_tiles`.
        motion_grid: cells per side for the decoder's motion, if needed.
        decoder: see `autogaze.video.Video`.
        device: where the frames go; a GPU may decode them.
    """
    found: list[TileClip] = []
    for number, path in enumerate(paths):
        before = len(found)
        for chunk in ChunkReader(
            path,
            side=side,
            tiles=tiles,
            chunk=CHUNK,
            fps=fps,
            motion_grid=motion_grid,
            decoder=decoder,
            device=device,
        ):
            found += [TileClip(number, clips) for clips in chunk.clips.split(1)]
            if len(found) - before >= per_video:
                break
        del found[before + per_video :]
    if len(found) < 2:
        raise VideoError(
            f"{len(found)} clips in {len(paths)} videos; at least 2 are needed to have neighbours"
        )
    return found


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
