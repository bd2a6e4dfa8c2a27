"""Tiling and frame times of the video that clips were cut from."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any

from autogaze.checks import describe_value, is_finite, whole
from autogaze.errors import GeometryError

MAX_TILES = 2**20
"""The most tiles of a frame."""


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
        for field in fields(self):
            value = whole(getattr(self, field.name))
            if value is None or not 0 < value < 2**31:
                raise GeometryError(
                    f"{field.name} of a tiling must be a whole number of at least 1, got "
                    f"{describe_value(getattr(self, field.name))}"
                )
            object.__setattr__(self, field.name, value)
        fits = (
            self.num_tiles <= MAX_TILES
            and 0 < self.content_width <= self.columns * self.side
            and 0 < self.content_height <= self.rows * self.side
        )
        if not fits:
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
        number = whole(tile)
        if number is None or not 0 <= number < self.num_tiles:
            raise GeometryError(f"tile {describe_value(tile)} is outside [0, {self.num_tiles})")
        row, column = divmod(number, self.columns)
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
        starts: the frames that a chunk starts with, ascending, where these are not every
            `chunk`-th from 0 on (a part of a gaze, or several parts joined); None if they are.
        stream: number of the video stream, from 0; None for the one that is taken by default.
        end: second at which the last frame leaves the screen; None where that is not known.

    Raises:
        GeometryError: values of other kinds, as many timestamps as frames there are not, NaN.
    """

    tiles: TileGrid
    timestamps: tuple[float, ...]
    frame_indices: tuple[int, ...]
    chunk: int = 16
    path: str | None = None
    starts: tuple[int, ...] | None = None
    stream: int | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        chunk = whole(self.chunk)
        if chunk is None or chunk < 1:
            raise GeometryError(
                f"chunk must be a whole number of frames, at least 1, got {describe_value(self.chunk)}"
            )
        object.__setattr__(self, "chunk", chunk)
        if not isinstance(self.tiles, TileGrid):
            raise GeometryError(f"tiles must be a TileGrid, got {describe_value(self.tiles)}")
        if not (self.path is None or isinstance(self.path, str)):
            raise GeometryError(f"path must be text or None, got {describe_value(self.path)}")
        if self.stream is not None:
            stream = whole(self.stream)
            if stream is None or not 0 <= stream < 2**31:
                raise GeometryError(
                    "stream must be the number of a video stream, from 0, or None, got "
                    f"{describe_value(self.stream)}"
                )
            object.__setattr__(self, "stream", stream)
        for name in ("timestamps", "frame_indices"):
            if not isinstance(getattr(self, name), list | tuple):
                raise GeometryError(
                    f"{name} must be a tuple, got {describe_value(getattr(self, name))}"
                )
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for seconds in self.timestamps:
            if not is_finite(seconds):
                raise GeometryError(
                    f"timestamps must be finite numbers, got {describe_value(seconds)}"
                )
        for index in self.frame_indices:
            number = whole(index)
            if number is None or number < 0:
                raise GeometryError(
                    f"frame numbers must be whole and at least 0, got {describe_value(index)}"
                )
        if self.starts is not None:
            self._check_starts(self.starts)
        if not (self.end is None or is_finite(self.end)):
            raise GeometryError(f"end must be a finite number, got {describe_value(self.end)}")
        if len(self.timestamps) != len(self.frame_indices):
            raise GeometryError(
                f"{len(self.timestamps)} timestamps for {len(self.frame_indices)} frames"
            )

    def _check_starts(self, starts: Any) -> None:
        """Check `starts`, and leave None of them where they are the usual ones."""
        numbers = [whole(start) for start in starts] if isinstance(starts, list | tuple) else [None]
        found = [number for number in numbers if number is not None and number >= 0]
        if (
            len(found) < len(numbers)
            or found != sorted(set(found))
            or max(found, default=-1) >= (self.num_frames)
        ):
            raise GeometryError(
                f"starts of chunks must ascend in [0, {self.num_frames}), got {describe_value(starts)}"
            )
        regular = list(range(0, self.num_frames, self.chunk))
        object.__setattr__(self, "starts", None if found == regular else tuple(found))

    @property
    def num_frames(self) -> int:
        return len(self.timestamps)

    @property
    def chunk_starts(self) -> tuple[int, ...]:
        """The frames at which gazing started afresh, ascending."""
        return tuple(range(0, self.num_frames, self.chunk)) if self.starts is None else self.starts

    @property
    def chunks(self) -> tuple[slice, ...]:
        """The frames of every chunk; the first may lack frames that the gaze was cut from."""
        edges = sorted({0, *self.chunk_starts, self.num_frames})
        return tuple(slice(start, stop) for start, stop in pairwise(edges))

    def frames(self, start: int, stop: int) -> "Source":
        """The frames [start, stop)."""
        return replace(
            self,
            timestamps=self.timestamps[start:stop],
            frame_indices=self.frame_indices[start:stop],
            starts=tuple(at - start for at in self.chunk_starts if start <= at < stop),
            end=self.timestamps[stop] if stop < self.num_frames else self.end,
        )

    @classmethod
    def joined(cls, sources: "Sequence[Source]") -> "Source":
        """Sources of consecutive frames of one video, as one.

        Raises:
            GeometryError: they are of different videos or tilings.
        """
        first = sources[0]
        if any(
            (other.tiles, other.chunk, other.path, other.stream)
            != (first.tiles, first.chunk, first.path, first.stream)
            for other in sources
        ):
            raise GeometryError("these gazes come from different videos or tilings")
        *firsts, _ = accumulate((source.num_frames for source in sources), initial=0)
        return replace(
            first,
            timestamps=tuple(seconds for source in sources for seconds in source.timestamps),
            frame_indices=tuple(index for source in sources for index in source.frame_indices),
            starts=tuple(
                before + start
                for before, source in zip(firsts, sources, strict=True)
                for start in source.chunk_starts
            ),
            end=sources[-1].end,
        )

    def to_json(self) -> str:
        """Everything but the per-frame values, which are stored as tensors."""
        fields = {"tiles": asdict(self.tiles), "chunk": self.chunk, "path": self.path}
        if self.starts is not None:
            fields["starts"] = self.starts
        if self.stream is not None:
            fields["stream"] = self.stream
        if self.end is not None:
            fields["end"] = self.end
        return json.dumps(fields)

    @classmethod
    def from_json(
        cls, text: str, timestamps: tuple[float, ...], frame_indices: tuple[int, ...]
    ) -> "Source":
        """The inverse of `to_json`.

        Raises:
            GeometryError: values that are not possible.
            KeyError, ValueError, TypeError, RecursionError: not of this form.
        """
        values: dict[str, Any] = json.loads(text)
        tiles = TileGrid(**values["tiles"])
        starts = values.get("starts")
        starts = tuple(starts) if isinstance(starts, list) else starts
        return cls(
            tiles,
            timestamps,
            frame_indices,
            values["chunk"],
            values["path"],
            starts,
            values.get("stream"),
            values.get("end"),
        )
