"""Access to inputs: local files, and what fsspec opens (`s3://`, `gs://`, `hf://`, ...)."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autogaze.checks import as_path
from autogaze.corpus.addresses import CHAINED, file_name, is_http, is_uri
from autogaze.errors import (
    CorpusError,
    MissingExtraError,
    MissingPackageError,
    VideoError,
    first_line,
)

MISSING = -1
"""Size of a file that is not there."""

_TAGS = ("etag", "blob_id", "md5hash", "crc32c", "checksum")
_TIMES = ("mtime", "lastmodified", "last_modified", "last-modified", "updated", "created")
"""Keys, in lower case, under which file systems return tags and times of change."""

MAX_SUFFIX = 16
"""Characters that the suffix of a temporary copy may have."""


@dataclass(frozen=True)
class Input:
    """One video of a collection.

    Args:
        path: absolute, or a URI. A video in a tar file is `tar://MEMBER::TAR`, as fsspec has it.
        size: bytes; `MISSING` if there is no such file, 0 if the file system does not say.
        modified: Unix time of change, if the file system returns one.
        etag: another value of the file system that changes with the content.
        offset: of a video in a tar file, where its bytes begin.
        error: why it cannot be looked up, of a file, or of a folder or tar file that holds videos.
    """

    path: str
    size: int
    modified: float | None = None
    etag: str | None = None
    offset: int | None = None
    error: str | None = None

    @property
    def identity(self) -> tuple[str, int, float | None, str | None]:
        """Identifies the content: equal if it was gazed at before."""
        return self.path, self.size, self.modified, self.etag


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Raises:
        MissingExtraError: fsspec, or the package of this kind of file system, is not installed.
        CorpusError: no such kind, or it cannot be opened.
    """
    try:
        from fsspec.core import get_filesystem_class, url_to_fs
    except ImportError:
        raise MissingExtraError("fsspec", "corpus", f"reading {uri}") from None
    if uri.startswith("file://"):
        as_path(uri, CorpusError)  # refuses another machine, which fsspec takes for a folder here
    _, chained, last = uri.rpartition("::")
    protocol = uri.partition("://")[0]
    try:
        if chained and protocol not in CHAINED and not is_uri(last) and not last.startswith("/"):
            # A name with two colons, which fsspec would take for a chain of addresses.
            kind = get_filesystem_class(protocol)
            return kind(**kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)
        return url_to_fs(uri)
    except ImportError as error:  # "Install s3fs to access S3"
        raise MissingPackageError(f"{uri}: needs another package: {first_line(error)}") from error
    except Exception as error:  # every file system has errors of its own
        raise CorpusError(f"{uri}: cannot be opened: {first_line(error)}") from error


def refused(path: str, error: Exception) -> Input:
    """The input of a path that cannot be looked up, which fails with this error when its turn comes."""
    path = path.encode(errors="backslashreplace").decode()  # no column of text takes another name
    return Input(path, MISSING, error=first_line(error))


def stat_input(path: str) -> Input:
    """The input of a path, with what identifies its content; a missing file is an input that will fail.

    Raises:
        CorpusError: the file system cannot be asked, or does not answer.
        MissingExtraError: see `filesystem`.
    """
    if not is_uri(path):
        try:
            path.encode()
        except UnicodeEncodeError:  # no column of text takes such a name
            return Input(path.encode(errors="backslashreplace").decode(), MISSING)
        try:
            found = os.stat(path)
        except (OSError, ValueError):  # also names that no file can have
            return Input(path, MISSING)
        return Input(path, found.st_size, found.st_mtime)
    system, inner = filesystem(path)
    try:
        return described(path, system.info(inner))
    except FileNotFoundError as error:
        if (refusal := _refusal(path, error)) is None:
            return Input(path, MISSING)
        raise CorpusError(f"{path}: cannot be looked up: {first_line(refusal)}") from error
    except Exception as error:
        raise CorpusError(f"{path}: cannot be looked up: {first_line(error)}") from error


