"""Finding training files, and what they are called in label files."""

from collections.abc import Sequence
from pathlib import Path


def find_files(roots: Sequence[str | Path], endings: Sequence[str]) -> list[Path]:
    """All files below the folders that end so, sorted, so that numbers mean the same anywhere."""
    return sorted(
        path
        for root in roots
        for path in Path(root).rglob("*")
        if path.suffix.lower() in endings and path.is_file()
    )


def short_name(path: Path) -> str:
    """The last three parts of a path, `dataset/split/file.mp4`: a clip's name in label files."""
    return "/".join(path.parts[-3:])
