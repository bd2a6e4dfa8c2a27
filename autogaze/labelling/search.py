"""Greedy label searches: per frame, patch after patch, always the one that leaves the least loss."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.datasets.clip import GazeLabels
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import SearchedFrame
from autogaze.reconstruction.search_kernel import new_canvas_search
from autogaze.reconstruction.video_mae.modeling import (
    CandidateReconstruction,
    cells_of_frames,
    frames_of_cells,
)
from autogaze.tasks.base import Task
from autogaze.tasks.losses import PixelLoss
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.utils.device import DeviceOptions, autocast, sent
from autogaze.utils.normalization import IMAGENET

GPU_CLIPS = 64
"""Clips that are searched together on a GPU. Each is one program; a GPU runs about a hundred at once."""


class Searcher(ABC):
    """A greedy search under one reconstruction metric.

    Attributes:
        pyramid: the patches to choose from.
        at_once: clips that it is best given together.
    """

    pyramid: PatchPyramid
    at_once = 1

    @property
    @abstractmethod
    def identity(self) -> str:
        """The metric and its weights: labels of one file must share it."""

    @abstractmethod
    def label(self, frames: UInt8[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
        """Labels of a clip.

        Each patch is the one, of all not yet chosen, with which the reconstruction of its
        frame has the least loss, given all patches before it; the lowest id of several.

        Args:
            frames: of the pyramid's side.
            counts: number of patches to choose in each frame.
        """

    def label_clips(
        self,
        clips: Sequence[UInt8[Tensor, "T 3 S S"]],
        counts: Sequence[Sequence[int]],
    ) -> list[GazeLabels]:
        """`label` for several clips, of which one does not change another's labels."""
        return [self.label(*each) for each in zip(clips, counts, strict=True)]


