"""Inputs of a corpus: the videos that arguments of the command line name, and how many and long they are.

An argument is a video, a folder, a pattern (`videos/*.mp4`, `shards/{000..127}.tar`), a tar file of
videos (WebDataset), a list (`.txt`, one path per line) or a table (`.parquet`, `.csv`) with a
column of paths. Each may lie wherever fsspec reaches. Lists and tables name videos and tar files.
"""

import csv
import glob
import io
import math
import os
import random
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from autogaze.checks import describe_value
from autogaze.corpus.addresses import absolute, file_name, is_http, is_uri, parent
from autogaze.corpus.listing import Failed, files_below, has_hidden, looked_up, matching
from autogaze.corpus.storage import MISSING, Input, arrow, opened, parquet, refused, stat_input
from autogaze.datasets.video_windows import VIDEOS
from autogaze.errors import AutoGazeError, CorpusError, first_line

LISTS = (".txt", ".lst")
TABLES = (".parquet", ".csv")
ARCHIVE = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

MAX_EXPANDED = 10**6
"""Paths that one pattern with braces may name."""


def find_inputs(arguments: Sequence[str], column: str = "path") -> list[Input]:
    """The videos that arguments name, each once, in the order in which they are named.

    What cannot be looked up below an argument or of a list is an input with an `error`.

    Args:
        column: of the paths in tables.

    Raises:
        CorpusError: an argument that is not there, cannot be looked up or holds no video; a table
            without the column; nothing at all that can be looked up.
        MissingExtraError: fsspec, pyarrow or the package of a kind of file system is not installed.
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
    errors = [each.error for each in found.values() if each.error is not None]
    if len(errors) == len(found):
        raise CorpusError(errors[0])
    return list(found.values())


def expand_braces(pattern: str) -> list[str]:
    """`{000..127}` written out, as WebDataset has it, and `{a,b}`; other text stays.

    Raises:
        CorpusError: these are more than `MAX_EXPANDED`.
    """
    choices: list[Sequence[str]] = []
    try:
        for place, part in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
            numbers = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", part)
            if place % 2 == 0:
                choices.append([part])
            elif numbers:
                choices.append(_numbers(*numbers.groups()))
            elif "," in part:
                choices.append(part.split(","))
            else:
                choices.append([f"{{{part}}}"])
        if math.prod(map(len, choices)) > MAX_EXPANDED:
            raise ValueError
    except ValueError:
        raise CorpusError(f"{pattern}: names more than {MAX_EXPANDED:,} paths") from None
    return ["".join(chosen) for chosen in product(*choices)]


def _numbers(first: str, last: str) -> Sequence[str]:
    """The numbers from one to another, up or down; of as many digits as the first, if it begins with 0.

    Raises:
        ValueError: they are more than `MAX_EXPANDED`.
    """
    step = 1 if int(first) <= int(last) else -1
    numbers = range(int(first), int(last) + step, step)
    if len(numbers) > MAX_EXPANDED:
        raise ValueError
    width = len(first) if first.startswith("0") else 0
    return [str(number).zfill(width) for number in numbers]


def _argument(path: str, column: str) -> Iterator[Input]:
    """The videos of one argument."""
    suffix = os.path.splitext(file_name(path))[1].lower()
    if suffix in LISTS + TABLES and not _is_pattern(path):
        yield from _listed(listed_paths(path, column), path)
        return
    failed: list[Input] = []
    is_pattern = _is_pattern(path)
    places = _matches(path, failed.append) if is_pattern else [path]
    if not places and is_uri(path) and stat_input(path).size != MISSING:  # `[1].mp4` may be a name
        places = [path]
    if not places and not failed:
        raise CorpusError(f"{path}: nothing matches this pattern")
    yield from failed
    empty = not failed
    for place in places:  # of those that a pattern names, some may hold none
        for each in _matched(place) if is_pattern else _place(place):
            empty = False
            yield each
    if empty:
        raise CorpusError(f"{path}: holds no videos ({' '.join((*VIDEOS, ARCHIVE))})")


def _is_pattern(path: str) -> bool:
    """Whether a path is to be matched: a file may have such a name itself."""
    return glob.has_magic(file_name(path)) and (is_uri(path) or not os.path.lexists(path))


def _matches(pattern: str, failed: Failed) -> list[str]:
    """Paths that match, sorted; hidden ones match only if the pattern says so."""
    if is_uri(pattern):
        return matching(pattern, failed)
    return sorted(glob.glob(pattern, recursive=True))


def _matched(path: str) -> Sequence[Input]:
    """The videos of a place that a pattern matches; one that cannot be read is an input that fails."""
    try:
        return list(_place(path))
    except CorpusError as error:
        return [refused(path, error)]


def _place(path: str) -> Iterator[Input]:
    """The videos of a video, a folder or a tar file.

    Raises:
        CorpusError: there is no such place.
    """
    if file_name(path).lower().endswith(COMPRESSED):
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


def _file(source: Input) -> Sequence[Input]:
    """A video, or the videos in a tar file; one that cannot be read is an input that fails."""
    if not file_name(source.path).lower().endswith(ARCHIVE) or source.size == MISSING:
        return [source]
    try:
        return _archive(source)
    except CorpusError as error:
        return [refused(source.path, error)]


def _folder(folder: str) -> Iterator[Input]:
    """All videos and tar files below a folder, sorted; no hidden ones, and none behind links to folders.

    Raises:
        CorpusError: it cannot be listed.
    """
    failed: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=failed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if _is_wanted(name):
                yield from _file(stat_input(os.path.join(here, name)))
    for error in failed:
        cause = CorpusError(f"{error.filename}: cannot be listed: {error.strerror or error}")
        if error.filename == folder:
            raise cause from error
        yield refused(error.filename, cause)


def _is_wanted(name: str) -> bool:
    return name.lower().endswith((*VIDEOS, ARCHIVE)) and not name.startswith(".")


def _remote_place(uri: str) -> Iterator[Input]:
    failed: list[Input] = []
    below = files_below(uri, failed.append)
    if not below and not failed:
        stat_input(uri)  # says if it is the server that fails
        raise CorpusError(f"{uri}: no such file or folder")
    is_file = [each.path for _, each in below] == [uri]
    found = [each for path, each in below if is_file or _is_wanted_below(path)]
    if is_http(uri) and not is_file:  # whose pages say neither size nor time
        found = looked_up([each.path for each in found])
    for each in found:
        yield from _file(each)
    yield from failed


def _is_wanted_below(path: str) -> bool:
    """Whether a path in a folder is that of a video or tar file, and not hidden."""
    return _is_wanted(path.rpartition("/")[2]) and not has_hidden(path)


def _listed(paths: Iterable[str], source: str) -> Iterator[Input]:
    """The videos of a list's paths, in its order; those that are missing fail when their turn comes."""
    places = [absolute(path, parent(source)) for path in paths]
    if not places:
        raise CorpusError(f"{source}: lists no paths")
    remote = list(dict.fromkeys(place for place in places if is_uri(place)))
    found = dict(zip(remote, looked_up(remote), strict=True))
    for place in places:
        yield from _file(found.get(place) or stat_input(place))


