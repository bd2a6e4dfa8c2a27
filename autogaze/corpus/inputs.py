"""What is to be gazed at: arguments of the command line, listed as videos.

An argument is a video, a folder, a pattern (`videos/*.mp4`, `shards/{000..127}.tar`), a tar file of
videos (WebDataset), a list (`.txt`, one path per line) or a table (`.parquet`, `.csv`) with a
column of paths. Each may lie wherever fsspec reaches, and lists may name any of them but lists.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from autogaze.checks import describe_value
from autogaze.corpus.storage import (
    MISSING,
    Input,
    absolute,
    described,
    filesystem,
    is_uri,
    opened,
    parent,
    stat_input,
)
from autogaze.corpus.tables import LISTS, TABLES, listed_paths
from autogaze.datasets.video_windows import VIDEOS
from autogaze.errors import CorpusError, first_line

ARCHIVE = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

LOOKUPS = 16
"""Files that are looked up at once where each takes a request over a network."""


def find_inputs(arguments: Sequence[str], column: str = "path") -> list[Input]:
    """The videos that arguments name, each once, in the order in which they are named.

    Args:
        column: of the paths in tables.

    Raises:
        CorpusError: an argument that is not there or holds no video; a table without the column.
        MissingExtraError: fsspec or pyarrow is needed and not installed.
    """
    if not arguments:
        raise CorpusError("no inputs: give videos, folders, patterns, lists or tables of paths")
    found: dict[str, Input] = {}
    for argument in arguments:
        if not argument or "\0" in argument:
            raise CorpusError(f"{describe_value(argument)}: is no path")
        patterns = [argument] if os.path.lexists(argument) else expand_braces(argument)
        for pattern in patterns:
            for each in _argument(absolute(pattern), column):
                found.setdefault(each.path, each)
    if not found:
        raise CorpusError(f"no videos in {', '.join(arguments)}")
    return list(found.values())


def expand_braces(pattern: str) -> list[str]:
    """`{000..127}` written out, as WebDataset has it, and `{a,b}`; other text stays."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices: list[list[str]] = []
    for place, part in enumerate(parts):
        numbers = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", part)
        if place % 2 == 0:
            choices.append([part])
        elif numbers:
            first, last = numbers.groups()
            width = len(first) if first.startswith("0") else 0
            choices.append([str(n).zfill(width) for n in range(int(first), int(last) + 1)])
        elif "," in part:
            choices.append(part.split(","))
        else:
            choices.append([f"{{{part}}}"])
    return ["".join(chosen) for chosen in product(*choices)]


def _argument(path: str, column: str) -> Iterator[Input]:
    """The videos of one argument."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in LISTS + TABLES and not _is_pattern(path):
        yield from _listed(listed_paths(path, column), path)
        return
    places = _matches(path) if _is_pattern(path) else [path]
    if not places:
        raise CorpusError(f"{path}: nothing matches this pattern")
    for place in places:
        yield from _place(place)


def _is_pattern(path: str) -> bool:
    """Whether a path is to be matched: a file may have such a name itself."""
    return glob.has_magic(path) and (is_uri(path) or not os.path.lexists(path))


def _matches(pattern: str) -> list[str]:
    """Paths that match, sorted; hidden ones match only if the pattern says so."""
    if not is_uri(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    system, inner = filesystem(pattern)
    try:
        return [system.unstrip_protocol(path) for path in sorted(system.glob(inner))]
    except Exception as error:
        raise CorpusError(f"{pattern}: cannot be listed: {first_line(error)}") from error


def _place(path: str) -> Iterator[Input]:
    """The videos of a video, a folder or a tar file.

    Raises:
        CorpusError: there is no such place.
    """
    lower = path.lower()
    if lower.endswith(COMPRESSED):
        raise CorpusError(
            f"{path}: is compressed, so that single videos cannot be read from it; unpack it to .tar"
        )
    if is_uri(path):
        yield from _remote_place(path)
    elif os.path.isdir(path):
        yield from _folder(path)
    elif not os.path.lexists(path):
        raise CorpusError(f"{path}: no such file or folder")
    else:
        yield from _file(stat_input(path))


def _file(source: Input) -> Iterator[Input]:
    if source.path.lower().endswith(ARCHIVE):
        yield from _archive(source)
    else:
        yield source


def _folder(folder: str) -> Iterator[Input]:
    """All videos and tar files below a folder, sorted; no hidden ones.

    Raises:
        CorpusError: there are none.
    """
    empty = True
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if _is_wanted(name):
                empty = False
                yield from _file(stat_input(os.path.join(here, name)))
    if empty:
        raise CorpusError(f"{folder}: holds no videos ({' '.join((*VIDEOS, ARCHIVE))})")


def _is_wanted(name: str) -> bool:
    return name.lower().endswith((*VIDEOS, ARCHIVE)) and not name.startswith(".")


def _remote_place(uri: str) -> Iterator[Input]:
    system, inner = filesystem(uri)
    try:
        if system.isfile(inner):
            yield from _file(described(uri, system.info(inner)))
            return
        found = system.find(inner, detail=True)
    except CorpusError:
        raise
    except Exception as error:
        raise CorpusError(f"{uri}: cannot be listed: {first_line(error)}") from error
    wanted = [path for path in sorted(found) if _is_wanted(path.rpartition("/")[2])]
    if not wanted:
        what = "holds no videos" if found else "no such file or folder"
        raise CorpusError(f"{uri}: {what}")
    for path in wanted:
        yield from _file(described(system.unstrip_protocol(path), found[path]))


def _listed(paths: Iterable[str], source: str) -> Iterator[Input]:
    """The videos of a list's paths, in its order; those that are missing fail when their turn comes."""
    places = [absolute(path, parent(source)) for path in paths]
    if not places:
        raise CorpusError(f"{source}: lists no paths")
    remote = [place for place in places if is_uri(place)]
    with ThreadPoolExecutor(LOOKUPS) as pool:
        looked_up = dict(zip(remote, pool.map(stat_input, remote), strict=True))
    for place in places:
        each = looked_up.get(place) or stat_input(place)
        if place.lower().endswith(ARCHIVE) and each.size != MISSING:
            yield from _archive(each)
        else:
            yield each


def _archive(source: Input) -> Iterator[Input]:
    """The videos in a tar file. Their content changes with the file's.

    Raises:
        CorpusError: it is no tar file, or is cut short.
    """
    with opened(source.path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = [each for each in tar if each.isreg() and _is_video(each.name)]
        except (tarfile.TarError, OSError, ValueError) as error:
            raise CorpusError(
                f"{source.path}: cannot be read as a tar file: {first_line(error)}"
            ) from error
    for each in members:
        path = f"tar://{each.name}::{source.path}"
        yield Input(path, each.size, source.modified, source.etag, each.offset_data)


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEOS) and not os.path.basename(name).startswith(".")
