"""Canvas: the closed-form reconstruction of a video from its gazed patches, without weights.

Before frame t the canvas is that of frame t - 1, mid grey before the first. A gazed patch of
scale s paints its square with the frame resampled to scale s; where patches of several scales
overlap the finest wins; all other pixels stay. The loss of a frame is the mean |canvas - frame|
over pixels and channels, in [0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.checks import describe_value
from autogaze.clips import FramesLike, as_frames
from autogaze.errors import GeometryError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.native_canvas import canvas_kernel, new_canvases
from autogaze.reconstruction.resample import resampled_scales

GREY = 0.5
"""Initial value of all pixels."""


@dataclass(frozen=True)
class Reconstruction:
    """The canvas of every frame, and its loss.

    Args:
        frames: (B, T, 3, S, S) the canvas after every frame, in [0, 1].
        losses: (B, T) mean |canvas - frame| of every frame, in [0, 1].
    """

    frames: Float[Tensor, "B T 3 S S"]
    losses: Float[Tensor, "B T"]

    def __repr__(self) -> str:
        clips, frames, _, side, _ = self.frames.shape
        loss = f", loss={float(self.losses.mean()):.4f}" if self.losses.numel() else ""
        return f"Reconstruction(clips={clips}, frames={frames}, side={side}{loss})"


class Canvas:
    """The canvases of B clips, painted frame by frame.

    Args:
        pyramid: of the patches.
        num_clips: B.
        device: of the pictures.

    Attributes:
        frames: (B, 3, S, S) the current pictures, in [0, 1].
    """

    frames: Float[Tensor, "B 3 S S"]

    def __init__(
        self, pyramid: PatchPyramid, num_clips: int, device: torch.device | str = "cpu"
    ) -> None:
        self.pyramid = pyramid
        side = pyramid.side
        self.frames = torch.full((num_clips, 3, side, side), GREY, device=device)

    def paint(
        self, scales: Float[Tensor, "B levels 3 S S"], mask: Bool[Tensor, "B V"]
    ) -> Float[Tensor, "B 3 S S"]:
        """Paint the gazed patches of the next frame, finest on top.

        Args:
            scales: the frame resampled to every scale (`resampled_scales`).
            mask: True where a patch is gazed.

        Returns:
            The new pictures: `frames`, which the next call paints over.
        """
        clips = self.frames.shape[0]
        if scales.shape[0] != clips or mask.shape != (clips, self.pyramid.num_patches):
            raise GeometryError(
                f"the canvas has {clips} clips of {self.pyramid.num_patches} patches, "
                f"got resampled frames {tuple(scales.shape)} and a mask {tuple(mask.shape)}"
            )
        # A CPU is fastest copying the few gazed squares; a GPU must not wait for the mask.
        if self.frames.device.type == "cpu":
            self._paint_squares(scales, mask)
        else:
            self._paint_masked(scales, mask)
        return self.frames

    def _paint_squares(self, scales: Tensor, mask: Tensor) -> None:
        """Copy square by square."""
        # Through numpy, whose slices cost a tenth of a tensor's.
        pictures, source = self.frames.numpy(), scales.detach().numpy()
        squares = squares_of(self.pyramid)
        for clip, patch in mask.nonzero().tolist():  # ids ascend from coarse to fine
            level, rows, columns = squares[patch]
            pictures[clip, :, rows, columns] = source[clip, level, :, rows, columns]

    def _paint_masked(self, scales: Tensor, mask: Tensor) -> None:
        """Choose every pixel from the canvas or a scale."""
        for level, cells in enumerate(mask.split(self.pyramid.cells, dim=-1)):
            grid = self.pyramid.grids[level]
            cell = cell_of_pixel(self.pyramid, level, cells.device)
            # One row and column of False for pixels that no cell covers.
            gazed = F.pad(cells.view(-1, grid, grid), (0, 1, 0, 1))
            pixels = gazed.index_select(1, cell).index_select(2, cell)  # (B, S, S)
            self.frames = torch.where(pixels[:, None], scales[:, level], self.frames)

    def losses(self, frames: Float[Tensor, "B 3 S S"]) -> Float[Tensor, " B"]:
        """Mean |canvas - frame| of every clip, in [0, 1]."""
        return (self.frames - frames).abs().mean(dim=(1, 2, 3))


def reconstruct(frames: FramesLike, gaze: Gaze) -> Reconstruction:
    """The canvas after every frame, and its losses.

    With a source the canvas restarts at grey with every chunk, as gazing does;
    without one all T frames share a canvas.

    Args:
        frames: (B, T, 3, S, S) RGB floats in [0, 1] (or uint8), with S = `gaze.pyramid.side`,
            in any form that `autogaze.clips.as_frames` takes.
        gaze: a gaze at these B clips of T frames.

    Raises:
        GeometryError: frames and gaze do not fit together, or frames are not in [0, 1].
    """
    frames = as_frames(frames, GeometryError)
    # Filled in place: stacking a list of pictures would take twice the memory.
    pictures = torch.empty(frames.shape, dtype=torch.float32, device=frames.device)
    losses = torch.empty(frames.shape[:2], dtype=torch.float32, device=frames.device)
    for index, (canvas, loss) in enumerate(replay(frames, gaze)):
        pictures[:, index] = canvas.frames
        losses[:, index] = loss
    return Reconstruction(pictures, losses)


def canvas_losses(
    frames: FramesLike, gaze: Gaze, pictures: UInt8[Tensor, "B T 3 S S"] | None = None
) -> Float[Tensor, "B T"]:
    """The losses of `reconstruct`, without its floats.

    On a CPU, losses of 8-bit frames are measured by a kernel of our own, where there is a C compiler
    (`native_canvas`). They differ from those of `reconstruct` by less than 1e-6.

    Args:
        pictures: where to put the canvas after every frame, in 8 bits: contiguous, on the frames' device.

    Raises:
        GeometryError: frames, gaze and pictures do not fit together, or frames are not in [0, 1].
    """
    frames = _frames_of(frames, gaze)
    if pictures is not None and not (
        pictures.shape == frames.shape
        and pictures.dtype == torch.uint8
        and pictures.device == frames.device
        and pictures.is_contiguous()
    ):
        raise GeometryError(
            f"pictures must be contiguous uint8 of {tuple(frames.shape)} on {frames.device}, got "
            f"{describe_value(pictures)}"
        )
    if not frames.shape[0] * frames.shape[1]:
        return frames.new_zeros(frames.shape[:2]).float()
    if (library := canvas_kernel(frames).library) is not None:
        restarts = np.zeros(gaze.num_frames, np.uint8)
        restarts[sorted(_restarts(gaze))] = 1
        canvases = new_canvases(gaze.pyramid, gaze.num_clips)
        return library.measure(gaze.pyramid, frames, gaze.mask.cpu(), restarts, canvases, pictures)
    losses = []
    for index, (canvas, loss) in enumerate(replay(frames, gaze)):
        losses.append(loss)
        if pictures is not None:
            pictures[:, index] = _bytes(canvas.frames)
    return torch.stack(losses, dim=1)


def replay(frames: FramesLike, gaze: Gaze) -> Iterator[tuple[Canvas, Float[Tensor, " B"]]]:
    """Paint frame by frame; yields the canvas after each frame, and its losses.

    Only one frame's resampled scales are in memory at a time. The next frame is painted over
    the canvas that was yielded. There are no gradients.
    """
    frames = _frames_of(frames, gaze)
    mask = gaze.mask.to(frames.device)
    restarts = _restarts(gaze)
    canvas = Canvas(gaze.pyramid, gaze.num_clips, frames.device)
    for index in range(gaze.num_frames):
        if index and index in restarts:
            canvas = Canvas(gaze.pyramid, gaze.num_clips, frames.device)
        frame = _unit(frames[:, index])
        canvas.paint(resampled_scales(frame, gaze.pyramid), mask[:, index])
        yield canvas, canvas.losses(frame)


def repaint(
    frames: UInt8[Tensor, "B 3 S S"], pyramid: PatchPyramid, mask: Bool[Tensor, "B V"]
) -> UInt8[Tensor, "B 3 S S"]:
    """Frames of which the gazed patches are as their scales show them, and the rest as it is."""
    frames = frames.contiguous()
    if (library := canvas_kernel(frames).library) is not None:
        pictures = torch.empty(frames.shape, dtype=torch.uint8)
        canvases, restarts = frames.float().numpy(), np.zeros(1, np.uint8)
        single = frames[:, None], mask[:, None].cpu()
        library.measure(pyramid, *single, restarts, canvases, pictures[:, None])
        return pictures
    canvas = Canvas(pyramid, frames.shape[0], frames.device)
    canvas.frames = _unit(frames)
    scales = resampled_scales(canvas.frames, pyramid)
    return _bytes(canvas.paint(scales, mask.to(frames.device)))


def _bytes(pictures: Float[Tensor, "B 3 S S"]) -> UInt8[Tensor, "B 3 S S"]:
    return (pictures * 255).round_().to(torch.uint8)


def _frames_of(frames: FramesLike, gaze: Gaze) -> Shaped[Tensor, "B T 3 S S"]:
    """The frames of a gaze; GeometryError for others."""
    frames = as_frames(frames, GeometryError).detach()
    if not isinstance(gaze, Gaze):
        raise GeometryError(f"expected a Gaze, got {describe_value(gaze)}")
    side = gaze.pyramid.side
    expected = (gaze.num_clips, gaze.num_frames, 3, side, side)
    if tuple(frames.shape) != expected:
        raise GeometryError(f"the gaze is at frames {expected}, got {tuple(frames.shape)}")
    return frames


def _restarts(gaze: Gaze) -> set[int]:
    """Frames before which the canvas is grey."""
    return {0} | set(gaze.source.chunk_starts if gaze.source else ())


def _unit(frame: Shaped[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    if frame.dtype == torch.uint8:
        return frame.float().div_(255)
    if not frame.is_floating_point():
        raise GeometryError(f"expected uint8 or float frames, got {frame.dtype}")
    frame = frame.float()
    if frame.device.type == "cpu" and frame.numel():
        low, high = (float(value) for value in frame.aminmax())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise GeometryError(f"frames must be finite and lie in [0, 1], got {low:g} to {high:g}")
    return frame


@lru_cache(maxsize=16)
def squares_of(pyramid: PatchPyramid) -> tuple[tuple[int, slice, slice], ...]:
    """Level, pixel rows and pixel columns of every patch."""
    squares: list[tuple[int, slice, slice]] = []
    for level, scale in enumerate(pyramid.scales):
        spans = [slice(start, stop) for start, stop in pairwise(pyramid.pixel_edges(scale))]
        squares.extend((level, rows, columns) for rows in spans for columns in spans)
    return tuple(squares)


@lru_cache(maxsize=64)
def cell_of_pixel(pyramid: PatchPyramid, level: int, device: torch.device) -> Int[Tensor, " S"]:
    """The cell that owns each pixel of one axis, or the grid's size where none does."""
    with torch.inference_mode(False):
        ends = torch.tensor(pyramid.pixel_edges(pyramid.scales[level])[1:])
        return torch.searchsorted(ends, torch.arange(pyramid.side), right=True).to(device)
