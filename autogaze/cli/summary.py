"""What the main job tells about one video, counted while it goes by."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from autogaze.pipeline import GazedChunk, GazeStream, StageTimes


@dataclass(frozen=True)
class Summary:
    """One video's gaze in numbers.

    Args:
        frames: frames looked at; `seconds`: from the first to the end of the last of them,
            which is taken to last as long as the others do on average; 0 for an image.
        tiles: columns and rows.
        kept: chosen patches a scale, coarse to fine, of `total` patches in all.
        loss_mean, loss_max: canvas loss over all frames of all tiles, in [0, 1].
        corrupt: frames lost because they could not be decoded.
        times: by stage; `wall`: seconds that went by.
        files: what was written: kind -> path.
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
    times: StageTimes
    wall: float
    files: dict[str, str]

    @property
    def num_kept(self) -> int:
        return sum(self.kept)

    @property
    def ratio(self) -> float:
        """Share of all patches that was kept, in [0, 1]."""
        return self.num_kept / self.total

    def to_json(self) -> dict[str, Any]:
        """Plain values, for machines."""
        kept = dict(zip(map(str, self.scales), self.kept, strict=True))
        return asdict(self) | {"kept": kept, "ratio": self.ratio}


@dataclass
class Tally:
    """Counts chunks as they pass."""

    frames: int = 0
    first: float | None = None
    last: float = 0.0
    kept: list[int] = field(default_factory=list)
    total: int = 0
    losses: int = 0
    loss_sum: float = 0.0
    loss_max: float = 0.0

    def add(self, chunk: GazedChunk) -> None:
        gaze, times = chunk.gaze, chunk.source.timestamps
        self.frames += gaze.num_frames
        self.first = times[0] if self.first is None else self.first
        self.last = times[-1]
        levels = gaze.pyramid.levels[gaze.ids.cpu()]
        counts = torch.bincount(levels, minlength=len(gaze.pyramid.scales)).tolist()
        self.kept = [a + b for a, b in zip(self.kept or [0] * len(counts), counts, strict=True)]
        self.total += gaze.lengths.numel() * gaze.pyramid.num_patches
        if gaze.losses is not None:
            self.losses += gaze.losses.numel()
            self.loss_sum += float(gaze.losses.sum())
            self.loss_max = max(self.loss_max, float(gaze.losses.max()))

    def summary(
        self, stream: GazeStream, render: float, wall: float, files: dict[str, str]
    ) -> Summary:
        """The numbers of the whole video; `render` and `wall` in seconds."""
        grid = stream.grid
        return Summary(
            video=str(stream.path),
            selector=stream.selector.name,
            width=grid.width,
            height=grid.height,
            frames=self.frames,
            seconds=self._seconds(stream),
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
        )

    def _seconds(self, stream: GazeStream) -> float:
        between = self.last - (self.first or 0.0)
        if self.frames > 1:
            return between * self.frames / (self.frames - 1)
        return 0.0 if stream.info.is_image else self.frames / stream.fps
