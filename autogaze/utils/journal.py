"""Journals: files of JSON lines that long work appends to and goes on from after a kill.

A line is on the disk before the next one begins. A last line that a kill cut short is dropped when
the work goes on. One process writes a journal at a time.
"""

import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from autogaze.checks import describe_value
from autogaze.errors import AutoGazeError, OutputError, first_line
from autogaze.utils.files import cannot_be_written

Entry = dict[str, Any]


class Journal:
    """A journal that is open for writing, a context manager.

    Args:
        path: of the file; its folder is made if it is not there.
        work: what is done meanwhile, in the error of a second process: "labelling this shard".
        error: of a line that is no JSON object.

    Attributes:
        entries: what was there when it was opened.

    Raises:
        OutputError: it cannot be written, or another process is writing it.
        error: a line is no JSON object.
    """

    def __init__(self, path: Path, work: str, error: type[AutoGazeError]) -> None:
        self.path = path
        self.work = work
        self.error = error
        self.entries: list[Entry] = []
        self._file: FileIO | None = None

    def __enter__(self) -> "Journal":
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)
            self._lock(self._file)
            self.entries, length = read_journal(self.path, self.error)
            self._file.truncate(length)
        except OSError as error:
            self.__exit__()
            raise cannot_be_written(self.path, error) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append an entry; when this returns it is on the disk."""
        if self._file is None:
            raise OutputError(f"{self.path}: a journal is written inside a with block")
        try:
            line = json.dumps(entry).encode() + b"\n"
            while line:  # unbuffered: on a full disk, closing would fail to flush a buffer again
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_be_written(self.path, error) from error

    def _lock(self, file: FileIO) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{self.path}: another process is {self.work}") from None


def read_journal(path: Path, kind: type[AutoGazeError]) -> tuple[list[Entry], int]:
    """Entries of a journal and their length in bytes; an unfinished last line is left out.

    Raises:
        kind: a line is no JSON object.
    """
    content = path.read_bytes()
    length = content.rfind(b"\n") + 1
    entries = []
    for number, line in enumerate(content[:length].splitlines(), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise kind(
                f"{path}: is damaged or another file: line {number}: {first_line(error)}"
            ) from error
        if not isinstance(entry, dict):
            raise kind(f"{path}: line {number} must be a JSON object, got {describe_value(entry)}")
        entries.append(entry)
    return entries, length


def difference(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first of two unequal settings that differs, in words."""
    for name in sorted({*begun, *now}):
        if begun.get(name) != now.get(name):
            return f"{name} {describe_value(begun.get(name))}, not {describe_value(now.get(name))}"
    # Else one of them lacks what is null in the other.
    missing = min(begun.keys() ^ now.keys())
    return f"{'no ' * (missing in now)}{missing}, not {'no ' * (missing in begun)}{missing}"
