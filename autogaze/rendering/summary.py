"""Figures of a gaze, of every frame and of a whole video: counts, canvas losses and seconds.

Read by commands that need no PyTorch, so nothing heavy is imported here.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.pipeline import GazedChunk, GazeStream, StageTimes


@dataclass(frozen=True)
class FrameStats:
    """Statistics of one frame of the source, summed over its tiles.

    Args:
        number: of the frame in the decoded stream, from 0.
        seconds: its timestamp.
        kept: chosen patches per scale, coarse to fine.
        total: all patches.
        loss: canvas loss, mean over the tiles, if it was measured.
    """

    number: int
    seconds: float
    kept: tuple[int, ...]
    total: int
    loss: float | None = None

    @property
    def share(self) -> float:
        """Chosen share of all patches, in [0, 1]."""
        return sum(self.kept) / self.total


def frame_stats(chunk: "GazedChunk") -> Iterator[FrameStats]:
    """The statistics of every frame of a chunk."""
    gaze, source = chunk.gaze, chunk.source
    kept = [mask.sum(dim=(0, 2)).tolist() for mask in gaze.masks()]  # T counts per scale
    losses = None if gaze.losses is None else gaze.losses.mean(dim=0).tolist()
    for index, (number, seconds) in enumerate(
        zip(source.frame_indices, source.timestamps, strict=True)
    ):
        yield FrameStats(
            number,
            seconds,
            tuple(counts[index] for counts in kept),
            gaze.num_clips * gaze.pyramid.num_patches,
            None if losses is None else losses[index],
        )


@dataclass(frozen=True)
class Summary:
    """Statistics of one video's gaze.

    Attributes:
        frames: number of frames gazed at.
        seconds: from the first of them until the last leaves the screen; 0 for an image.
        tiles: columns and rows.
        kept: number of chosen patches per scale, coarse to fine, out of `total`.
        loss_mean, loss_max: canvas loss over all frames of all tiles, in [0, 1].
        corrupt: number of frames dropped because they could not be decoded.
        times, wall: seconds by stage, and in all.
        files: the files written: kind -> path.
        dtype: precision in which patches were chosen.
        decoder: what decoded, "pyav" or "torchcodec".
    """

    video: str
    selector: str
    width: int
    height: int
    frames: int
    seconds: float
    tiles: tuple[int, int]
    side: int
    scales: tuple[int, ...]
    kept: tuple[int, ...]
    total: int
    loss_mean: float
    loss_max: float
    corrupt: int
    times: "StageTimes"
    wall: float
    files: dict[str, str]
    dtype: str = "float32"
    decoder: str = "pyav"

    @property
    def ratio(self) -> float:
        """Share of all patches that was kept, in [0, 1]."""
        return sum(self.kept) / self.total

    def to_json(self) -> dict[str, Any]:
        """Plain values, for machines."""
        kept = dict(zip(map(str, self.scales), self.kept, strict=True))
        return asdict(self) | {"kept": kept, "ratio": self.ratio}


@dataclass
class Tally:
    """Running totals of a video's chunks."""

    frames: int = 0
    first: float = 0.0
    end: float = 0.0
    kept: list[int] = field(default_factory=list)
    total: int = 0
    losses: int = 0
    loss_sum: float = 0.0
    loss_max: float = 0.0

    def add(self, chunk: "GazedChunk") -> None:
        """Add the next chunk."""
        gaze, times = chunk.gaze, chunk.source.timestamps
        if self.frames == 0:
            self.first, self.kept = times[0], [0] * len(gaze.pyramid.scales)
        self.frames += gaze.num_frames
        end = chunk.source.end
        self.end = times[-1] if end is None else end
        counts = gaze.pyramid.levels[gaze.ids.cpu()].bincount(minlength=len(self.kept)).tolist()
        self.kept = [a + b for a, b in zip(self.kept, counts, strict=True)]
        self.total += gaze.lengths.numel() * gaze.pyramid.num_patches
        if gaze.losses is not None:
            self.losses += gaze.losses.numel()
            self.loss_sum += float(gaze.losses.sum())
            self.loss_max = max(self.loss_max, float(gaze.losses.max()))

    def summary(
        self, stream: "GazeStream", render: float, wall: float, files: dict[str, str]
    ) -> Summary:
        """Statistics of the whole video; `render` and `wall` in seconds."""
        grid = stream.grid
        seconds = 0.0 if stream.info.is_image else self.end - self.first
        return Summary(
            video=str(stream.path),
            selector=stream.selector.name,
            width=grid.width,
            height=grid.height,
            frames=self.frames,
            seconds=seconds,
            tiles=(grid.columns, grid.rows),
            side=grid.side,
            scales=stream.selector.pyramid.scales,
            kept=tuple(self.kept),
            total=self.total,
            loss_mean=self.loss_sum / max(1, self.losses),
            loss_max=self.loss_max,
            corrupt=stream.num_corrupt,
            times=replace(stream.times, render=render),
            wall=wall,
            files=files,
            dtype=stream.precision,
            decoder=stream.decoded_by,
        )
