"""Clips of real videos in folders, as users of AutoGaze lay them out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from autogaze.datasets.augmentation import Augmentation, augment
from autogaze.datasets.clip import ClipKey, TrainingClip, UnreadableClip
from autogaze.datasets.files import find_files, short_name
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.seeds import integer, seeded
from autogaze.errors import TrainingError, VideoError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".gif")


@dataclass(frozen=True)
class Window:
    """Which frames of a video make a clip.

    Args:
        clip_len: frames of a clip.
        stride: of them, this many frames apart.
        random: where the clip starts is drawn anew in every epoch; else it starts at the
            first frame, which is where labels are made.
    """

    clip_len: int = 16
    stride: int = 1
    random: bool = False

    @property
    def span(self) -> int:
        """Frames from the first of the clip to its last, both included."""
        return (self.clip_len - 1) * self.stride + 1


class VideoFolder(Dataset):
    """Videos below `root/<split>/` of several roots.

    Args:
        roots: folders that hold `train/` and `val/`.
        split: which of them.
        window: how clips are cut.
        side: pixels of a clip's frames: the shorter side is resized to it, the middle cut out.
        augmentation: of training clips; labelled ones may not be augmented.
        labels: gaze labels of the clips; videos without are left out.
        seed: of everything drawn.

    Raises:
        TrainingError: no videos, labels for other videos or clips of another length, or
            labels with random windows or augmentation.
    """

    def __init__(
        self,
        roots: Sequence[str | Path],
        split: str = "train",
        *,
        window: Window | None = None,
        side: int = 224,
        augmentation: Augmentation | None = None,
        labels: LabelFile | None = None,
        seed: int = 0,
    ) -> None:
        self.window = window or Window()
        self.side = side
        self.augmentation = augmentation
        self.labels = labels
        self.seed = seed
        folders = [Path(root) / split for root in roots]
        self.paths = find_files([folder for folder in folders if folder.is_dir()], VIDEOS)
        if not self.paths:
            places = ", ".join(str(folder) for folder in folders)
            raise TrainingError(f"no videos ({' '.join(VIDEOS)}) in {places or 'no folder'}")
        if labels is not None:
            if self.window.random or augmentation is not None:
                raise TrainingError(
                    "gaze labels belong to fixed clips: use dataset.random_sample_frame=False "
                    "and no augmentation with them"
                )
            found = [path for path in self.paths if short_name(path) in labels]
            if not found:
                raise TrainingError(
                    f"{labels.path} labels none of the {len(self.paths)} videos found, such as "
                    f"{short_name(self.paths[0])}; it labels {labels.example()}"
                )
            labels.check_length(map(short_name, found), self.window.clip_len)
            self.paths = found

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        epoch, index = key if isinstance(key, tuple) else ClipKey(0, key)
        path = self.paths[index]
        name = short_name(path)
        generator = seeded("video", self.seed, epoch, index)
        try:
            frames = read_window(path, self.window, self.side, generator)
        except (VideoError, OSError) as error:
            return UnreadableClip(name, str(error))
        if self.augmentation is not None:
            frames = augment(frames, self.augmentation, generator)
        return TrainingClip(frames, name, None if self.labels is None else self.labels[name])


def read_window(
    path: Path, window: Window, side: int, generator: torch.Generator
) -> UInt8[Tensor, "T 3 S S"]:
    """The frames of one clip; a video that is too short shows its last frame on.

    Raises:
        VideoError: the file cannot be read, or has no frames.
    """
    from autogaze.video.decode import Video  # decoded clips can be trained on without PyAV

    video = Video(path)
    start = 0
    if window.random and video.info.num_frames:
        start = integer(generator, max(1, video.info.num_frames - window.span + 1))
    frames: list[Tensor] = []
    for frame in video.frames(first=start, last=start + window.span - 1):
        if (frame.index - start) % window.stride == 0:
            frames.append(square(torch.from_numpy(frame.pixels).permute(2, 0, 1), side))
    frames += [frames[-1]] * (window.clip_len - len(frames))
    return torch.stack(frames)


def square(frame: UInt8[Tensor, "3 H W"], side: int) -> UInt8[Tensor, "3 S S"]:
    """The shorter side resized (bilinear, antialiased) to `side`, the middle cut out."""
    height, width = frame.shape[1:]
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    if size != (height, width):
        frame = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return frame[:, top : top + side, left : left + side]
