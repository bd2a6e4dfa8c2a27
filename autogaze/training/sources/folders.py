"""Datasets that are read from files: videos, and clips decoded beforehand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autogaze.datasets.augmentation import Augmentation
from autogaze.datasets.clip import NamedClips
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.video_folder import VideoFolder
from autogaze.datasets.windows import Window
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.training.sources.base import SingleSource

Roots = str | tuple[str, ...] | None
"""Folders: separated by commas, or a list."""


@dataclass(frozen=True)
class FolderSource(SingleSource):
    """What datasets in folders can be told besides.

    Args:
        root: folders, separated by commas.
    """

    root: Roots = None

    def roots(self) -> list[Path]:
        """The folders.

        Raises:
            TrainingError: none named, or one that does not exist.
        """
        names = self.root.split(",") if isinstance(self.root, str) else self.root or ()
        paths = [Path(name.strip()).expanduser() for name in names if name.strip()]
        if not paths:
            raise TrainingError(
                "dataset.root names no folder; give one or more, separated by commas"
            )
        for path in paths:
            if not path.exists():
                raise TrainingError(f"dataset.root: {path} does not exist")
        return paths

    def has_split(self, split: str) -> bool:
        """See `ClipSource`."""
        return any((root / split).exists() for root in self.roots())


@dataclass(frozen=True)
class VideoFolderSource(FolderSource):
    """`video_folder`: videos below `root/train` and `root/val` (see `VideoFolder`).

    Args:
        random_sample_frame: draw where training clips start; else they are fixed.
        windows: which fixed clips a video gives: its first, or all that lie side by side.
            Label files say it themselves.
        stride: frames from one of a clip to the next.
        augmentation: of training clips.
        decoder: reads the files; `auto` is PyAV where it is installed, else OpenCV.
        cache: decode all videos into memory before training.
    """

    random_sample_frame: bool = False
    windows: Literal["first", "all"] = "first"
    stride: int = 1
    augmentation: Augmentation | None = None
    decoder: Literal["auto", "pyav", "opencv"] = "auto"
    cache: bool = False

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
        trains = split == "train"
        random = self.random_sample_frame and trains
        every = self.windows == "all" and not random
        return VideoFolder(
            self.roots(),
            split,
            window=Window(self.clip_len, self.stride, random, every),
            side=pyramid.side,
            augmentation=self.augmentation if trains else None,
            labels=labels,
            seed=seed,
            decoder=self.decoder,
            cache=self.cache,
        )

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """See `SingleSource`."""
        if self.random_sample_frame:
            raise TrainingError(
                "gaze labels belong to fixed clips: use dataset.random_sample_frame=False"
            )
        _refuse(self.augmentation)
        return super().to_label(split, pyramid, seed)


@dataclass(frozen=True)
class DecodedSource(FolderSource):
    """`decoded`: files of decoded clips (see `save_decoded`), `<root>/<split>*.safetensors`.

    Args:
        augmentation: of training clips.
    """

    augmentation: Augmentation | None = None

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
        paths = self._files(split)
        if not paths:
            places = ", ".join(str(root / f"{split}*.safetensors") for root in self.roots())
            raise TrainingError(f"no files of decoded clips: {places}")
        clips = DecodedClips(
            paths,
            augmentation=self.augmentation if split == "train" else None,
            labels=labels,
            seed=seed,
        )
        clips.check_shape(self.clip_len, pyramid.side)
        return clips

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """See `SingleSource`."""
        _refuse(self.augmentation)
        return super().to_label(split, pyramid, seed)

    def has_split(self, split: str) -> bool:
        """See `ClipSource`."""
        return bool(self._files(split))

    def _files(self, split: str) -> list[Path]:
        return sorted(path for root in self.roots() for path in root.glob(f"{split}*.safetensors"))


def _refuse(augmentation: Augmentation | None) -> None:
    if augmentation is not None:
        raise TrainingError("gaze labels belong to clips as they are: use no dataset.augmentation")
