"""Finding training files, and what they are called in label files."""

import os
from collections.abc import Sequence
from pathlib import Path


def find_files(roots: Sequence[str | Path], endings: Sequence[str]) -> list[Path]:
    """All files below the folders that end so, each once, sorted: numbers mean the same anywhere.

    Hidden files are left out: what is still being written, and what macOS lays beside files.
    """
    found = {
        path
        for root in roots
        for path in Path(root).rglob("*")
        if path.suffix.lower() in endings and path.is_file() and not path.name.startswith(".")
    }
    return sorted(found)


def short_name(path: Path) -> str:
    """The last three parts of a path, `dataset/split/file.mp4`: a clip's name in label files.

    Of the whole path, so that it is the same from whichever folder a program is started.
    """
    return "/".join(Path(os.path.abspath(path)).parts[-3:])
