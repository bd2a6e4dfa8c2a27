"""A corpus, read back: `Gaze` objects of its videos, and frames with them as a torch dataset."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, overload

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.checks import as_path, describe_value, whole, without_file_scheme
from autogaze.corpus.addresses import absolute, is_uri
from autogaze.corpus.manifest import Entry, entries_of, read_manifest, shard_path
from autogaze.corpus.rows import gaze_of, schema
from autogaze.corpus.settings import CorpusSettings
from autogaze.corpus.shards import row_batches
from autogaze.corpus.storage import arrow, local_file, parquet
from autogaze.errors import CorpusError, GeometryError, first_line
from autogaze.gaze import Gaze
from autogaze.pipeline import CHUNK, GazedVideo
from autogaze.video.decoders import DecoderName, check_decoder

if TYPE_CHECKING:
    import pyarrow as pa


class Corpus(Sequence[Gaze]):
    """The gazes of a corpus, read lazily, one video at a time.

        corpus = autogaze.corpus.read("corpus/")
        for video, gaze in zip(corpus.videos, corpus):
            ...

    Args:
        folder: that `autogaze corpus` wrote.

    Attributes:
        settings: of all gazes.
        videos: paths and URIs, sorted; `corpus[3]` is the gaze at the fourth, `corpus[video]` that
            at one by its path.
        errors: of the videos that could not be gazed at: path -> cause.

    Raises:
        CorpusError: no corpus, or a shard that cannot be read.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = as_path(folder, CorpusError)
        if isinstance(folder, str) and is_uri(without_file_scheme(folder)):
            raise CorpusError(
                f"{folder}: is an address; a corpus is read from a folder of this machine, so copy it first"
            )
        self.settings = CorpusSettings.load(self.folder)
        found = sorted(entries_of(read_manifest(self.folder)), key=lambda pair: pair[1].path)
        self.errors = {entry.path: entry.cause for _, entry in found if entry.failed}
        self._places = {entry.path: (shard, entry) for shard, entry in found if not entry.failed}
        self.videos: tuple[str, ...] = tuple(self._places)

    def __len__(self) -> int:
        return len(self.videos)

    @overload
    def __getitem__(self, video: int | str | os.PathLike[str]) -> Gaze: ...
    @overload
    def __getitem__(self, video: slice) -> list[Gaze]: ...
    def __getitem__(self, video: int | str | os.PathLike[str] | slice) -> Gaze | list[Gaze]:
        if isinstance(video, slice):
            return [self[path] for path in self.videos[video]]
        return gaze_of(self.rows(video))

    def __contains__(self, video: object) -> bool:
        """Whether there is a gaze at a video, given by its path."""
        return isinstance(video, str | os.PathLike) and self._named(video) in self._places

    def __iter__(self) -> Iterator[Gaze]:
        return (self[video] for video in self.videos)

    def __repr__(self) -> str:
        return f"Corpus({str(self.folder)!r}, videos={len(self)}, errors={len(self.errors)})"

    def entry(self, video: int | str | os.PathLike[str]) -> Entry:
        """Facts about a video: its size, tiles, frames and more.

        Raises:
            CorpusError: a path that is not in the corpus, with the cause if it failed.
            IndexError: a number beyond the last one.
        """
        return self._place(video)[1]

    def rows(
        self, video: int | str | os.PathLike[str], first: int = 0, count: int | None = None
    ) -> "pa.Table":
        """The rows of a video, chunk by chunk and in each tile by tile.

        Args:
            first, count: of rows; all by default.

        Raises:
            CorpusError: they cannot be read.
        """
        shard, entry = self._place(video)
        start = entry.first_row + first
        count = entry.rows - first if count is None else count
        path = shard_path(self.folder, shard)
        try:
            with parquet().ParquetFile(path) as file:
                batches = list(row_batches(file, start, count))
        except (arrow().ArrowException, OSError) as error:
            raise CorpusError(f"{path}: cannot be read: {first_line(error)}") from error
        rows = arrow().Table.from_batches(batches, schema())
        if rows.num_rows != count or set(rows["video"].to_pylist()) != {entry.path}:
            raise CorpusError(f"{path}: has other rows than its footer says")
        return rows

    def _named(self, video: str | os.PathLike[str]) -> str:
        """A path or URI as the corpus names it."""
        video = os.fspath(video)
        return video if video in self._places or video in self.errors else absolute(video)

    def _place(self, video: int | str | os.PathLike[str]) -> tuple[str, Entry]:
        if isinstance(video, str | os.PathLike):
            video = self._named(video)
            if video in self._places:
                return self._places[video]
            cause = self.errors.get(video)
            raise CorpusError(
                f"{self.folder}: {video} is not in this corpus"
                if cause is None
                else f"{self.folder}: {video} failed: {cause}"
            )
        number = whole(video)
        if number is None:
            raise CorpusError(f"a video is a number or a path, got {describe_value(video)}")
        if not -len(self) <= number < len(self):
            raise IndexError(
                f"{self.folder}: has {len(self)} videos, and none with number {number}"
            )
        return self._places[self.videos[number]]


