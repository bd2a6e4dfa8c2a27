"""Tiling and frame times of the video that clips were cut from."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from autogaze.errors import GeometryError


@dataclass(frozen=True)
class TileGrid:
    """Layout of a frame of `width` x `height` source pixels on square tiles.

    The frame is resized to `content_width` x `content_height` pixels and placed at the top left
    of `columns` x `rows` tiles of `side` pixels; the rest is padding. Clip number = row * columns + column.
    """

    width: int
    height: int
    columns: int
    rows: int
    side: int
    content_width: int
    content_height: int

    def __post_init__(self) -> None:
        fits = (
            0 < self.content_width <= self.columns * self.side
            and 0 < self.content_height <= self.rows * self.side
        )
        if min(self.width, self.height, self.columns, self.rows, self.side) < 1 or not fits:
            raise GeometryError(f"not a possible tiling: {self}")

    @property
    def num_tiles(self) -> int:
        return self.columns * self.rows

    @property
    def padded(self) -> bool:
        """Whether some tile holds pixels that are not in the source."""
        return (self.content_width, self.content_height) != (
            self.columns * self.side,
            self.rows * self.side,
        )

    def origin(self, tile: int) -> tuple[int, int]:
        """Left and top of one tile, in tile pixels."""
        if not 0 <= tile < self.num_tiles:
            raise GeometryError(f"tile {tile} is outside [0, {self.num_tiles})")
        row, column = divmod(tile, self.columns)
        return column * self.side, row * self.side

    @property
    def scale(self) -> tuple[float, float]:
        """Source pixels per tile pixel, across and down."""
        return self.width / self.content_width, self.height / self.content_height


@dataclass(frozen=True)
class Source:
    """The video behind a gaze: its tiling, and the time and number of its frames.

    Args:
        tiles: the tiling of every frame; the gaze has one clip per tile.
        timestamps: seconds from the start of the video, one per frame.
        frame_indices: number of each frame in the decoded stream, from 0.
        chunk: frames that were gazed at together; every chunk starts afresh.
        path: the file, when there is one.
    """

    tiles: TileGrid
    timestamps: tuple[float, ...]
    frame_indices: tuple[int, ...]
    chunk: int = 16
    path: str | None = None

    def __post_init__(self) -> None:
        if len(self.timestamps) != len(self.frame_indices):
            raise GeometryError(
                f"{len(self.timestamps)} timestamps for {len(self.frame_indices)} frames"
            )

    @property
    def num_frames(self) -> int:
        return len(self.timestamps)

    def followed_by(self, other: "Source") -> "Source":
        """This source and the frames after it in the same video, as one."""
        if (self.tiles, self.chunk, self.path) != (other.tiles, other.chunk, other.path):
            raise GeometryError("these gazes come from different videos or tilings")
        return replace(
            self,
            timestamps=self.timestamps + other.timestamps,
            frame_indices=self.frame_indices + other.frame_indices,
        )

    def to_json(self) -> str:
        """Everything but the per-frame values, which are stored as tensors."""
        return json.dumps({"tiles": asdict(self.tiles), "chunk": self.chunk, "path": self.path})

    @classmethod
    def from_json(
        cls, text: str, timestamps: tuple[float, ...], frame_indices: tuple[int, ...]
    ) -> "Source":
        fields: dict[str, Any] = json.loads(text)
        return cls(
            TileGrid(**fields["tiles"]), timestamps, frame_indices, fields["chunk"], fields["path"]
        )
