"""The folder of a corpus while a process writes it: lock, settings, unfinished files."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from autogaze.corpus.manifest import ERRORS, GAZES, INPUTS
from autogaze.corpus.settings import FILE, CorpusSettings
from autogaze.corpus.storage import remove_folder
from autogaze.errors import OutputError
from autogaze.utils.files import cannot_be_written, check_writable, make_folder

try:
    import fcntl
except ImportError:  # not on Windows, where two processes must not write at once by themselves
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
UNFINISHED = ".unfinished"
"""Folder of the workers' temporary files; the process that holds the lock removes those of killed runs."""

OURS = frozenset({FILE, GAZES, INPUTS, ERRORS, LOCK, UNFINISHED})


class CorpusFolder:
    """A corpus that is open for writing, a context manager.

    Args:
        path: made if it is not there.
        settings: of the corpus.
        overwrite: remove what an earlier run wrote.

    Attributes:
        scratch: this run's folder for temporary files.

    Raises:
        OutputError: it cannot be written, holds other files than a corpus, or another process is
            writing it.
        CorpusError: it was made with other settings.
    """

    def __init__(self, path: Path, settings: CorpusSettings, *, overwrite: bool = False) -> None:
        self.path = Path(os.path.abspath(path))
        self.settings = settings
        self.overwrite = overwrite
        self.scratch = self.path / UNFINISHED / secrets.token_hex(4)
        self._open = ExitStack()

    def __enter__(self) -> "CorpusFolder":
        check_folder(self.path)
        make_folder(self.path, parents=True)
        try:
            self._take_lock()
            if not (self.path / FILE).exists():
                refuse_other_files(self.path)
            elif not self.overwrite:
                self.settings.check_same(self.path)
            remove_folder(self.path / UNFINISHED)
            make_folder(self.scratch, parents=True)
            if self.overwrite:
                self._remove_corpus()
            if not (self.path / FILE).exists():
                self.settings.save(self.path)
        except BaseException as error:
            self._open.close()
            if isinstance(error, OSError):
                raise cannot_be_written(self.path, error) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _take_lock(self) -> None:
        try:
            self._open.enter_context(locked(self.path))
        except BlockingIOError:
            raise OutputError(f"{self.path}: another process is writing this corpus") from None
        self._open.callback(remove_folder, self.path / UNFINISHED)

    def _remove_corpus(self) -> None:
        """Remove an older corpus. Its shards are moved away at once, so that a kill leaves all or none."""
        gazes = self.path / GAZES
        if gazes.exists():
            os.rename(gazes, self.scratch / "overwritten")
        for name in (INPUTS, ERRORS, FILE):
            (self.path / name).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, by a file in it; the lock ends with the block, or with the process.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be opened.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def check_folder(path: Path) -> None:
    """Raise `OutputError` now, before long work, if a corpus cannot be written to a folder."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # of a path, which has lost a slash
        raise OutputError(
            f"--out {path}: is an address; a corpus is written to a folder of this machine, or of a "
            "disk that is mounted here"
        )
    if os.path.lexists(path) and not os.path.isdir(path):
        raise OutputError(f"--out {path}: is a file, expected a folder")
    place = path
    while not os.path.exists(place):  # also where the system refuses to look
        place = place.parent
    if not os.path.isdir(place):
        raise OutputError(f"--out {path}: {place} is a file")
    file = place / FILE
    try:
        check_writable(file)
    except OutputError as error:
        # The folder is the cause, unless there is such a file already.
        cause = str(error) if os.path.lexists(file) else str(error).removeprefix(f"{file}: ")
        raise OutputError(f"--out {path}: {cause}") from error


def refuse_other_files(path: Path) -> None:
    """Raise `OutputError` if a folder that is no corpus holds files."""
    others = sorted({each.name for each in path.iterdir()} - {LOCK, UNFINISHED})
    if others:
        raise OutputError(
            f"--out {path}: is no corpus and holds other files ({', '.join(others[:3])}"
            f"{', ...' * (len(others) > 3)}); give an empty or a new folder"
        )
