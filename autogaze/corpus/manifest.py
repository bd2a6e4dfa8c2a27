"""Manifest of a corpus: which inputs are done, in which shard, and which failed and why.

The footer of every shard lists its inputs, so that rows and entries appear atomically. `inputs.parquet` and
`errors.parquet` are caches of the footers, for users and for a quick start; footers of shards that are newer
than the cache are read.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from autogaze.corpus.addresses import is_uri, one_spelling, parent
from autogaze.corpus.storage import Input, arrow, parquet
from autogaze.errors import CorpusError, first_line
from autogaze.utils.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

GAZES = "gazes"
"""Folder of the shards in a corpus."""

INPUTS = "inputs.parquet"
ERRORS = "errors.parquet"

KEY = b"autogaze.corpus"
"""Metadata key of the entries in a shard's footer, and of the shards in a table."""

READERS = 8
"""Footers that are read at once."""


@dataclass(frozen=True)
class Entry:
    """An input that is done, or that failed.

    Args:
        path, size, modified, etag, offset: of the input, see `autogaze.corpus.storage.Input`.
        first_row, rows: its rows in the shard; none of an input that failed.
        tiles, frames: its tiles, and frames that were gazed at.
        duration: seconds from its first frame until the last leaves the screen.
        seconds: that it took.
        error: why it failed.
        kind: class of the error.
        lasting: whether it would fail again, since the file is the cause and not a network or a worker.
    """

    path: str
    size: int
    modified: float | None = None
    etag: str | None = None
    offset: int | None = None
    first_row: int = 0
    rows: int = 0
    tiles: int = 0
    frames: int = 0
    duration: float = 0.0
    seconds: float = 0.0
    error: str | None = None
    kind: str | None = None
    lasting: bool = False

    @property
    def input(self) -> Input:
        """The input, as it was when it was gazed at."""
        return Input(self.path, self.size, self.modified, self.etag, self.offset)

    @property
    def failed(self) -> bool:
        return self.error is not None

    @property
    def cause(self) -> str:
        """Why it failed, without the path that errors begin with in general."""
        return (self.error or "").removeprefix(f"{self.path}: ")


Shards = Mapping[str, Sequence[Entry]]
"""A manifest: name of every shard -> entries of its inputs."""


def entries_of(shards: Shards) -> Iterator[tuple[str, Entry]]:
    """Every entry with its shard's name."""
    for shard, entries in shards.items():
        for entry in entries:
            yield shard, entry


@dataclass(frozen=True)
class Sorted:
    """Inputs sorted by whether they are to be gazed at.

    Args:
        done: entries of those that need nothing.
        to_do: those to be gazed at.
        stale: shard and path of older entries, to be removed first: the file has changed or is tried again,
            or what was one entry is a folder or tar file that can be read now.
    """

    done: Sequence[Entry]
    to_do: Sequence[Input]
    stale: Sequence[tuple[str, str]]


def sort_inputs(shards: Shards, inputs: Sequence[Input], retry_failed: bool) -> Sorted:
    """Which inputs are done, and which are to be gazed at.

    Args:
        retry_failed: also those whose file was at fault.
    """
    known = {  # by today's spelling
        one_spelling(entry.path) if is_uri(entry.path) else entry.path: (shard, entry)
        for shard, entry in entries_of(shards)
    }
    done, to_do, stale = [], [], list[tuple[str, str]]()
    for each in inputs:
        shard, entry = known.get(each.path, ("", None))
        if entry is None:
            to_do.append(each)
        elif each.error is not None and not entry.failed:
            done.append(entry)  # its rows are better than an error of today
        elif entry.input.identity[1:] == each.identity[1:] and (
            not entry.failed or (entry.lasting and not retry_failed)
        ):
            done.append(entry)
        else:
            to_do.append(each)
            stale.append((shard, entry.path))
    # Folders and tar files that could not be read, and now are.
    failed = {path for path, (_, entry) in known.items() if entry.failed and not entry.lasting}
    if failed := failed - {each.path for each in inputs}:
        read = _places_of(inputs)
        gone = [known[path] for path in sorted(failed) if path.rstrip("/") in read]
        stale += [(shard, entry.path) for shard, entry in gone]
    return Sorted(done, to_do, stale)


def _places_of(inputs: Iterable[Input]) -> set[str]:
    """The tar files and folders that inputs lie in."""
    places = set[str]()
    for each in inputs:
        place = each.path.partition("::")[2] or parent(each.path)
        while place and place not in places:
            places.add(place)
            place = parent(place)
    return places


