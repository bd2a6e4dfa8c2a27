"""The greedy search with a VideoMAE as its judge, candidates in batches.

It may judge only the patches that promise most (`promises`), down to one: then a patch
costs one reconstruction instead of one for every candidate.
"""

import hashlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import ClipSearch, FrameLabels, Searcher, State
from autogaze.reconstruction.canvas import Canvas
from autogaze.reconstruction.holes import fill_holes
from autogaze.reconstruction.resample import scale_views
from autogaze.reconstruction.video_mae.incremental import FrameByFrame
from autogaze.reconstruction.video_mae.modeling import cells_of, pictures
from autogaze.tasks.losses import PixelLoss
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction

# Which patches promise most, from one look at what is wrong with a reconstruction.

Array = NDArray[np.float64]


def promises(
    wrong_now: Float[Array, "S S"],
    wrong_views: Float[Array, "levels S S"],
    chosen: Bool[Array, " V"],
    pyramid: PatchPyramid,
) -> Float[Array, " V"]:
    """What painting every patch over the reconstruction would take off its error.

        promise(patch) = sum over its pixels that no finer chosen patch covers of
            error of the reconstruction - error of the frame as the patch's scale shows it

    With a canvas as the judge that is the gain itself. A judge that starts from the canvas
    also changes what is around a patch, so there it is a guess, at the price of one
    reconstruction for all patches instead of one for each.

    Args:
        wrong_now: error of the reconstruction, a pixel.
        wrong_views: error of the frame as every scale shows it.
        chosen: patches gazed at already.

    Returns:
        A number a patch, of any sign; -inf where it is chosen.
    """
    gains: list[Array] = []
    free = np.ones(wrong_now.shape, dtype=bool)  # of all finer patches that are chosen
    starts = np.cumsum([0, *pyramid.cells])
    for level in reversed(range(len(pyramid.scales))):
        edges = pyramid.pixel_edges(pyramid.scales[level])
        gain = np.where(free, wrong_now - wrong_views[level], 0.0)
        gain = gain[: edges[-1], : edges[-1]]  # what no cell covers is nobody's
        rows = np.add.reduceat(gain, edges[:-1], axis=0)
        gains.append(np.add.reduceat(rows, edges[:-1], axis=1).ravel())
        grid = pyramid.grids[level]
        taken = chosen[starts[level] : starts[level + 1]].reshape(grid, grid)
        for row, column in zip(*taken.nonzero(), strict=True):
            spans = list(pairwise(edges))
            free[slice(*spans[row]), slice(*spans[column])] = False
    found = np.concatenate(gains[::-1])
    found[chosen] = -np.inf
    return found


