"""Reading and writing gaze files, in safetensors format.

A file holds these tensors, and the gaze's other fields as JSON in its metadata:

    ids            (N,)    int16, or int32 for pyramids of more than 32,767 patches
    lengths        (B, T)  int32
    losses         (B, T)  float32, if the gaze has any; their metric is the entry "judge"
    predicted_losses (B, T)  float32, if the selector predicted them
    timestamps     (T,)    float64, if the gaze has a source
    frame_indices  (T,)    int64, likewise
"""

import json
import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from autogaze.checks import as_path, describe_value, why_absent
from autogaze.errors import AutoGazeError, OutputError, first_line
from autogaze.gaze_checks import check_fields, check_losses
from autogaze.geometry import PatchPyramid
from autogaze.source import MAX_TILES, Source
from autogaze.utils.files import replacing

FORMAT = "autogaze.gaze"
VERSION = "1"


@runtime_checkable
class GazeFields(Protocol):
    """Fields of an `autogaze.Gaze` that are written; see there."""

    @property
    def pyramid(self) -> PatchPyramid: ...
    @property
    def ids(self) -> Tensor: ...
    @property
    def lengths(self) -> Tensor: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def losses(self) -> Tensor | None: ...
    @property
    def predicted_losses(self) -> Tensor | None: ...
    @property
    def metric(self) -> str | None: ...
    @property
    def source(self) -> Source | None: ...


def read_gaze(path: str | Path) -> dict[str, Any]:
    """The fields of the gaze in a file, by name: the arguments of `autogaze.Gaze`.

    Raises:
        AutoGazeError: missing, not a safetensors file, or not a gaze of this version.
    """
    path = as_path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, takes names of any length
        raise AutoGazeError(f"{path}: {why_absent(path, 'gaze file')}")
    try:
        with safe_open(path, framework="pt") as file:
            entries = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises several kinds, also Exception itself
        raise AutoGazeError(f"{path}: not a readable gaze file: {first_line(error)}") from error
    if entries.get("format") != FORMAT or entries.get("version") != VERSION:
        raise AutoGazeError(
            f"{path}: expected a file of format {FORMAT} version {VERSION}, found "
            f"{describe_value(entries.get('format', 'no format'))} version "
            f"{describe_value(entries.get('version', 'none'))}"
        )
    try:
        return _fields(entries, tensors)
    except AutoGazeError as error:
        raise AutoGazeError(f"{path}: damaged gaze file: {error}") from error
    except KeyError as error:
        raise AutoGazeError(f"{path}: damaged gaze file: {error} is missing in it") from error
    except (ValueError, TypeError, RecursionError, RuntimeError) as error:
        # Not JSON, or JSON of another form.
        raise AutoGazeError(f"{path}: damaged gaze file: {first_line(error)}") from error


