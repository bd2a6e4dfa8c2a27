"""The files that clips are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autogaze.datasets.files import find_files
from autogaze.datasets.pictures import PICTURES
from autogaze.datasets.video_folder import VIDEOS
from autogaze.errors import VideoError


@dataclass(frozen=True)
class Material:
    """What there is to be seen.

    Attributes:
        videos: files of videos.
        photographs: files of pictures, to be filmed and composed.
    """

    videos: tuple[Path, ...] = ()
    photographs: tuple[Path, ...] = ()

    @classmethod
    def of_places(
        cls, static: Sequence[str | Path] = (), photos: Sequence[str | Path] = ()
    ) -> "Material":
        """Files, and what is in folders, which are searched to the bottom.

        Raises:
            VideoError: a place that does not exist, or with nothing in it.
        """
        return cls(_find(static, VIDEOS, "videos"), _find(photos, PICTURES, "pictures"))

    @classmethod
    def of_root(cls, root: str | Path, split: str) -> "Material":
        """All videos and pictures below `root/*/split`.

        Raises:
            VideoError: no such folders, or nothing in them.
        """
        folders = sorted(path for path in Path(root).glob(f"*/{split}") if path.is_dir())
        if not folders:
            raise VideoError(f"{root}: has no folders {root}/*/{split}")
        videos, photographs = (find_files(folders, endings) for endings in (VIDEOS, PICTURES))
        if not (videos or photographs):
            raise VideoError(f"no videos and no pictures in {root}/*/{split}")
        return cls(tuple(videos), tuple(photographs))


def _find(places: Sequence[str | Path], endings: Sequence[str], what: str) -> tuple[Path, ...]:
    for place in map(Path, places):
        if not place.exists():
            raise VideoError(f"{place}: no such file or folder")
        if place.is_file() and place.suffix.lower() not in endings:
            raise VideoError(f"{place}: expected {what}, which end in {' '.join(endings)}")
    files = {Path(place) for place in places if Path(place).is_file()}
    files |= set(find_files([place for place in places if Path(place).is_dir()], endings))
    if places and not files:
        raise VideoError(f"no {what} ({' '.join(endings)}) in {', '.join(map(str, places))}")
    return tuple(sorted(files))