def _archive(source: Input) -> list[Input]:
    """The videos in a tar file. Their content changes with the file's.

    Raises:
        CorpusError: it is no tar file, or is cut short.
    """
    if not is_uri(source.path) and not os.path.isfile(source.path):
        raise CorpusError(f"{source.path}: is no regular file, so it cannot be read as a tar file")
    with opened(source.path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = [each for each in tar if each.isreg() and _is_video(each.name)]
        except (tarfile.TarError, OSError, ValueError) as error:
            raise CorpusError(
                f"{source.path}: cannot be read as a tar file: {first_line(error)}"
            ) from error
    found = []
    for each in members:
        # No column takes a name that is no UTF-8, and `::` ends the name.
        name = each.name.encode(errors="backslashreplace").decode().replace("::", "%3A%3A")
        path = f"tar://{name}::{source.path}"
        found.append(Input(path, each.size, source.modified, source.etag, each.offset_data))
    return found


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEOS) and not os.path.basename(name).startswith(".")


def listed_paths(file: str, column: str) -> list[str]:
    """The paths that a list or a table names; empty lines and those after `#` are left out.

    Raises:
        CorpusError: it cannot be read, has no such column, or a row of it has no path.
        MissingExtraError: it is Parquet and pyarrow is not installed.
    """
    lower = file_name(file).lower()
    if lower.endswith(".parquet"):
        values: Iterator[object] = _parquet(file, column)
    elif lower.endswith(".csv"):
        values = _csv(file, column)
    else:
        lines = (line.strip() for line in _text(file).splitlines())
        return [line for line in lines if line and not line.startswith("#")]
    paths = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, str) or not value.strip():
            raise CorpusError(
                f"{file}: row {number} has no path in the column {column}, but {describe_value(value)}"
            )
        paths.append(value.strip())
    return paths


