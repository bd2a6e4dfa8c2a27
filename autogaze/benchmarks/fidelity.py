"""`autogaze bench fidelity`: how far gazed features are from dense ones.

Every frame is encoded whole by the untouched model and as gazed, and the two features
are compared: by their cosine, and by whether they have the same nearest neighbour. A
clip's feature is the mean of its frames'.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.benchmarks.choosers import Chooser, load_chooser, with_controls
from autogaze.benchmarks.encoder_models import MeasuredEncoder, load_encoder
from autogaze.benchmarks.features import VideoClip, dense_features, gazed_features, read_clips
from autogaze.benchmarks.fidelity_measures import (
    Estimate,
    between,
    cosines,
    estimate,
    same_neighbours,
)
from autogaze.benchmarks.progress import Step, silent
from autogaze.devices import Place

MIN_NEIGHBOUR_CLIPS = 3
"""Of two clips each is the other's nearest, whatever the features."""


@dataclass(frozen=True)
class FidelityOptions:
    """What `bench_fidelity` measures.

    Attributes:
        encoder: a preset (random weights), checkpoint folder or hub id.
        selectors: what `autogaze.load` takes; the controls are added.
        ratios: caps a frame, as shares of all patches of all scales.
        attn_type: who is seen by a gazed token. A dense frame sees itself only.
        clips: of every video at the most, each of up to 16 frames.
        fps: frames a second; None for all.
        tiles: how frames are laid out, see `autogaze gaze --tiles`.
    """

    encoder: str
    selectors: Sequence[str]
    ratios: Sequence[float]
    attn_type: str = "frame_independent"
    clips: int = 4
    fps: float | None = None
    tiles: str = "one"

    @property
    def num_steps(self) -> int:
        """Steps for a progress bar."""
        return 1 + len(with_controls(self.selectors)) * len(self.ratios)


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
        between_clips: mean cosine of dense features of two different clips: what a
            cosine has to be compared with.
    """

    encoder: str
    random_weights: bool
    scales: str
    attn_type: str
    place: str
    videos: tuple[str, ...]
    num_clips: int
    num_frames: int
    between_clips: float
    rows: tuple[Fidelity, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        notes = [
            "Dense: the untouched model on whole frames at the largest scale. Dense features of "
            f"two different clips have a mean cosine of {self.between_clips:.3f}."
        ]
        if self.random_weights:
            notes.insert(
                0,
                "RANDOM WEIGHTS: these figures say little of what a trained encoder would see; "
                "give one with --encoder FOLDER|HUB-ID.",
            )
        if self.num_clips < MIN_NEIGHBOUR_CLIPS:
            notes.append(
                f"{self.num_clips} clips only, which are each other's nearest in any case: no "
                "figure for the same neighbour of clips."
            )
        if len(self.videos) < 2:
            notes.append("One video only, so there are no intervals.")
        else:
            notes.append("Intervals: 95 %, from resampling whole videos.")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


def bench_fidelity(
    videos: Sequence[str], options: FidelityOptions, place: Place, step: Step = silent
) -> FidelityReport:
    """Compare gazed with dense features on some videos."""
    return measure_fidelity(
        load_encoder(options.encoder, place, options.attn_type), videos, options, step
    )


def measure_fidelity(
    encoder: MeasuredEncoder,
    videos: Sequence[str],
    options: FidelityOptions,
    step: Step = silent,
) -> FidelityReport:
    """The same for an encoder that is there."""
    names = with_controls(options.selectors)
    choosers = [load_chooser(name, encoder.pyramid, encoder.place) for name in names]
    grids = [chooser.motion_grid for chooser in choosers if chooser.motion_grid is not None]
    clips = read_clips(
        videos,
        encoder.pyramid.side,
        per_video=options.clips,
        fps=options.fps,
        tiles=options.tiles,
        motion_grid=grids[0] if grids else None,
    )
    step(f"dense, {len(clips)} clips")
    dense = [dense_features(encoder, clip) for clip in clips]
    rows = []
    for chooser in choosers:
        for ratio in options.ratios:
            step(f"{chooser.name}, ratio {ratio:g}")
            rows.append(_compare(encoder, clips, dense, chooser, ratio))
    return FidelityReport(
        encoder=encoder.name,
        random_weights=encoder.random,
        scales=str(encoder.pyramid),
        attn_type=encoder.gazed.settings.attn_type,
        place=str(encoder.place),
        videos=tuple(videos),
        num_clips=len(clips),
        num_frames=sum(map(len, dense)),
        between_clips=between(_clip_features(dense)),
        rows=tuple(rows),
    )


def _compare(
    encoder: MeasuredEncoder,
    clips: Sequence[VideoClip],
    dense: Sequence[Float[Tensor, "_ C"]],
    chooser: Chooser,
    ratio: float,
) -> Fidelity:
    seen = [
        gazed_features(encoder, clip, chooser, ratio, seed=number)
        for number, clip in enumerate(clips)
    ]
    gazed = [one.features for one in seen]
    tokens = sum(one.tokens for one in seen)
    frames = torch.tensor([len(features) for features in dense])
    whole_clip = torch.arange(len(clips))
    clip_of_frame = whole_clip.repeat_interleave(frames)
    video = torch.tensor([clip.video for clip in clips])
    video_of_frame = video.repeat_interleave(frames)
    dense_frames, gazed_frames = torch.cat(list(dense)), torch.cat(gazed)
    dense_clips, gazed_clips = _clip_features(dense), _clip_features(gazed)
    return Fidelity(
        selector=chooser.name,
        ratio=ratio,
        share=tokens / (len(dense_frames) * encoder.pyramid.cells[-1]),
        clip_cosine=estimate(cosines(dense_clips, gazed_clips), video),
        frame_cosine=estimate(cosines(dense_frames, gazed_frames), video_of_frame),
        clip_neighbour=estimate(same_neighbours(dense_clips, gazed_clips, whole_clip), video)
        if len(clips) >= MIN_NEIGHBOUR_CLIPS
        else None,
        frame_neighbour=estimate(
            same_neighbours(dense_frames, gazed_frames, clip_of_frame), video_of_frame
        ),
    )


def _clip_features(frames: Sequence[Float[Tensor, "_ C"]]) -> Float[Tensor, "n C"]:
    return torch.stack([features.mean(0) for features in frames])
