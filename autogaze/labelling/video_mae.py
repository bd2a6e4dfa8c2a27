"""The greedy search with a VideoMAE as its judge, candidates in batches."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.errors import TrainingError
from autogaze.labelling.search import ClipSearch, FrameLabels, Searcher, State
from autogaze.reconstruction.video_mae.incremental import FrameByFrame, cells_of, picture
from autogaze.tasks.frame_losses import PixelLoss
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction


class VideoMAESearcher(Searcher):
    """Judges by the losses of a VideoMAE task.

    Args:
        task: put into evaluation mode.
        batch: candidates that are reconstructed together; by default as many as keep a
            GPU busy, or fit in a CPU's cache.
        dtype: that matrices are multiplied in.
    """

    def __init__(
        self,
        task: VideoMAEReconstruction,
        batch: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch is not None and batch < 1:
            raise TrainingError(f"the batch of candidates must be at least 1, got {batch}")
        self.task = task.eval()
        self._batch = batch
        self.dtype = dtype
        self.pyramid = task.pyramid

    @property
    def batch(self) -> int:
        return self._batch or (8 if self.device.type == "cpu" else 128)

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
        return f"VideoMAE {digest.hexdigest()}, {recipe}, {str(self.dtype).removeprefix('torch.')}"

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
        self.now = next(self.frames)
        normalised = self.task.normalise(self.now)
        self.cells = cells_of(normalised, self.searcher.pyramid)
        with self.searcher.precision():
            self.mae.show(normalised)

    @torch.no_grad()
    def keep(self, chosen: Sequence[int]) -> None:
        """Finish the frame with these patches."""
        with self.searcher.precision():
            self.mae.keep(chosen)

    @torch.no_grad()
    def judge(self, chosen: Sequence[int]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """All patches not chosen yet, and the frame's loss with each of them added."""
        device = self.now.device
        already = torch.tensor(chosen, dtype=torch.long, device=device)
        is_left = torch.ones(self.searcher.pyramid.num_patches, dtype=torch.bool, device=device)
        is_left[already] = False
        left = is_left.nonzero()[:, 0]
        parts = []
        for candidates in left.split(self.searcher.batch):
            row = already.expand(len(candidates), -1)
            with self.searcher.precision():
                made = self.mae.predict(torch.cat([row, candidates[:, None]], dim=1)).float()
                parts.append(self._losses(made))
        self.searcher.num_reconstructions += len(left)
        losses = torch.cat(parts)
        if not bool(losses.isfinite().all()):
            raise TrainingError("the judge gives losses that are not finite; was it trained?")
        return left, losses

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
                rgb = self.task.normalise.undo(picture(made, self.searcher.pyramid))
            total += weight * term(rgb, self.now[None])
        return total