def _text(file: str) -> str:
    with opened(file) as opened_file:
        try:
            return opened_file.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{file}: cannot be read as text: {first_line(error)}") from error


def _csv(file: str, column: str) -> Iterator[object]:
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    try:
        _check_column(file, column, list(reader.fieldnames or ()))
        for row in reader:
            yield row[column]
    except csv.Error as error:
        raise CorpusError(f"{file}: cannot be read as CSV: {first_line(error)}") from error


def _parquet(file: str, column: str) -> Iterator[object]:
    table_file, arrow_error = parquet().ParquetFile, arrow().ArrowException
    with opened(file) as opened_file:
        try:
            with table_file(opened_file) as table:
                _check_column(file, column, table.schema_arrow.names)
                if not table.num_row_groups:  # which older pyarrow refuses to read
                    return
                for batch in table.iter_batches(columns=[column]):
                    yield from batch.column(0).to_pylist()
        except (arrow_error, OSError) as error:
            raise CorpusError(f"{file}: cannot be read as Parquet: {first_line(error)}") from error


def _check_column(file: str, column: str, names: list[str]) -> None:
    if column not in names:
        raise CorpusError(
            f"{file}: has no column {describe_value(column)}; it has {', '.join(names) or 'none'}: name "
            "the one with the paths of videos (--column)"
        )


MAX_OPENED = 500
"""Videos whose headers are read; where there are more, their length is estimated from so many."""


@dataclass(frozen=True)
class Survey:
    """Size and length of a collection.

    Args:
        missing: files that are not there, or cannot be looked up.
        size: bytes.
        seconds: of video, whole videos; estimated where not all were measured; None if none was.
        measured: number of videos whose length was read from their header; local files alone.
        unreadable: number of files that were opened and are no videos; they add nothing to `seconds`.
        estimated: whether `seconds` is an estimate: some were neither measured nor unreadable.
    """

    missing: int
    size: int
    seconds: float | None
    measured: int
    unreadable: int
    estimated: bool


def survey(inputs: Sequence[Input]) -> Survey:
    """Size and length of some inputs."""
    there = [each for each in inputs if each.size != MISSING]
    local = [each for each in there if not is_uri(each.path)]
    if len(local) > MAX_OPENED:
        local = random.Random(0).sample(local, MAX_OPENED)
    lengths: list[float] = []
    unreadable = 0
    for each in local:
        try:
            length = _length(each.path)
        except AutoGazeError:
            unreadable += 1
            continue
        if length is not None:
            lengths.append(length)
    seconds = None
    if lengths:
        # The same shares and mean are assumed of those that were not opened.
        videos = len(there) * (1 - unreadable / len(local))
        seconds = sum(lengths) / len(lengths) * videos
    return Survey(
        missing=len(inputs) - len(there),
        size=sum(each.size for each in there),
        seconds=seconds,
        measured=len(lengths),
        unreadable=unreadable,
        estimated=len(lengths) + unreadable < len(there),
    )


def _length(path: str) -> float | None:
    """Seconds of a video by its header; None if they are not written.

    Raises:
        AutoGazeError: it is no video, or cannot be read.
    """
    from autogaze.video.reader import Video

    info = Video(path).info
    if info.is_image:
        return 0.0
    if info.duration is None and info.num_frames is not None:
        return info.num_frames / info.rate
    return info.duration
