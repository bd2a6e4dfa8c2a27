"""Folders and patterns far away: the files that fsspec finds in them.

Object stores list all files below a folder at once. Pages of the web and most other file systems are
listed folder by folder here, since fsspec passes over those that it cannot read.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from autogaze.corpus.addresses import file_name, is_http, one_spelling
from autogaze.corpus.storage import MISSING, Input, described, filesystem, refused, stat_input
from autogaze.errors import CorpusError, first_line

LOOKUPS = 16
"""Files that are looked up at once where each takes a request over a network."""

MAX_REFUSED = 64
"""Addresses that may be refused before any is not; each may take as long as a server does not answer."""

Failed = Callable[[Input], None]
"""Is told of a folder that cannot be listed, as an input that fails."""


def files_below(uri: str, failed: Failed) -> list[tuple[str, Input]]:
    """All files below a folder, sorted, each with its path in it; or the file itself, or none.

    Those of the web are to be looked up by `looked_up`, since pages say neither size nor time.

    Raises:
        CorpusError: it cannot be listed.
        MissingExtraError: fsspec, or the package of this kind of file system, is not installed.
    """
    web = is_http(uri)  # where any page is a file, also one that lists a folder
    if web and not uri.endswith("/"):
        file = stat_input(uri)
        return [] if file.size == MISSING else [("", file)]
    tree = Tree.of(uri, failed)
    try:
        if not web and tree.system.isfile(tree.inner):
            return [("", described(uri, tree.system.info(tree.inner)))]
        if tree.by_folder:
            found = {each["name"]: each for each in tree.walk(tree.inner) if _is_file(each)}
        else:
            found = tree.system.find(tree.inner, detail=True)
    except FileNotFoundError:
        return []
    except Exception as error:
        raise CorpusError(f"{uri}: cannot be listed: {first_line(error)}") from error
    return [
        (file_name(path).removeprefix(tree.inner), described(tree.uri_of(path), found[path]))
        for path in sorted(found)
    ]


def matching(pattern: str, failed: Failed) -> list[str]:
    """Files and folders that match a pattern, sorted; hidden ones match only if the pattern says so.

    Raises:
        CorpusError: they cannot be listed.
        MissingExtraError: fsspec, or the package of this kind of file system, is not installed.
    """
    tree = Tree.of(pattern, failed)
    try:
        found = sorted(tree.matching() if tree.by_folder else tree.system.glob(tree.inner))
    except FileNotFoundError:
        return []
    except Exception as error:
        raise CorpusError(f"{pattern}: cannot be listed: {first_line(error)}") from error
    if not has_hidden(tree.inner):
        found = [path for path in found if not has_hidden(path)]
    return [tree.uri_of(path) for path in found]


@dataclass(frozen=True)
class Tree:
    """The file system of a URI.

    Args:
        uri: of a folder or a pattern; `inner` is its path in the file system.
        failed: is told of folders that cannot be listed, other than the first.
    """

    uri: str
    system: Any
    inner: str
    failed: Failed

    @classmethod
    def of(cls, uri: str, failed: Failed) -> "Tree":
        return cls(uri, *filesystem(uri), failed)

    @property
    def by_folder(self) -> bool:
        """Whether fsspec lists folder by folder, and says nothing of those that it cannot list."""
        from fsspec import AbstractFileSystem
        from fsspec.asyn import AsyncFileSystem

        # Asynchronous file systems have a `_find`, which an instance's `find` wraps.
        find = getattr(inspect.unwrap(self.system.find), "__func__", None)
        return is_http(self.uri) or find in (AbstractFileSystem.find, AsyncFileSystem._find)

    def uri_of(self, path: str) -> str:
        """The URI of a path. Some file systems' paths lack the host or the archive: the URI's own is kept."""
        uri, chained, archive = self.uri.partition("::")
        uri, inner = re.sub("(?<![:/])/+$", "", uri), self.inner.rstrip("/")
        if not uri.endswith(inner):
            return str(self.system.unstrip_protocol(path))
        return f"{uri.removesuffix(inner)}{path}{chained}{archive}"

    def matching(self) -> Iterator[str]:
        """Paths of files and folders that match the pattern, folder by folder."""
        from fsspec.utils import glob_translate

        pattern, web = self.inner, is_http(self.uri)
        start = re.match(r"[^*\[]*/" if web else r"[^*?\[]*/", pattern)
        folder = start[0] if start else ""
        depth = None if "**" in pattern else pattern.count("/", len(folder), -1) + 1
        wanted = re.compile(glob_translate(pattern.rstrip("/")))
        top = folder if web else folder.rstrip("/") or folder
        for each in self.walk(top, hidden=has_hidden(pattern), depth=depth):
            name = each["name"]
            if wanted.match(name.rstrip("/")) and not (pattern.endswith("/") and _is_file(each)):
                yield name

    def walk(
        self, folder: str, *, hidden: bool = False, depth: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """What a folder and those below it hold, as fsspec's `info`, each once.

        Args:
            hidden: also files and folders whose name begins with a dot.
            depth: of folders that are listed; None: all.

        Raises:
            Exception: of the file system, if the first folder cannot be listed.
        """
        web = is_http(self.uri)
        seen, waiting = {folder}, [(folder, 1)]
        while waiting:
            here, level = waiting.pop()
            try:
                listing = self.system.ls(here, detail=True)
            except Exception as error:
                if here == folder:
                    raise
                self._cannot_be_listed(self.uri_of(here), error)
                continue
            for info in listing:
                # A page links to whatever it likes: `./one.mp4`, itself, the folder above.
                name = one_spelling(info["name"]) if web else info["name"]
                outside = web and not _place_of(name).startswith(_place_of(folder))
                last = (file_name(name) if web else name).rstrip("/").rpartition("/")[2]
                if name in seen or outside or (last.startswith(".") and not hidden):
                    continue
                seen.add(name)
                each = {**info, "name": name}
                yield each
                if not _is_file(each) and (depth is None or level < depth):
                    waiting.append((name, level + 1))

    def _cannot_be_listed(self, uri: str, error: Exception) -> None:
        cause = "no such folder" if isinstance(error, FileNotFoundError) else first_line(error)
        self.failed(refused(uri, CorpusError(f"{uri}: cannot be listed: {cause}")))


def _place_of(url: str) -> str:
    """A URL without its kind: a page of `https://` may link to `http://`."""
    return url.partition("://")[2]


def _is_file(info: dict[str, Any]) -> bool:
    return bool(info["type"] != "directory")


def looked_up(uris: Sequence[str]) -> list[Input]:
    """Inputs of files that each take a request over a network; those that are refused will fail.

    Raises:
        CorpusError: none of the first `MAX_REFUSED` is anything but refused.
    """
    found: list[Input] = []
    with ThreadPoolExecutor(LOOKUPS) as pool:
        for each in pool.map(_look_up, uris):
            found.append(each)
            if len(found) == MAX_REFUSED and all(each.error for each in found):
                pool.shutdown(cancel_futures=True)
                raise CorpusError(
                    f"none of the first {MAX_REFUSED} addresses can be looked up; of the first: "
                    f"{found[0].error}"
                )
    return found


def _look_up(uri: str) -> Input:
    try:
        return stat_input(uri)
    except CorpusError as error:
        return refused(uri, error)


def has_hidden(path: str) -> bool:
    """Whether a file or a folder in a path has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.split("/"))
