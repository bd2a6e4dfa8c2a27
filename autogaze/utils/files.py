"""Atomic writes: files and folders written whole or not at all, alone or several files together."""

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from string import hexdigits
from typing import Any, NamedTuple

from autogaze.checks import as_path
from autogaze.errors import OutputError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing stale is removed
    fcntl = None  # type: ignore[assignment]


class Part(NamedTuple):
    """A complete file under a temporary name, its final path, and the lock on it."""

    temporary: Path
    path: Path
    lock: int | None = None


_OLD = ".old"
"""Suffix of the second link to an older file, while several are renamed."""

_waiting: ContextVar[list[Part] | None] = ContextVar("waiting", default=None)
"""The files of the outermost open `all_or_none` block."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The suffix is kept, since encoders and image libraries choose the format by it. Where the
    block fails or is interrupted, the temporary file is removed and an older `path` stays.
    Inside `all_or_none` the file is renamed together with the others.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    path = as_path(path, OutputError)
    check_writable(path)
    # A link stays a link, what it points to is replaced; unlike Path.resolve, takes loops of links.
    path = Path(os.path.realpath(path))
    with all_or_none() as waiting:
        temporary, lock = path, None
        try:
            _remove_stale(path)
            temporary, lock = _make_temporary(path)
            yield temporary
        except BaseException as error:
            if temporary != path:
                temporary.unlink(missing_ok=True)
            _unlock(lock)
            if isinstance(error, OSError):
                raise cannot_be_written(path, error) from error
            raise
        waiting.append(Part(temporary, path, lock))


def _temporary_name(path: Path, token: str) -> str:
    """A name beside `path` with its suffix, not longer than names may be (255 bytes)."""
    suffix = path.suffix if len(path.suffix) < 20 else ""
    room = 255 - len(os.fsencode(f"..{'x' * 8}.part{suffix}"))
    stem = os.fsencode(path.stem)[:room].decode(errors="ignore")
    return f".{stem}.{token}.part{suffix}"


def _make_temporary(path: Path) -> tuple[Path, int | None]:
    """An empty file beside `path`, and a lock on it that ends with this process."""
    while True:
        temporary = path.with_name(_temporary_name(path, secrets.token_hex(4)))
        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if fcntl is None:
            os.close(lock)
            return temporary, None
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(temporary):  # another process may have taken it for stale just before
            return temporary, lock
        os.close(lock)


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _remove_stale(path: Path) -> None:
    """Remove temporary files of this very output whose processes were killed.

    A process holds a lock on its own: those that can be locked belong to nobody.
    """
    if fcntl is None:
        return
    pattern = _temporary_name(path, "*" * 8).split("*" * 8)
    for name in os.listdir(path.parent):
        token = name.removeprefix(pattern[0])[:8]
        ours = name == f"{pattern[0]}{token}{pattern[1]}" and set(token) <= set(hexdigits)
        old = name == f"{pattern[0]}{token}.part{_OLD}" and set(token) <= set(hexdigits)
        found = path.with_name(name)
        with suppress(OSError):
            if old and time.time() - os.lstat(found).st_ctime > 60:  # lives for milliseconds
                found.unlink()
            elif ours and not old:
                lock = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found.unlink()
                finally:
                    os.close(lock)


@contextmanager
def all_or_none() -> Iterator[list[Part]]:
    """Rename the files that `replacing` writes inside this block together, at its end.

    If the block fails, none of them appears, and older files stay. A nested block belongs to the
    outer one.

    Yields:
        The files that are complete so far.

    Raises:
        OutputError: a file cannot be renamed. Those renamed before are removed again and the
            older ones restored (except on file systems without hard links).
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
            _unlock(part.lock)


def _rename(parts: Sequence[Part]) -> None:
    """Rename all files or none."""
    older: dict[Path, Path] = {}  # path -> a second hard link to the file it had before
    renamed: list[Path] = []
    try:
        for part in parts:
            if part is not parts[-1] and part.path.exists():  # nothing can fail after the last
                second = part.temporary.with_suffix(_OLD)
                try:
                    os.link(part.path, second)
                    older[part.path] = second
                except OSError:  # a file system without hard links
                    pass
            try:
                os.replace(part.temporary, part.path)
            except OSError as error:
                raise cannot_be_written(part.path, error) from error
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


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; rename it to `path` if the block succeeds, else remove it.

    A folder that was there before is removed just before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.mkdir()
        yield temporary
        for made in (*temporary.rglob("*"), temporary):
            onto_disk(made)
        if path.exists():
            shutil.rmtree(path)
        os.rename(temporary, path)
        onto_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def onto_disk(path: Path) -> None:
    """Flush a file or a folder, so that even a power cut leaves either nothing or all of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(path: Path) -> None:
    """Raise `OutputError` now, before long work, if `path` cannot be written later."""
    path = as_path(path, OutputError)
    folder = path.parent
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, a loop of links
        raise cannot_be_written(path, error) from error
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
        raise cannot_be_written(path, error) from error


def check_output(path: str | Path, suffix: str, option: str) -> None:
    """Raise `OutputError` now if the file of `option` has another suffix, or cannot be written."""
    if Path(path).suffix.lower() != suffix:
        raise OutputError(f"{option} {path}: the name must end in {suffix}")
    check_writable(Path(path))


def check_output_folder(path: Path, option: str) -> None:
    """Raise `OutputError` now if the folder of `option` could not be made later."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{option} {path}: is a file, expected a folder")
    if not path.parent.is_dir():
        raise OutputError(f"{option} {path}: the folder {path.parent} does not exist")


def make_folder(path: Path, *, parents: bool = False) -> None:
    """Make a folder where there is none; `OutputError` where that cannot be."""
    try:
        path.mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made a folder: {error.strerror or error}") from error


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def cannot_be_written(path: Path, error: OSError) -> OutputError:
    """The error of a file that the system refuses to write."""
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")
