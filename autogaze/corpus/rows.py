"""Rows of a corpus: one per clip, that is per tile of a chunk, in Arrow's columns."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from autogaze.corpus.settings import CorpusSettings
from autogaze.corpus.storage import arrow
from autogaze.errors import AutoGazeError, CorpusError, first_line
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.source import Source, TileGrid

if TYPE_CHECKING:
    import pyarrow as pa

TILING = ("width", "height", "columns", "rows", "side", "content_width", "content_height")


def schema() -> "pa.Schema":
    """The columns.

    A clip's frames are those of its chunk. `ids` and `counts` have one entry per frame, as have
    `losses`, `timestamps` and `frame_indices`; ids are those of `autogaze.PatchPyramid`, in the order they
    were chosen where `ordered`. `start` is when the first frame is shown, `end` when the last leaves
    the screen. `seconds` is how long it took to choose the clip's patches and measure its losses.
    """
    pa = arrow()
    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    pyramid = [("scales", ints), ("patch_size", pa.int32()), ("crop", pa.bool_())]
    return pa.schema(
        [
            ("video", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("chunk", pa.int32()),
            ("tile", pa.int32()),
            ("tiling", pa.struct([(name, pa.int32()) for name in TILING])),
            ("pyramid", pa.struct(pyramid)),
            ("selector", pa.string()),
            ("version", pa.string()),
            ("options", pa.string()),
            ("ids", pa.list_(ints)),
            ("counts", ints),
            ("losses", floats),
            ("predicted_losses", floats),
            ("metric", pa.string()),
            ("ordered", pa.bool_()),
            ("timestamps", pa.list_(pa.float64())),
            ("frame_indices", pa.list_(pa.int64())),
            ("chunk_frames", pa.int32()),
            ("stream", pa.int32()),
            ("seconds", pa.float64()),
        ]
    )


def rows_of(
    gaze: Gaze, video: str, chunk: int, settings: CorpusSettings, seconds: float
) -> "pa.RecordBatch":
    """The rows of a chunk, one per tile.

    Args:
        gaze: (tiles, T) with its `source`.
        video: how rows name it.
        chunk: its number in the video, from 0.
        seconds: that the whole chunk took.
    """
    pa = arrow()
    source = gaze.source
    if source is None:
        raise AutoGazeError("rows are made of gazes at videos")
    clips, frames = gaze.lengths.shape
    by_clip = pa.array(range(0, clips * frames + 1, frames), pa.int32())
    by_frame = pa.array(gaze.offsets, pa.int32())
    ids = pa.ListArray.from_arrays(by_frame, pa.array(gaze.ids.cpu().numpy(), pa.int32()))
    pyramid = gaze.pyramid
    shared = {
        "video": video,
        "start": source.timestamps[0],
        "end": source.end,
        "chunk": chunk,
        "tiling": asdict(source.tiles),
        "pyramid": {
            "scales": pyramid.scales,
            "patch_size": pyramid.patch_size,
            "crop": pyramid.crop,
        },
        "selector": settings.selector,
        "version": settings.version,
        "options": settings.hash,
        "metric": gaze.metric,
        "ordered": gaze.ordered,
        "timestamps": source.timestamps,
        "frame_indices": source.frame_indices,
        "chunk_frames": source.chunk,
        "stream": source.stream,
        "seconds": seconds / clips,
    }
    own = {
        "tile": list(range(clips)),
        "ids": pa.ListArray.from_arrays(by_clip, ids),
        "counts": gaze.lengths.tolist(),
        "losses": _floats(gaze.losses, clips),
        "predicted_losses": _floats(gaze.predicted_losses, clips),
    }
    columns = schema()
    arrays = [
        pa.array(own[name], kind) if name in own else pa.array([shared[name]] * clips, kind)
        for name, kind in zip(columns.names, columns.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _floats(losses: torch.Tensor | None, clips: int) -> list[Any]:
    return [None] * clips if losses is None else losses.cpu().tolist()


def gaze_of(rows: "pa.Table") -> Gaze:
    """The gaze of a video's rows: of all its chunks, or of some that follow each other.

    Args:
        rows: whole chunks in their order, and in each all tiles in theirs.

    Raises:
        CorpusError: they are not such rows.
    """
    try:
        values = rows.to_pylist()
        tiles = TileGrid(**values[0]["tiling"]).num_tiles
        if len(values) % tiles:
            raise CorpusError(f"{len(values)} rows, where every chunk has {tiles}")
        chunks = [_chunk(values[at : at + tiles]) for at in range(0, len(values), tiles)]
        return Gaze.cat_frames(chunks)
    except CorpusError:
        raise
    except (AutoGazeError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise CorpusError(f"damaged rows of a corpus: {first_line(error)}") from error


def _chunk(rows: Sequence[dict[str, Any]]) -> Gaze:
    first = rows[0]
    if [row["tile"] for row in rows] != list(range(len(rows))):
        raise CorpusError(f"{first['video']}: tiles of chunk {first['chunk']} are missing")
    if {(row["video"], row["chunk"]) for row in rows} != {(first["video"], first["chunk"])}:
        raise CorpusError(f"{first['video']}: rows of several chunks among each other")
    pyramid = first["pyramid"]
    source = Source(
        TileGrid(**first["tiling"]),
        tuple(first["timestamps"]),
        tuple(first["frame_indices"]),
        first["chunk_frames"],
        first["video"],
        stream=first["stream"],
        end=first["end"],
    )
    flat = [id for row in rows for frame in row["ids"] for id in frame]
    return Gaze(
        PatchPyramid(tuple(pyramid["scales"]), pyramid["patch_size"], pyramid["crop"]),
        torch.tensor(flat, dtype=torch.long),
        torch.tensor([[len(frame) for frame in row["ids"]] for row in rows]),
        ordered=first["ordered"],
        losses=_losses(rows, "losses"),
        metric=first["metric"],
        source=source,
        predicted_losses=_losses(rows, "predicted_losses"),
    )


def _losses(rows: Sequence[dict[str, Any]], name: str) -> torch.Tensor | None:
    values = [row[name] for row in rows]
    return None if None in values else torch.tensor(values, dtype=torch.float32)
