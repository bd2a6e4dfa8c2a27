"""Files written whole or not at all, alone or several together."""

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from autogaze.errors import OutputError


class Part(NamedTuple):
    """A complete file under a temporary name, and the name it is to get."""

    temporary: Path
    path: Path


_waiting: ContextVar[list[Part] | None] = ContextVar("waiting", default=None)
"""The files of the outermost `all_or_none` block that is open."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The suffix is kept, since encoders and image libraries choose the format by it.
    Whatever ends the block early (an error, a full disk, Ctrl-C) removes the
    temporary file and leaves an older `path` as it was. Inside `all_or_none` the file
    is renamed together with the others.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    check_writable(path)
    path = path.resolve()  # a link stays a link, what it points to is replaced
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    with all_or_none() as waiting:
        try:
            yield temporary
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _cannot_be_written(path, error) from error
            raise
        waiting.append(Part(temporary, path))


@contextmanager
def all_or_none() -> Iterator[list[Part]]:
    """Let the files that `replacing` writes inside this block appear together at its end.

    If the block fails, none of them appears, and what stood under their names before stays.
    A block inside another one belongs to it.

    Yields:
        The files that are complete so far.

    Raises:
        OutputError: a file cannot be given its name. Those that had been given theirs
            are taken away again, and what they had replaced is put back (on file systems
            without hard links that is gone: no second name can be kept for it).
    """
    if (outer := _waiting.get()) is not None:
        yield outer
        return
    parts: list[Part] = []
    token = _waiting.set(parts)
    try:
        yield parts
        _rename(parts)
    finally:
        _waiting.reset(token)
        for part in parts:
            part.temporary.unlink(missing_ok=True)


def _rename(parts: Sequence[Part]) -> None:
    """Give every file its name, or none."""
    older: dict[Path, Path] = {}  # path -> a second name of what stood there before
    renamed: list[Path] = []
    try:
        for part in parts:
            if part is not parts[-1] and part.path.exists():  # after the last nothing can fail
                second = part.temporary.with_suffix(".old")
                try:
                    os.link(part.path, second)
                    older[part.path] = second
                except OSError:  # a file system without hard links
                    pass
            try:
                os.replace(part.temporary, part.path)
            except OSError as error:
                raise _cannot_be_written(part.path, error) from error
            renamed.append(part.path)
    except BaseException:
        for path in renamed:
            if path in older:
                os.replace(older.pop(path), path)
            else:
                path.unlink(missing_ok=True)
        raise
    finally:
        for second in older.values():
            second.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise `OutputError` now, before long work, if `path` cannot be written later."""
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file name to write to")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device or a pipe; only regular files can be replaced")
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} is not writable")
    try:  # permissions are not all: in /proc, for one, no files can be made
        tempfile.TemporaryFile(dir=folder).close()
    except FileNotFoundError:
        raise OutputError(f"{path}: no files can be made in the folder {folder}") from None
    except OSError as error:
        raise _cannot_be_written(path, error) from error


def check_output(path: str | Path, suffix: str, option: str) -> None:
    """Raise `OutputError` now if a file asked for by `option` has another ending, or cannot be written."""
    if Path(path).suffix.lower() != suffix:
        raise OutputError(f"{option} {path}: the name must end in {suffix}")
    check_writable(Path(path))


def write_text(path: str | Path, text: str) -> None:
    """A text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def _cannot_be_written(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")
