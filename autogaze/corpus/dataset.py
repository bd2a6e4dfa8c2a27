"""A torch dataset of a corpus's frames and gazes, for training a model on what was chosen."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.corpus.reading import Corpus
from autogaze.corpus.rows import gaze_of
from autogaze.corpus.storage import local_file
from autogaze.errors import GeometryError
from autogaze.gaze import Gaze
from autogaze.pipeline import CHUNK, GazedVideo
from autogaze.video.decoders import DecoderName, check_decoder


class GazeDataset(Dataset[tuple[Tensor, Gaze]]):
    """Frames and gazes of a corpus's videos, for training a model on what was chosen.

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
        CorpusError: as of `Corpus`; when an item is read, a video that is gone or has changed.
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