def searcher_of(
    task: Task,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Searcher:
    """The greedy search under a metric (`autogaze.tasks.load_metric`).

    Args:
        task: canvas or VideoMAE reconstruction.
        batch, dtype: of a VideoMAE; see `VideoMAESearcher`.
        device: of the canvas search; a VideoMAE is searched where it is.
    """
    if isinstance(task, VideoMAETask):
        return VideoMAESearcher(task, batch, dtype)
    return CanvasSearcher(task.pyramid, device=device)


class CanvasSearcher(Searcher):
    """The search under the canvas loss, mean |canvas - frame|; exact and fast.

    Args:
        pyramid: the patches to choose from.
        softness: above 0, labels come with targets (see `gain_shares`): where many patches are
            about as good, the best of them alone says little.
        device: a CUDA GPU, to search there; else clips are searched where they are. The labels are the
            same.
    """

    def __init__(
        self,
        pyramid: PatchPyramid | None = None,
        softness: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        self.pyramid = pyramid or PatchPyramid()
        self.softness = softness
        self._gpu = None
        if device is not None and device.type == "cuda":
            self._gpu, self.at_once = device, GPU_CLIPS

    @property
    def identity(self) -> str:
        return "canvas"

    def label(self, frames: UInt8[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
        return self.label_clips([frames], [counts])[0]

    def label_clips(
        self,
        clips: Sequence[UInt8[Tensor, "T 3 S S"]],
        counts: Sequence[Sequence[int]],
    ) -> list[GazeLabels]:
        """See `Searcher`; clips of equally many frames are searched together."""
        alike: dict[int, list[int]] = {}
        for number, clip in enumerate(clips):
            alike.setdefault(len(clip), []).append(number)
        found: dict[int, GazeLabels] = {}
        for numbers in alike.values():
            frames = torch.stack([clips[number] for number in numbers])
            if self._gpu is not None:
                frames = sent(frames, self._gpu)
            ids = [[[None] * count for count in counts[number]] for number in numbers]
            found |= dict(zip(numbers, self.follow_clips(frames, ids), strict=True))
        return [found[number] for number in range(len(clips))]

    def follow(
        self, frames: UInt8[Tensor, "T 3 S S"], ids: Sequence[Sequence[int | None]]
    ) -> GazeLabels:
        """The losses of another selector's gaze, and the search's targets along it (DAgger).

        Args:
            frames: of the pyramid's side.
            ids: frame-relative ids of every frame, in the order chosen, none twice; None for
                the best patch.

        Returns:
            The same gaze with its losses; the target of each of its patches is that of the search
            after the patches before it.
        """
        return self.follow_clips(frames[None], [ids])[0]

    def follow_clips(
        self,
        frames: UInt8[Tensor, "B T 3 S S"],
        ids: Sequence[Sequence[Sequence[int | None]]],
    ) -> list[GazeLabels]:
        """`follow` for several clips at once, which CPU threads share; ids of every clip and frame.

        Clips on a GPU are searched there.
        """
        canvases = new_canvas_search(self.pyramid, len(frames), frames.device)
        found = canvases.search_clips(frames, ids, with_gains=self.softness > 0)
        return [self._labels(clip) for clip in found]

    def _labels(self, frames: Sequence[SearchedFrame]) -> GazeLabels:
        soft = None
        gains = [frame.gains for frame in frames if frame.gains is not None and len(frame.gains)]
        if gains:
            soft = gain_shares(torch.cat(gains), self.softness).float()
        ids = tuple(frame.ids for frame in frames)
        return GazeLabels(ids, tuple(frame.losses for frame in frames), soft)


def gain_shares(gains: Float[Tensor, "*batch V"], softness: float) -> Float[Tensor, "*batch V"]:
    """A distribution over patches: exp(-(best gain - gain) / (softness * best gain)), normalised.

    Even among the best where none gains anything.
    """
    best = gains.amax(-1, keepdim=True)
    scale = torch.where(best > 0, softness * best, 1.0)
    weights = ((gains - best) / scale).clamp_min_(-60.0).exp_()
    weights.masked_fill_(gains.isneginf(), 0)  # taken already
    weights = torch.where(best > 0, weights, (gains == best).to(weights))
    return weights / weights.sum(-1, keepdim=True)


class VideoMAESearcher(Searcher):
    """The search under the losses of a VideoMAE task.

    Args:
        task: put into evaluation mode; the search runs on its device.
        batch: number of candidates that are reconstructed together; by default as many as keep
            a GPU busy, or fit in a CPU's cache.
        dtype: of matrix products, under autocast.

    Raises:
        TrainingError: a batch below 1.
    """

    def __init__(
        self,
        task: VideoMAETask,
        batch: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch is not None and batch < 1:
            raise TrainingError(f"the batch of candidates must be at least 1, got {batch}")
        self.task = task.eval()
        self.pyramid = task.pyramid
        self.device = task.mae.decoder.mask_token.device
        self.batch = batch or (8 if self.device.type == "cpu" else 128)
        self.dtype = dtype

    @property
    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(self.task.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        recipe = " ".join(self.task.losses.recipe.values())
        precision = str(self.dtype).removeprefix("torch.")
        pixels = self.task.statistics
        others = "" if pixels == IMAGENET else f", pixels of {pixels.mean} and {pixels.std}"
        return f"VideoMAE {digest.hexdigest()}, {recipe}, {precision}{others}"

    @torch.no_grad()
    def label(self, frames: UInt8[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
        """See `Searcher`.

        Raises:
            GeometryError: more frames than the VideoMAE has time embeddings for.
            TrainingError: losses that are not finite.
        """
        ids: list[tuple[int, ...]] = []
        losses: list[tuple[float, ...]] = []
        with autocast(DeviceOptions(self.device, self.dtype)):
            model = CandidateReconstruction(self.task.mae)
            for frame, count in zip(frames.to(self.device).float().div_(255), counts, strict=True):
                model.start(self.task.statistics.normalise(frame))
                chosen: list[int] = []
                after: list[float] = []
                for _ in range(count):
                    candidates, found = self._candidate_losses(model, frame, chosen)
                    best = int(found.argmin())  # the first of several: ids ascend
                    chosen.append(int(candidates[best]))
                    after.append(float(found[best]))
                model.finish(chosen)
                ids.append(tuple(chosen))
                losses.append(tuple(after))
        return GazeLabels(tuple(ids), tuple(losses))

    def _candidate_losses(
        self, model: CandidateReconstruction, frame: Float[Tensor, "3 S S"], chosen: Sequence[int]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """The patches not chosen yet, ascending, and the frame's loss with each of them added."""
        free = torch.ones(self.pyramid.num_patches, dtype=torch.bool)
        free[list(chosen)] = False
        candidates = free.nonzero()[:, 0].to(self.device)
        already = torch.tensor(chosen, dtype=torch.long, device=self.device)
        parts = []
        for batch in candidates.split(self.batch):
            gazes = torch.cat([already.expand(len(batch), -1), batch[:, None]], dim=1)
            parts.append(self._losses(model.reconstruct(gazes).float(), frame))
        losses = torch.cat(parts)
        if not bool(losses.isfinite().all()):
            raise TrainingError("the VideoMAE gives losses that are not finite; was it trained?")
        return candidates, losses

    def _losses(
        self, made: Float[Tensor, "M cells pixels"], frame: Float[Tensor, "3 S S"]
    ) -> Float[Tensor, " M"]:
        """Weighted losses of several reconstructions of one frame, given as finest cells."""
        real = cells_of_frames(self.task.statistics.normalise(frame), self.pyramid)
        losses = self.task.losses
        rgb: Tensor | None = None
        total = made.new_zeros(len(made))
        for weight, term in zip(losses.weights, losses.terms.values(), strict=True):
            if isinstance(term, PixelLoss):
                # The mean over pixels is that over cells, and both are normalised alike.
                total += weight * (made - real).abs_().mean((1, 2))
                continue
            if rgb is None:
                rgb = self.task.statistics.denormalise(frames_of_cells(made, self.pyramid))
            total += weight * term(rgb, frame[None])
        return total
