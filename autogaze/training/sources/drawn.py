"""Datasets that are drawn: from photographs, or from nothing."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.clip import NamedClips
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.pictures import ClipSettings, PictureClips
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.geometry import PatchPyramid
from autogaze.training.reading import read
from autogaze.training.sources.base import SingleSource, split_seed
from autogaze.training.sources.folders import FolderSource


@dataclass(frozen=True)
class PictureSource(FolderSource):
    """What datasets of photographs below `root/<split>` can be told.

    Args:
        clips_a_picture: an epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        cache: decode all photographs into memory before training.
    """

    clips_a_picture: int = 1
    fixed: bool = False
    cache: bool = False

    kind: ClassVar[type[PictureClips]]

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
        return self.kind(
            [root / split for root in self.roots()],
            self.look(pyramid.side),
            clips_a_picture=self.clips_a_picture,
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
            cache=self.cache,
        )

    @abstractmethod
    def look(self, side: int) -> ClipSettings:
        """How clips are made."""


@dataclass(frozen=True)
class CameraSource(PictureSource):
    """`camera`: a camera moving over photographs (see `CameraClips`).

    Args:
        camera: how it moves; `CameraSettings` without `clip_len` and `side`.
    """

    camera: Mapping[str, Any] = field(default_factory=dict)

    kind = CameraClips

    def look(self, side: int) -> CameraSettings:
        """See `PictureSource`."""
        group = "dataset.camera"
        return read(CameraSettings, self.shape(self.camera, side, group), group)


@dataclass(frozen=True)
class ComposedSource(PictureSource):
    """`composed`: cut-outs moving over moving photographs (see `ComposedClips`).

    Args:
        composition: what clips look like; `CompositionSettings`, whose `camera` goes without
            `clip_len` and `side`.
    """

    composition: Mapping[str, Any] = field(default_factory=dict)

    kind = ComposedClips

    def look(self, side: int) -> CompositionSettings:
        """See `PictureSource`."""
        group = "dataset.composition"
        camera = self.shape(self.composition.get("camera") or {}, side, f"{group}.camera")
        return read(CompositionSettings, {**self.composition, "camera": camera}, group)


@dataclass(frozen=True)
class ProceduralSource(SingleSource):
    """`procedural`: shapes and textures that move; needs no data (see `ProceduralClips`).

    Args:
        num_clips: an epoch.
        fixed: the same training clips in every epoch, as they are with label files.
        scene: what clips look like; `ProceduralSettings` without `clip_len` and `side`.
    """

    num_clips: int = 1024
    fixed: bool = False
    scene: Mapping[str, Any] = field(default_factory=dict)

    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """See `SingleSource`."""
        group = "dataset.scene"
        return ProceduralClips(
            self.num_clips,
            read(ProceduralSettings, self.shape(self.scene, pyramid.side, group), group),
            seed=split_seed(seed, split),
            fixed=self.fixed or split != "train",
            labels=labels,
        )
