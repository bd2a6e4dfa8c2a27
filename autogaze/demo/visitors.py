"""The visitors of a page: their running jobs, which stop when they leave, and their files."""

import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from autogaze.demo.live import LiveGaze, LiveSettings
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.work import Cancelled, Stop

SETTLED = 60.0
"""Seconds after which an empty folder is removed: into a new one a file may be on its way."""


@dataclass
class Visitor:
    """Jobs, files and webcam of one visitor.

    Args:
        stops: of the running jobs.
        folders: of finished jobs.
        uploads: files sent, of which the `latest` stays, and those that jobs are `reading`.
        live: of the webcam, if it runs.
    """

    stops: set[Stop] = field(default_factory=set)
    folders: list[Path] = field(default_factory=list)
    uploads: set[Path] = field(default_factory=set)
    latest: Path | None = None
    reading: Counter[Path] = field(default_factory=Counter)
    live: LiveGaze | None = None


class Visitors:
    """All visitors, by the names of their sessions.

    Args:
        root: the page's folder: uploads and results lie in it, nothing else is served.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.RLock()
        self._visitors: dict[str, Visitor] = {}
        self._came: dict[Path, int] = {}  # when uploads came to their places (`st_ctime_ns`)

    def __len__(self) -> int:
        return len(self._visitors)

    def of(self, session: str) -> Visitor:
        """The visitor of a session, who may be new."""
        with self._lock:
            return self._visitors.setdefault(session, Visitor())

    @contextmanager
    def job(self, session: str) -> Iterator[tuple[Stop, Path]]:
        """A job's stop flag and its new folder, which stays until `forget_results` or `leave`.

        Raises:
            Cancelled: by whoever checks the flag; the folder is removed, as with any error.
        """
        stop, folder = Stop(), self.root / f"job-{secrets.token_hex(16)}"
        with self._lock:
            visitor = self.of(session)
            visitor.stops.add(stop)
        folder.mkdir(parents=True)
        try:
            yield stop, folder
            with self._lock:
                if stop.is_set():
                    raise Cancelled
                visitor.folders.append(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            with self._lock:
                visitor.stops.discard(stop)

    def forget_results(self, session: str) -> None:
        """Remove the files of a visitor's finished jobs."""
        with self._lock:
            folders, self.of(session).folders = self.of(session).folders, []
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def uploaded(self, session: str, path: Path) -> None:
        """Remember a file of a visitor's; those sent before are removed, once no job reads them."""
        came = path.stat().st_ctime_ns
        with self._lock:
            visitor = self.of(session)
            visitor.uploads.add(path)
            visitor.latest = path
            self._came[path] = came
            self._remove_former(visitor)

    @contextmanager
    def reading(self, session: str, path: Path) -> Iterator[None]:
        """Remember a file, and keep it inside the block whatever the visitor sends meanwhile."""
        with self._lock:
            self.uploaded(session, path)
            visitor = self.of(session)
            visitor.reading[path] += 1
        try:
            yield
        finally:
            with self._lock:
                visitor.reading -= Counter([path])
                if self._visitors.get(session) is visitor:
                    self._remove_former(visitor)

    def _remove_former(self, visitor: Visitor) -> None:
        """Remove the uploads that are neither the latest nor read."""
        former = visitor.uploads - {visitor.latest, *visitor.reading}
        visitor.uploads -= former
        self._remove(former)

    def cancel(self, session: str) -> int:
        """Stop a visitor's jobs; returns how many there were."""
        with self._lock:
            visitor = self._visitors.get(session)
            stops = set() if visitor is None else set(visitor.stops)
        for stop in stops:
            stop.set()
        return len(stops)

    def live(self, session: str, settings: LiveSettings, pool: SelectorPool) -> LiveGaze:
        """The live gaze of a visitor's webcam; other settings replace it."""
        with self._lock:
            visitor = self.of(session)
            if visitor.live is None or visitor.live.settings != settings:
                former, visitor.live = visitor.live, None
                if former is not None:
                    former.close()
                visitor.live = LiveGaze(pool, settings)
            return visitor.live

    def leave(self, session: str) -> None:
        """Stop a visitor's jobs and remove everything of theirs."""
        self.cancel(session)
        with self._lock:
            visitor = self._visitors.pop(session, None)
            if visitor is None:
                return
            self._remove(visitor.uploads)
        if visitor.live is not None:
            visitor.live.close()
        for folder in visitor.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def leave_all(self) -> None:
        """When the page closes."""
        for session in list(self._visitors):
            self.leave(session)

    def _remove(self, uploads: set[Path]) -> None:
        """Remove uploads, of which equal ones have one place, but none that others sent too.

        An upload is attributed to its visitor only when it is used. If another visitor has sent an equal
        file meanwhile, its change time is newer, and the file stays.
        """
        for path in uploads - {path for one in self._visitors.values() for path in one.uploads}:
            came = self._came.pop(path, None)
            if not path.is_relative_to(self.root) or not path.is_file():
                continue  # clients may name any path
            if path.stat().st_ctime_ns == came:
                path.unlink(missing_ok=True)
        for folder in self.root.iterdir():
            with suppress(OSError):  # not empty, or removed by somebody else
                if time.time() - folder.stat().st_mtime > SETTLED:
                    folder.rmdir()