def read_manifest(folder: Path) -> dict[str, Sequence[Entry]]:
    """The entries of all shards of a corpus.

    Raises:
        CorpusError: a shard that cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    found = find_shards(folder)
    marks, entries = _read_table(folder / INPUTS)
    shards: dict[str, Sequence[Entry]] = {}
    unknown = []
    for name, mark in found.items():
        if marks.get(name) == mark:
            shards[name] = entries.get(name, ())
        else:
            unknown.append(name)
    with ThreadPoolExecutor(READERS) as pool:
        paths = [shard_path(folder, name) for name in unknown]
        shards.update(zip(unknown, pool.map(read_footer, paths), strict=True))
    return shards


def find_shards(folder: Path) -> dict[str, tuple[int, int]]:
    """The shards of a corpus: name -> size and time of change, in order of their names.

    Raises:
        CorpusError: another Parquet file among them.
    """
    found = {}
    for part in sorted((folder / GAZES).glob("part=*")):
        with os.scandir(part) as files:
            for file in files:
                if file.name.endswith(".parquet") and not file.name.startswith("."):
                    name = file.name.removesuffix(".parquet")
                    if (
                        not re.fullmatch(r"[0-9a-f]{32}", name)
                        or shard_path(folder, name).parent != part
                    ):
                        raise _no_shard(Path(file.path))
                    stat = file.stat()
                    found[name] = stat.st_size, stat.st_mtime_ns
    return dict(sorted(found.items()))


def shard_path(folder: Path, name: str) -> Path:
    """The file of a shard; parts of the corpus are numbered 0 to 99, by the name."""
    return folder / GAZES / f"part={int(name[:8], 16) % 100}" / f"{name}.parquet"


def read_footer(path: Path) -> list[Entry]:
    """The entries in a shard's footer.

    Raises:
        CorpusError: it is no shard of a corpus.
    """
    try:
        values = json.loads((parquet().read_metadata(path).metadata or {})[KEY])
        return [Entry(**value) for value in values["inputs"]]
    except KeyError:
        raise _no_shard(path) from None
    except (arrow().ArrowException, OSError, ValueError, TypeError) as error:
        raise CorpusError(
            f"{path}: is damaged ({first_line(error)}); remove it, and run `autogaze corpus` again"
        ) from error


def _no_shard(path: Path) -> CorpusError:
    return CorpusError(f"{path}: is no shard of this corpus: move it out of this folder")


def footer(entries: Sequence[Entry]) -> dict[bytes, bytes]:
    """The metadata of a shard with these inputs."""
    return {KEY: json.dumps({"inputs": [asdict(entry) for entry in entries]}).encode()}


def write_tables(folder: Path, shards: Shards) -> None:
    """Write `inputs.parquet` and `errors.parquet`, each whole or not at all.

    Raises:
        OutputError: one cannot be written.
    """
    marks = find_shards(folder)
    every = list(entries_of(shards))
    _write(folder / ERRORS, [pair for pair in every if pair[1].failed], {})
    # With sizes and times of change of the shards, to know which footers it is a cache of.
    kept = {shard: mark for shard, mark in marks.items() if shard in shards}
    _write(folder / INPUTS, every, {KEY: json.dumps(kept).encode()})


def _read_table(
    path: Path,
) -> tuple[Mapping[str, tuple[int, int]], Mapping[str, Sequence[Entry]]]:
    """Size and time of change of every shard when `inputs.parquet` was written, and their entries.

    Empty where it is missing or damaged, since it is only a cache.
    """
    try:
        table = parquet().read_table(path)
        marks = json.loads(table.schema.metadata[KEY])
        entries: dict[str, list[Entry]] = {}
        for row in table.to_pylist():
            entries.setdefault(row.pop("shard"), []).append(Entry(**row))
    except (arrow().ArrowException, OSError, KeyError, TypeError, ValueError):
        return {}, {}
    return {name: (size, time) for name, (size, time) in marks.items()}, entries


def _write(path: Path, entries: Sequence[tuple[str, Entry]], metadata: dict[bytes, bytes]) -> None:
    pa = arrow()
    kinds = {
        "shard": pa.string(),
        "size": pa.int64(),
        **dict.fromkeys(("path", "etag", "error", "kind"), pa.string()),
        "offset": pa.int64(),
        **dict.fromkeys(("first_row", "rows", "tiles", "frames"), pa.int64()),
        **dict.fromkeys(("modified", "duration", "seconds"), pa.float64()),
        "lasting": pa.bool_(),
    }
    names = [field.name for field in fields(Entry)]
    columns: dict[str, "pa.Array"] = {
        name: pa.array([getattr(entry, name) for _, entry in entries], kinds[name])
        for name in names
    }
    columns["shard"] = pa.array([shard for shard, _ in entries], kinds["shard"])
    table = pa.table(columns).replace_schema_metadata(metadata)
    with replacing(path) as temporary:
        parquet().write_table(table, temporary)
