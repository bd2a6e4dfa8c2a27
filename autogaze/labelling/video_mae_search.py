"""The greedy label search under a VideoMAE's loss: exact, candidates in batches."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.datasets.clip import GazeLabels
from autogaze.errors import TrainingError
from autogaze.labelling.search import Searcher
from autogaze.reconstruction.video_mae.candidates import CandidateReconstruction
from autogaze.reconstruction.video_mae.modeling import cells_of_frames, frames_of_cells
from autogaze.tasks.losses import PixelLoss
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction


class VideoMAESearcher(Searcher):
    """The search under the losses of a VideoMAE task.

    Args:
        task: put into evaluation mode; the search runs on its device.
        batch: candidates that are reconstructed together; by default as many as keep a
            GPU busy, or fit in a CPU's cache.
        dtype: that matrices are multiplied in.

    Raises:
        TrainingError: a batch of none.
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
        return f"VideoMAE {digest.hexdigest()}, {recipe}, {precision}"

    @torch.no_grad()
    def label(self, frames: UInt8[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
        """See `Searcher`.

        Raises:
            GeometryError: more frames than the VideoMAE knows.
            TrainingError: losses that are not finite.
        """
        ids: list[tuple[int, ...]] = []
        losses: list[tuple[float, ...]] = []
        enabled = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if enabled else None, enabled):
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
