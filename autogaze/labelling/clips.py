"""The clips to label: of videos, of files of decoded clips, of any dataset."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.clip import ClipKey, NamedClips, UnreadableClip
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.decoders import choose_decoder
from autogaze.datasets.files import find_files
from autogaze.datasets.video_folder import VIDEOS, VideoClips, find_windows
from autogaze.datasets.windows import Window
from autogaze.errors import TrainingError, VideoError

DECODED = ".safetensors"


@dataclass(frozen=True)
class ClipToLabel:
    """One clip.

    Attributes:
        name: in the label file.
        clips: a dataset that holds it.
        number: of the clip in it.
    """

    name: str
    clips: NamedClips
    number: int

    def read(self) -> UInt8[Tensor, "T 3 S S"]:
        """Its frames.

        Raises:
            VideoError: it cannot be read.
        """
        clip = self.clips[ClipKey(0, self.number)]
        if isinstance(clip, UnreadableClip):
            raise VideoError(clip.cause)
        return clip.frames


def find_clips(
    paths: Sequence[str | Path], window: Window, side: int, decoder: str = "auto"
) -> list[ClipToLabel]:
    """All clips of files and folders, in the order of their names.

    Args:
        paths: videos, folders of them, files of decoded clips.
        window: how clips are cut out of videos; decoded ones must be of its length.
        side: pixels of their frames.
        decoder: of videos; see `choose_decoder`.

    Raises:
        TrainingError: a path that does not exist, no clips at all, two of one name, or decoded
            clips of another shape.
    """
    videos: list[Path] = []
    found: list[NamedClips] = []
    for path in map(Path, paths):
        if path.is_dir():
            videos += find_files([path], VIDEOS)
        elif not path.is_file():
            raise TrainingError(f"{path}: no such video or folder")
        elif path.suffix == DECODED:
            decoded = DecodedClips([path])
            decoded.check_shape(window.clip_len, side)
            found.append(decoded)
        else:
            videos.append(path)
    if videos:
        chosen = choose_decoder(decoder)
        clips = find_windows(videos, window, chosen)
        found.append(VideoClips(clips, window=window, side=side, decoder=chosen))
    if not found:
        raise TrainingError(
            f"no videos ({' '.join(VIDEOS)}) in {', '.join(map(str, paths)) or 'no folder'}"
        )
    return clips_of(found)


def clips_of(datasets: Sequence[NamedClips]) -> list[ClipToLabel]:
    """All clips of some datasets, in the order of their names.

    Raises:
        TrainingError: two of one name.
    """
    clips = [
        ClipToLabel(dataset.name(number), dataset, number)
        for dataset in datasets
        for number in range(len(dataset))
    ]
    name, count = Counter(clip.name for clip in clips).most_common(1)[0]
    if count > 1:
        raise TrainingError(
            f"{count} clips would be {name} in the label file, which knows a video by the last "
            "three parts of its path; rename a folder, or give it once"
        )
    return sorted(clips, key=lambda clip: clip.name)
