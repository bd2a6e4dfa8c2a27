"""Shards of a corpus: Parquet files, each with the rows of some inputs and, in its footer, their entries.

A worker writes a shard under a temporary name; the process that runs the corpus renames it. Whichever process is
killed at whatever moment, a shard exists completely or not at all, and no input is in two of them.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogaze.corpus.manifest import Entry, footer, read_footer, shard_path
from autogaze.corpus.rows import schema
from autogaze.corpus.settings import CorpusSettings
from autogaze.corpus.storage import Input, arrow, parquet
from autogaze.errors import OutputError
from autogaze.utils.files import cannot_be_written, onto_disk

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 1024
"""Rows of a row group, at least, but for the last one of a shard."""


def shard_name(inputs: Sequence[Input], settings: CorpusSettings) -> str:
    """A name determined by the inputs and settings, so that a repeated task gives the same name."""
    text = json.dumps([settings.hash, [each.identity for each in inputs]])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise `OutputError` for an error of the system in the block."""
    try:
        yield
    except OSError as error:
        raise cannot_be_written(path, error) from error


class Spool:
    """Rows of one video, in a temporary file until the whole video has been read.

    A context manager; the file is removed at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self._writer: Any = None

    def __enter__(self) -> "Spool":
        with _writing(self.path):
            self._writer = arrow().ipc.new_file(str(self.path), schema())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._close()
        except OutputError:
            if kind is None:  # an earlier error is the cause
                raise
        finally:
            self.path.unlink(missing_ok=True)

    def add(self, rows: "pa.RecordBatch") -> None:
        """Append the rows of a chunk."""
        with _writing(self.path):
            self._writer.write_batch(rows)
        self.num_rows += rows.num_rows

    def batches(self) -> Iterator["pa.RecordBatch"]:
        """All rows, chunk by chunk."""
        self._close()
        with arrow().ipc.open_file(str(self.path)) as file:
            for number in range(file.num_record_batches):
                yield file.get_batch(number)

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with _writing(self.path):
                writer.close()


class ShardWriter:
    """Writer of a shard, input by input; a context manager that flushes the file to disk at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._num_rows = 0
        self._waiting: list[pa.RecordBatch] = []
        self._writer: Any = None

    def __enter__(self) -> "ShardWriter":
        with _writing(self.path):
            self._writer = parquet().ParquetWriter(self.path, schema(), compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with suppress(OSError):
                self._writer.close()
            self.path.unlink(missing_ok=True)
            return
        try:
            with _writing(self.path):
                self._flush()
                self._writer.add_key_value_metadata(footer(self.entries))
                self._writer.close()
                onto_disk(self.path)
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise

    def add(self, entry: Entry, batches: Iterable["pa.RecordBatch"] = ()) -> None:
        """Append an input: its entry, and the rows of one that did not fail."""
        before = self._num_rows
        for batch in batches:
            self._waiting.append(batch)
            self._num_rows += batch.num_rows
            if sum(each.num_rows for each in self._waiting) >= GROUP_ROWS:
                self._flush()
        self.entries.append(replace(entry, first_row=before, rows=self._num_rows - before))

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = arrow().Table.from_batches(self._waiting, schema())
        self._waiting = []
        with _writing(self.path):
            self._writer.write_table(table, row_group_size=table.num_rows)


def commit(folder: Path, name: str, temporary: Path) -> None:
    """Rename a finished shard to its final name.

    Raises:
        OutputError: that cannot be done.
    """
    path = shard_path(folder, name)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
        onto_disk(path.parent)


def remove_entries(folder: Path, name: str, paths: frozenset[str], scratch: Path) -> list[Entry]:
    """Rewrite a shard without some of its inputs; returns the entries left. An empty one is removed.

    Raises:
        CorpusError: it cannot be read.
        OutputError: it cannot be written.
    """
    path = shard_path(folder, name)
    entries = read_footer(path)
    left = [entry for entry in entries if entry.path not in paths]
    if not left:
        path.unlink()
        return []
    temporary = scratch / f"{name}.parquet"
    with ShardWriter(temporary) as writer, parquet().ParquetFile(path) as file:
        for entry in left:
            writer.add(entry, row_batches(file, entry.first_row, entry.rows))
    commit(folder, name, temporary)
    return writer.entries


def row_batches(file: Any, first: int, count: int) -> Iterator["pa.RecordBatch"]:
    """Some rows of an open shard; only the row groups are read that they lie in, one at a time."""
    before, end = 0, first + count
    for number in range(file.num_row_groups):
        size = file.metadata.row_group(number).num_rows
        start, stop = max(first - before, 0), min(end - before, size)
        if start < stop:
            table = file.read_row_group(number).cast(schema())
            yield from table.slice(start, stop - start).to_batches()
        before += size