class VideoMAESearcher(Searcher):
    """Judges by the losses of a VideoMAE task.

    Args:
        task: put into evaluation mode.
        batch: candidates that are reconstructed together; by default as many as keep a
            GPU busy, or fit in a CPU's cache.
        dtype: that matrices are multiplied in.
        shortlist: candidates that are reconstructed each time, those that promise most;
            all by default, which alone is exact.
    """

    def __init__(
        self,
        task: VideoMAEReconstruction,
        batch: int | None = None,
        dtype: torch.dtype = torch.float32,
        shortlist: int | None = None,
    ) -> None:
        if shortlist is not None and shortlist < 1:
            raise TrainingError(f"the shortlist must hold at least 1 patch, got {shortlist}")
        if batch is not None and batch < 1:
            raise TrainingError(f"the batch of candidates must be at least 1, got {batch}")
        self.task = task.eval()
        self._batch = batch
        self.dtype = dtype
        self.shortlist = shortlist
        self.pyramid = task.pyramid

    @property
    def batch(self) -> int:
        return self._batch or (8 if self.device.type == "cpu" else 128)

    def num_candidates(self, picked: int) -> int:
        """See `Searcher`."""
        left = super().num_candidates(picked)
        return left if self.shortlist is None else min(left, self.shortlist)

    @property
    def device(self) -> torch.device:
        return self.task.mae.decoder.mask_token.device

    @property
    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(self.task.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        recipe = " ".join(self.task.losses.recipe.values())
        precision = str(self.dtype).removeprefix("torch.")
        short = "" if self.shortlist is None else f", the {self.shortlist} that promise most"
        return f"VideoMAE {digest.hexdigest()}, {recipe}, {precision}{short}"

    def start(self, frames: UInt8[Tensor, "T 3 S S"]) -> ClipSearch:
        return _VideoMAEClip(self, self._unit(frames))

    def seconds(
        self,
        frames: UInt8[Tensor, "T 3 S S"],
        ids: Sequence[Sequence[int]],
        states: Sequence[State],
    ) -> float:
        search, spent, made = _VideoMAEClip(self, self._unit(frames)), 0.0, 0
        for number, chosen in enumerate(ids):
            search.show()
            for state in states:
                if state.frame == number:
                    began = time.perf_counter()
                    left, _ = search.judge(chosen[: state.picked])  # waits for a GPU to finish
                    spent, made = spent + time.perf_counter() - began, made + len(left)
            search.keep(chosen)
        return spent / made

    def _unit(self, frames: UInt8[Tensor, "T 3 S S"]) -> Float[Tensor, "T 3 S S"]:
        return frames.to(self.device).float().div_(255)

    def precision(self) -> AbstractContextManager[object]:
        enabled = self.dtype != torch.float32
        dtype = self.dtype if enabled else None
        return torch.autocast(self.device.type, dtype, enabled)


class _VideoMAEClip(ClipSearch):
    @torch.no_grad()
    def __init__(self, searcher: VideoMAESearcher, frames: Float[Tensor, "T 3 S S"]) -> None:
        self.searcher, self.task = searcher, searcher.task
        self.frames = iter(frames)
        self.paints = self.task.mae.config.from_canvas
        self.canvas = Canvas(searcher.pyramid, 1, frames.device)
        with searcher.precision():
            self.mae = FrameByFrame(self.task.mae)

    @torch.no_grad()
    def frame(self, count: int) -> FrameLabels:
        chosen: list[int] = []
        losses: list[float] = []
        self.show()
        for _ in range(count):
            left, found = self.judge(chosen)
            best = int(found.argmin())  # the first of several: ids ascend
            chosen.append(int(left[best]))
            losses.append(float(found[best]))
        self.keep(chosen)
        return FrameLabels(tuple(chosen), tuple(losses))

    @torch.no_grad()
    def show(self) -> None:
        """Go on to the next frame."""
        pyramid = self.searcher.pyramid
        self.now = next(self.frames)
        normalised = self.task.statistics.normalise(self.now)
        self.cells = cells_of(normalised, pyramid)
        self.made: Tensor | None = None
        if self.paints or self.searcher.shortlist is not None:
            self.views = scale_views(self.now[None], pyramid)
            wrong = (self.task.statistics.normalise(self.views[0]) - normalised).abs().mean(1)
            self.wrong_views = wrong.double().cpu().numpy()  # (levels, S, S)
        with self.searcher.precision():
            self.mae.show(normalised)

    @torch.no_grad()
    def keep(self, chosen: Sequence[int]) -> None:
        """Finish the frame with these patches."""
        if self.paints:
            self.canvas = self._paint(torch.tensor([chosen], dtype=torch.long))
        with self.searcher.precision():
            self.mae.keep(chosen)

    @torch.no_grad()
    def judge(self, chosen: Sequence[int]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Candidates not chosen yet, ascending, and the frame's loss with each of them added."""
        left = self._candidates(chosen)
        already = torch.tensor(chosen, dtype=torch.long, device=left.device)
        parts, best = [], float("inf")
        for candidates in left.split(self.searcher.batch):
            row = already.expand(len(candidates), -1)
            made = self._predict(torch.cat([row, candidates[:, None]], dim=1))
            with self.searcher.precision():
                losses = self._losses(made)
            parts.append(losses)
            if self.searcher.shortlist is not None and float(losses.min()) < best:
                best = float(losses.min())
                self.made = made[int(losses.argmin())]  # what the next shortlist looks at
        self.searcher.num_reconstructions += len(left)
        losses = torch.cat(parts)
        if not bool(losses.isfinite().all()):
            raise TrainingError("the judge gives losses that are not finite; was it trained?")
        return left, losses

    def _candidates(self, chosen: Sequence[int]) -> Int[Tensor, " n"]:
        """Patches worth a reconstruction: all that are left, or those that promise most."""
        pyramid = self.searcher.pyramid
        is_chosen = torch.zeros(pyramid.num_patches, dtype=torch.bool)
        is_chosen[list(chosen)] = True
        left = (~is_chosen).nonzero()[:, 0]
        if self.searcher.shortlist is not None and len(left) > self.searcher.shortlist:
            if self.made is None:
                empty = torch.tensor([chosen], dtype=torch.long, device=self.now.device)
                self.made = self._predict(empty)[0]
                self.searcher.num_reconstructions += 1
            wrong = pictures((self.made - self.cells).abs(), pyramid).mean(0)
            promise = promises(
                wrong.double().cpu().numpy(), self.wrong_views, is_chosen.numpy(), pyramid
            )
            best = (-promise).argsort(kind="stable")[: self.searcher.shortlist]
            left = torch.from_numpy(best).sort().values
        return left.to(self.now.device)

    def _predict(self, gazes: Int[Tensor, "M n"]) -> Float[Tensor, "M cells pixels"]:
        canvas = None
        if self.paints:
            pyramid = self.searcher.pyramid
            painted = self._paint(gazes)
            shown = fill_holes(painted.frames, painted.painted)
            canvas = cells_of(self.task.statistics.normalise(shown), pyramid)
        with self.searcher.precision():
            return self.mae.predict(gazes, canvas).float()

    def _paint(self, gazes: Int[Tensor, "M n"]) -> Canvas:
        """The canvas after this frame, as each of M gazes would leave it."""
        M, V = len(gazes), self.searcher.pyramid.num_patches
        canvas = Canvas(self.searcher.pyramid, M, self.now.device)
        canvas.frames[:] = self.canvas.frames
        canvas.painted[:] = self.canvas.painted
        gazes = gazes.to(self.now.device)
        mask = torch.zeros(M, V, dtype=torch.bool, device=self.now.device)
        canvas.paint(self.views.expand(M, -1, -1, -1, -1), mask.scatter(1, gazes, True))
        return canvas

    def _losses(self, made: Float[Tensor, "M cells pixels"]) -> Float[Tensor, " M"]:
        """Weighted losses of several reconstructions of the frame, as cells."""
        losses = self.task.losses
        rgb: Tensor | None = None
        total = made.new_zeros(len(made))
        for weight, term in zip(losses.weights, losses.terms.values(), strict=True):
            if isinstance(term, PixelLoss):
                # The mean over pixels is that over cells, and both are normalised alike.
                total += weight * (made - self.cells).abs_().mean((1, 2))
                continue
            if rgb is None:
                rgb = self.task.statistics.denormalise(pictures(made, self.searcher.pyramid))
            total += weight * term(rgb, self.now[None])
        return total