def read(folder: str | Path) -> Corpus:
    """The gazes of a corpus; see `Corpus`."""
    return Corpus(folder)


class GazeDataset(Dataset[tuple[Tensor, Gaze]]):
    """Dataset of the frames and gazes of a corpus, for training on the chosen patches.

    An item is one chunk of a video: its frames, decoded and cut into tiles as they were gazed at, and
    the gaze at them.

        dataset = autogaze.corpus.GazeDataset("corpus/")
        frames, gaze = dataset[0]  # (tiles, T, 3, S, S) uint8, a Gaze of (tiles, T)
        loader = DataLoader(dataset, 8, shuffle=True, collate_fn=GazeDataset.collate)

    Args:
        corpus: a `Corpus`, or its folder.
        num_frames: only chunks of so many frames, which can be batched; None: all of them. The last
            chunk of a video may have fewer than the others.
        decoder: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`; frames are given on the
            CPU, so that `auto` is PyAV.

    Raises:
        CorpusError: as of `Corpus`; `num_frames` that no chunk has; when an item is read, a video
            that is gone or has changed.
    """

    def __init__(
        self,
        corpus: Corpus | str | Path,
        *,
        num_frames: int | None = None,
        decoder: DecoderName = "auto",
    ) -> None:
        check_decoder(decoder)
        self.decoder = decoder
        if num_frames is not None and not 1 <= (whole(num_frames) or 0) <= CHUNK:
            raise CorpusError(
                f"num_frames must be a whole number from 1 to {CHUNK}, got {describe_value(num_frames)}"
            )
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
        self.num_frames = num_frames
        self._chunks: list[tuple[int, int]] = []
        for video in range(len(self.corpus)):
            entry = self.corpus.entry(video)
            for number in range(entry.rows // entry.tiles):
                length = min(CHUNK, entry.frames - number * CHUNK)
                if num_frames in (None, length):
                    self._chunks.append((video, number))

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, item: int) -> "tuple[UInt8[Tensor, 'B T 3 S S'], Gaze]":
        video, number = self._chunks[item]
        entry = self.corpus.entry(video)
        gaze = gaze_of(self.corpus.rows(video, number * entry.tiles, entry.tiles))
        with (
            TemporaryDirectory(prefix="autogaze-") as scratch,
            local_file(entry.input, Path(scratch)) as path,
        ):
            chunk = next(iter(GazedVideo(path, gaze, decoder=self.decoder)))
        return chunk.frames, gaze

    @staticmethod
    def collate(
        items: "Sequence[tuple[UInt8[Tensor, 'B T 3 S S'], Gaze]]",
    ) -> "tuple[UInt8[Tensor, 'clips T 3 S S'], Gaze]":
        """Items of equally many frames as one: all tiles of all of them, as the clips of one gaze.

        Raises:
            GeometryError: items of other numbers of frames; ask for one (`num_frames`).
        """
        lengths = sorted({frames.shape[1] for frames, _ in items})
        if len(lengths) > 1:
            raise GeometryError(
                f"chunks of {', '.join(map(str, lengths))} frames cannot be one batch; give "
                f"GazeDataset num_frames={lengths[-1]}"
            )
        frames, gazes = zip(*items, strict=True)
        return torch.cat(frames), Gaze.cat_clips(gazes)