def _refusal(path: str, error: FileNotFoundError) -> Exception | None:
    """What fsspec's HTTP takes for a missing file, but is a server that does not answer or permit."""
    cause = error.__cause__
    known = cause is None or getattr(cause, "status", None) in (404, 410)
    return cause if is_http(path) and not known and isinstance(cause, Exception) else None


def described(path: str, info: dict[str, Any]) -> Input:
    """The input of a file by its `info` from an fsspec file system."""
    facts = {name.lower(): value for name, value in info.items() if value is not None}
    tag = next((str(facts[name]) for name in _TAGS if name in facts), None)
    time = next((facts[name] for name in _TIMES if name in facts), None)
    if isinstance(time, datetime):
        time = time.timestamp()
    elif not isinstance(time, int | float):
        tag, time = tag or (None if time is None else str(time)), None
    size = facts.get("size")
    return Input(path, 0 if size is None else int(size), time, tag)


def opened(path: str) -> Any:
    """Open a local or remote file for reading.

    Raises:
        CorpusError: it cannot be opened.
        MissingExtraError: see `filesystem`.
    """
    try:
        if not is_uri(path):
            return open(path, "rb")
        system, inner = filesystem(path)
        return system.open(inner, "rb")
    except (CorpusError, MissingExtraError):
        raise
    except FileNotFoundError as error:
        if (refusal := _refusal(path, error)) is None:
            raise CorpusError(f"{path}: no such file") from None
        raise CorpusError(f"{path}: cannot be read: {first_line(refusal)}") from error
    except Exception as error:
        raise CorpusError(f"{path}: cannot be read: {first_line(error)}") from error


@contextmanager
def local_file(source: Input, scratch: Path) -> Iterator[Path]:
    """A video as a local file: itself, or a temporary copy.

    Args:
        scratch: folder for the copy.

    Raises:
        VideoError: there is no such file, or it is a folder far away.
        CorpusError, OSError: it could not be looked up, or cannot be fetched.
    """
    if source.error is not None:
        raise CorpusError(source.error)
    if source.size == MISSING:
        raise VideoError(f"{source.path}: no such file, or a name that is no UTF-8")
    if source.offset is None and not is_uri(source.path):
        yield Path(source.path)
        return
    # The suffix is kept, since image formats are recognised by it; no longer one is a format's.
    name = file_name(source.path) if source.offset is None else source.path.partition("::")[0]
    suffix = Path(name).suffix
    copy = scratch / f"video{suffix if len(suffix) <= MAX_SUFFIX else ''}"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        fetch(source, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def fetch(source: Input, copy: Path) -> None:
    """Write a video's bytes to a file.

    Raises:
        VideoError: it is a folder.
        CorpusError, OSError: it cannot be fetched.
    """
    if source.offset is None:
        system, inner = filesystem(source.path)
        short = 0
        try:
            maybe_folder = source.size == 0 and not is_http(source.path)
            if not (is_folder := maybe_folder and system.isdir(inner)):
                system.get_file(inner, str(copy))
                short = source.size - copy.stat().st_size
        except Exception as error:
            raise CorpusError(f"{source.path}: cannot be fetched: {first_line(error)}") from error
        if is_folder:
            raise VideoError(f"{source.path}: is a folder, expected a video file")
        if short > 0:  # not the video's fault, so it is tried again
            raise CorpusError(
                f"{source.path}: cannot be fetched: ends {short} bytes before its size of {source.size}"
            )
        return
    _, _, archive = source.path.partition("::")
    with opened(archive) as tar, open(copy, "wb") as file:
        tar.seek(source.offset)
        left = source.size
        while left and (piece := tar.read(min(left, 2**22))):
            file.write(piece)
            left -= len(piece)
    if left:
        raise CorpusError(f"{source.path}: the archive ends {left} bytes before the video does")


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it; none is fine."""
    shutil.rmtree(path, ignore_errors=True)


def arrow() -> Any:
    """The module `pyarrow`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("pyarrow", "corpus", "a corpus") from None
    return pyarrow


def parquet() -> Any:
    """The module `pyarrow.parquet`; raises as `arrow` does."""
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet
