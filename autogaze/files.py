"""Writing files so that nobody ever sees half of one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autogaze.errors import OutputError


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


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The suffix is kept, since encoders and image libraries choose the format by it.
    Whatever ends the block early (an error, a full disk, Ctrl-C) removes the
    temporary file and leaves an older `path` as it was.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    check_writable(path)
    path = path.resolve()  # a link stays a link, what it points to is replaced
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
