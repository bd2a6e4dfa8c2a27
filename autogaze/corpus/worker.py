"""Ray's worker of a corpus: gazes at the videos of a shard and writes the shard."""

import errno
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autogaze.corpus.manifest import Entry
from autogaze.corpus.settings import CorpusSettings
from autogaze.corpus.shards import ShardWriter, Spool
from autogaze.corpus.storage import MISSING, Input, local_file, remove_folder, stat_input
from autogaze.errors import (
    AutoGazeError,
    CorpusError,
    GeometryError,
    MissingExtraError,
    OutputError,
    SelectorError,
    VideoError,
    first_line,
)
from autogaze.utils.files import cannot_be_written, make_folder, write_json

if TYPE_CHECKING:
    from autogaze.pipeline import ClipSelector

MAX_DEATHS = 5
"""Workers that may die while they gaze at one video before it is recorded as failed."""


@dataclass(frozen=True)
class Job:
    """Parameters that all workers of a run share.

    Args:
        scratch: folder for temporary files, on the disk of the corpus; removed at the end of the run.
        device: that patches are chosen on.
    """

    scratch: str
    settings: CorpusSettings
    device: str


@dataclass(frozen=True)
class ShardTask:
    """Inputs that become one shard."""

    name: str
    inputs: Sequence[Input]

    def to_row(self) -> dict[str, str]:
        """As Ray Data carries it."""
        return {
            "name": self.name,
            "inputs": json.dumps([asdict(each) for each in self.inputs]),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "ShardTask":
        """The inverse of `to_row`."""
        return cls(row["name"], [Input(**each) for each in json.loads(row["inputs"])])


@dataclass(frozen=True)
class ShardResult:
    """A shard under a temporary name, or why it cannot be written.

    Args:
        began, ended: Unix times of the start and the end of its work.
    """

    name: str
    temporary: str
    entries: Sequence[Entry]
    began: float = 0.0
    ended: float = 0.0
    failure: str = ""

    def to_row(self) -> dict[str, Any]:
        """As Ray Data carries it."""
        entries = json.dumps([asdict(entry) for entry in self.entries])
        return {**asdict(self), "entries": entries}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "ShardResult":
        """The inverse of `to_row`."""
        entries = [Entry(**each) for each in json.loads(row["entries"])]
        return cls(**{**row, "entries": entries})


class ShardWorker:
    """The class of Ray's actors: a selector that stays, and one shard per call.

    Args:
        threads: that PyTorch may use in this process; None leaves them as they are.
    """

    def __init__(self, job: Job, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.job = job
        self.selector = job.settings.load_selector(job.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A `ShardTask` as a row to a `ShardResult` as a row."""
        task = ShardTask.from_row(row)
        try:
            return write_shard(task, self.job, self.selector).to_row()
        except OutputError as error:  # of no video: the run ends
            return ShardResult(task.name, "", [], failure=str(error)).to_row()


def write_shard(task: ShardTask, job: Job, selector: "ClipSelector") -> ShardResult:
    """Gaze at the videos of a task, and write their shard under a temporary name.

    Raises:
        OutputError: it cannot be written.
    """
    began = time.time()
    # One per attempt: a worker that Ray has given up may still be running.
    scratch = Path(job.scratch) / f"{task.name}.{secrets.token_hex(4)}"
    make_folder(scratch)
    temporary = scratch.with_suffix(f"{scratch.suffix}.parquet")
    deaths = Deaths(Path(job.scratch) / f"{task.name}.json")
    try:
        with ShardWriter(temporary) as writer:
            for number, each in enumerate(task.inputs):
                if deaths.count(number) >= MAX_DEATHS:
                    cause = f"{MAX_DEATHS} workers died while they gazed at it"
                    writer.add(_failed(each, CorpusError(f"{each.path}: {cause}"), 0.0))
                    continue
                deaths.begin(number)
                add_video(each, job.settings, selector, writer, scratch)
        deaths.end()
    finally:
        remove_folder(scratch)
    return ShardResult(task.name, str(temporary), writer.entries, began, time.time())


def add_video(
    source: Input,
    settings: CorpusSettings,
    selector: "ClipSelector",
    writer: ShardWriter,
    scratch: Path,
) -> None:
    """Add a video's rows to a shard, or why there are none.

    Raises:
        OutputError: the disk is full, or the like.
    """
    began = time.perf_counter()
    with Spool(scratch / "rows.arrow") as spool:
        path: Path | None = None
        try:
            with local_file(source, scratch) as path:
                entry = gaze_file(source, path, settings, selector, spool)
        except OutputError:
            raise
        except Exception as error:  # whatever one video does, the others go on
            if (full := no_room(error)) is not None:
                raise cannot_be_written(scratch, full) from error
            seconds = time.perf_counter() - began
            writer.add(_failed(source, error, seconds, path))
            return
        writer.add(entry, spool.batches())


def no_room(error: BaseException | None) -> OSError | None:
    """The error of a full disk that lies behind another one, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        error = error.__cause__ or error.__context__
    return None


def gaze_file(
    source: Input,
    path: Path,
    settings: CorpusSettings,
    selector: "ClipSelector",
    spool: Spool,
) -> Entry:
    """Gaze at one video, exactly as `autogaze gaze` does, and spool its rows.

    Args:
        path: the video itself, or a copy of it.
    """
    from autogaze.corpus.rows import rows_of
    from autogaze.pipeline import GazeStream

    # One core per worker, unless a GPU selects meanwhile.
    device = getattr(selector, "device", None)
    prefetch = device is not None and device.type != "cpu"
    stream = GazeStream(path, selector, **settings.gaze_options(prefetch))
    began = last = time.perf_counter()
    frames, first, end = 0, 0.0, 0.0
    for number, chunk in enumerate(stream):
        now = time.perf_counter()
        spool.add(rows_of(chunk.gaze, source.path, number, settings, now - last))
        times = chunk.source.timestamps
        if number == 0:
            first = times[0]
        frames += len(times)
        end = times[-1] if chunk.source.end is None else chunk.source.end
        del chunk  # free its memory before the next one is gazed at
        last = time.perf_counter()
    return Entry(
        **asdict(source),
        tiles=stream.grid.num_tiles,
        frames=frames,
        duration=0.0 if stream.info.is_image else end - first,
        seconds=last - began,
    )


def _failed(source: Input, error: Exception, seconds: float, copy: Path | None = None) -> Entry:
    """The entry of an input that failed."""
    message = first_line(error)
    if copy is not None:
        message = message.replace(str(copy), source.path)
    if not isinstance(error, AutoGazeError | MissingExtraError):
        message = f"{type(error).__name__}: {message}"
    # A file that has changed meanwhile may be readable next time.
    lasting = isinstance(error, VideoError | GeometryError | SelectorError)
    if lasting and source.offset is None and source.size != MISSING:
        try:
            lasting = stat_input(source.path).identity == source.identity
        except AutoGazeError:
            lasting = False
    return Entry(
        **asdict(replace(source, error=message)),
        seconds=seconds,
        kind=type(error).__name__,
        lasting=lasting,
    )


class Deaths:
    """Number of workers that died at each video of a shard, in a file.

    The file names the video that is gazed at now. A worker that repeats the shard counts a death at that
    video, so that a video which kills its decoder becomes an error instead of an endless loop.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._counts: dict[str, int] = {}
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):  # nobody died yet
            return
        self._counts = found["counts"]
        unfinished = str(found["now"])
        self._counts[unfinished] = self._counts.get(unfinished, 0) + 1

    def count(self, number: int) -> int:
        """Deaths at one video."""
        return self._counts.get(str(number), 0)

    def begin(self, number: int) -> None:
        """Note which video is gazed at now."""
        write_json(self.path, {"now": number, "counts": self._counts})

    def end(self) -> None:
        """The shard is done."""
        self.path.unlink(missing_ok=True)
