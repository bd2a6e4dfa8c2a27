"""The clips to label: video files, folders of them, files of decoded clips."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.files import find_files, short_name
from autogaze.datasets.seeds import seeded
from autogaze.datasets.video_folder import VIDEOS, Window, read_window
from autogaze.errors import TrainingError

DECODED = ".safetensors"


@dataclass(frozen=True)
class ClipToLabel:
    """One clip.

    Attributes:
        name: in the label file.
        path: of its video, or of the file that holds it decoded.
        decoded, row: that file's clips and its number among them, for decoded ones.
    """

    name: str
    path: Path
    decoded: DecodedClips | None = None
    row: int = 0

    def read(self, window: Window, side: int) -> UInt8[Tensor, "T 3 S S"]:
        """Its frames.

        Raises:
            VideoError: it cannot be read.
            TrainingError: decoded with another length or size.
        """
        if self.decoded is None:
            return read_window(self.path, window, side, seeded("labels"))
        frames = self.decoded[self.row].frames
        if frames.shape != (window.clip_len, 3, side, side):
            raise TrainingError(
                f"{self.path}: holds clips of {len(frames)} frames of {frames.shape[-1]} pixels, "
                f"expected {window.clip_len} of {side}"
            )
        return frames


def find_clips(paths: Sequence[str | Path]) -> list[ClipToLabel]:
    """All clips of files and folders, in the order of their names.

    Raises:
        TrainingError: a path that does not exist, no clips at all, or two of one name.
    """
    clips: list[ClipToLabel] = []
    for path in map(Path, paths):
        if path.is_dir():
            clips += [ClipToLabel(short_name(file), file) for file in find_files([path], VIDEOS)]
        elif not path.is_file():
            raise TrainingError(f"{path}: no such video or folder")
        elif path.suffix == DECODED:
            decoded = DecodedClips([path])
            clips += [
                ClipToLabel(name, path, decoded, row)
                for row, (_, _, name) in enumerate(decoded.clips)
            ]
        else:
            clips.append(ClipToLabel(short_name(path), path))
    if not clips:
        raise TrainingError(
            f"no videos ({' '.join(VIDEOS)}) in {', '.join(map(str, paths)) or 'no folder'}"
        )
    name, count = Counter(clip.name for clip in clips).most_common(1)[0]
    if count > 1:
        twice = [str(clip.path) for clip in clips if clip.name == name][:2]
        raise TrainingError(
            f"{' and '.join(twice)} would both be {name} in the label file, which knows a video "
            "by the last three parts of its path; rename a folder"
        )
    return sorted(clips, key=lambda clip: clip.name)