def _fields(entries: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a gaze; raises errors of several kinds where they are not of this form."""
    source = None
    if "source" in entries:
        times, numbers = tensors["timestamps"], tensors["frame_indices"]
        if times.dtype != torch.float64 or numbers.dtype != torch.int64:
            raise AutoGazeError(
                "timestamps must be float64 and frame_indices int64, got "
                f"{times.dtype} and {numbers.dtype}"
            )
        source = Source.from_json(entries["source"], tuple(times.tolist()), tuple(numbers.tolist()))
    pyramid = json.loads(entries["pyramid"])
    if tensors["lengths"].numel() == 0 and max(tensors["lengths"].shape, default=0) > MAX_TILES:
        raise AutoGazeError(f"{tuple(tensors['lengths'].shape)} clips and frames, but no gaze")
    fields = {
        "pyramid": PatchPyramid(tuple(pyramid["scales"]), pyramid["patch_size"], pyramid["crop"]),
        "ids": tensors["ids"],
        "lengths": tensors["lengths"],
        "ordered": json.loads(entries["ordered"]),
        "metric": json.loads(entries["judge"]),
        "source": source,
    }
    losses, predicted = tensors.get("losses"), tensors.get("predicted_losses")
    # Also checked by `Gaze`, whose signature promises types that a file need not keep to.
    check_fields(**fields)
    check_losses(losses, fields["lengths"])
    check_losses(predicted, fields["lengths"])
    return {**fields, "losses": losses, "predicted_losses": predicted}


class GazeWriter:
    """Writes one gaze file chunk by chunk, so that the whole gaze is never in memory.

        with GazeWriter("video.safetensors") as writer:
            for gaze in autogaze.stream_video("video.mp4"):
                writer.add(gaze)

    The result is the file that `Gaze.save` writes of all chunks joined in time. It is sorted by
    tile, while chunks come by time: ids are spooled to a temporary file on the same disk.

    Raises:
        OutputError: on entering, if `path` cannot be written; later, if the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path, OutputError)
        self._stack = ExitStack()
        self._first: GazeFields | None = None
        self._ordered = True
        self._lengths: list[np.ndarray] = []  # (tiles, T) per chunk
        self._losses: list[np.ndarray | None] = []
        self._predicted: list[np.ndarray | None] = []
        self._timestamps: list[float] = []
        self._frame_indices: list[int] = []
        self._starts: list[int] = []  # frames that chunks start with
        self._end: float | None = None

    def __enter__(self) -> "GazeWriter":
        with ExitStack() as stack:
            self._part = stack.enter_context(replacing(self.path))
            self._spool: IO[bytes] = stack.enter_context(
                tempfile.TemporaryFile(dir=self.path.parent)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._write()

    def add(self, gaze: GazeFields) -> None:
        """Append the gaze at the next frames of the same tiles.

        Raises:
            AutoGazeError: it does not follow on those before it.
        """
        if self._first is None:
            self._first = gaze
            small = gaze.pyramid.num_patches <= torch.iinfo(torch.int16).max
            self._type = np.dtype("<i2" if small else "<i4")
        elif _metadata(gaze) != _metadata(self._first):
            raise AutoGazeError(f"{gaze} is not of the same video and tiling as {self._first}")
        self._ordered = self._ordered and gaze.ordered
        self._spool.write(gaze.ids.cpu().numpy().astype(self._type).tobytes())
        self._lengths.append(gaze.lengths.numpy().astype("<i4"))
        self._losses.append(_floats(gaze.losses))
        self._predicted.append(_floats(gaze.predicted_losses))
        if gaze.source is not None:
            before = len(self._timestamps)
            self._starts.extend(before + start for start in gaze.source.chunk_starts)
            self._timestamps.extend(gaze.source.timestamps)
            self._frame_indices.extend(gaze.source.frame_indices)
            self._end = gaze.source.end

    def _write(self) -> None:
        if self._first is None:
            raise AutoGazeError(f"{self.path}: there is no gaze to write")
        tensors: dict[str, np.ndarray] = {}  # widest numbers first, so that all lie aligned
        if self._first.source is not None:
            tensors["timestamps"] = np.array(self._timestamps, dtype="<f8")
            tensors["frame_indices"] = np.array(self._frame_indices, dtype="<i8")
        for name, parts in (("losses", self._losses), ("predicted_losses", self._predicted)):
            known = [part for part in parts if part is not None]
            if len(known) == len(parts):
                tensors[name] = np.concatenate(known, axis=1)
        tensors["lengths"] = np.concatenate(self._lengths, axis=1)
        layout = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        layout.append(("ids", self._type, (int(tensors["lengths"].sum()),)))
        entries = _metadata(self._first) | {"ordered": json.dumps(self._ordered)}
        if self._first.source is not None:
            times, numbers = tuple(self._timestamps), tuple(self._frame_indices)
            whole = replace(
                self._first.source,
                timestamps=times,
                frame_indices=numbers,
                starts=tuple(self._starts),
                end=self._end,
            )
            entries["source"] = whole.to_json()
        with open(self._part, "wb") as file:
            file.write(_header(layout, entries))
            for tensor in tensors.values():
                file.write(tensor.tobytes())
            self._copy_ids(file)

    def _copy_ids(self, file: IO[bytes]) -> None:
        """Append the spooled ids, tile by tile and in each tile chunk by chunk."""
        counts = np.stack([lengths.sum(axis=1) for lengths in self._lengths])  # (chunks, tiles)
        ends = counts.cumsum().reshape(counts.shape)  # ids are spooled chunk by chunk
        for tile in range(counts.shape[1]):
            for chunk in range(counts.shape[0]):
                count = int(counts[chunk, tile])
                self._spool.seek((int(ends[chunk, tile]) - count) * self._type.itemsize)
                file.write(self._spool.read(count * self._type.itemsize))


def _floats(losses: Tensor | None) -> np.ndarray | None:
    return None if losses is None else losses.detach().cpu().float().numpy()


def _metadata(gaze: GazeFields) -> dict[str, str]:
    """The metadata that all chunks of a video share."""
    pyramid = gaze.pyramid
    scales = {"scales": pyramid.scales, "patch_size": pyramid.patch_size, "crop": pyramid.crop}
    entries = {
        "format": FORMAT,
        "version": VERSION,
        "pyramid": json.dumps(scales),
        "judge": json.dumps(gaze.metric),
    }
    if gaze.source is not None:
        entries["source"] = replace(gaze.source, starts=None, end=None).to_json()
    return entries


def _header(layout: list[tuple[str, np.dtype, tuple[int, ...]]], entries: dict[str, str]) -> bytes:
    """Header of a safetensors file: its length, then types, shapes and offsets as JSON."""
    kinds = {"f8": "F64", "i8": "I64", "f4": "F32", "i4": "I32", "i2": "I16"}
    header: dict[str, object] = {"__metadata__": entries}
    start = 0
    for name, dtype, shape in layout:
        end = start + int(np.prod(shape)) * dtype.itemsize
        header[name] = {
            "dtype": kinds[dtype.str[1:]],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
