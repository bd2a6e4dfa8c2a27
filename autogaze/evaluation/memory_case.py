"""A long clip of many tiles, gazed: memory must follow the patches that were kept."""

from dataclasses import dataclass

import torch

from autogaze.evaluation.encoders import MeasuredEncoder, blamed_on_adapter
from autogaze.evaluation.passes import encode_gazed
from autogaze.evaluation.scaling import random_gaze
from autogaze.evaluation.timing import PeakMeter, Stage, Stopwatch, gauge_of

FRAMES, TILES, SHARE = 64, 16, 0.1


@dataclass(frozen=True)
class MemoryCase:
    """Encoding `tiles` clips of `frames` frames at a share of their patches.

    Attributes:
        tokens: in all clips.
        longest: tokens of the longest clip.
        seconds: wall-clock, of embedding and encoding.
        frames_bytes: the frames themselves, which are there before and do not count.
        peak: bytes held at the most above frames, program and weights; None if unknown.
        mask_together: bytes of a dense float32 mask a head over all clips packed in one
            sequence, as a block-diagonal mask is usually made.
        mask_by_clip: bytes of one mask a head and clip, padded to the longest clip.
    """

    encoder: str
    frames: int
    tiles: int
    tokens: int
    longest: int
    seconds: float
    frames_bytes: int
    peak: int | None
    mask_together: int
    mask_by_clip: int

    def __str__(self) -> str:
        measured = "could not be measured" if self.peak is None else f"peaked at {_gib(self.peak)}"
        return (
            f"{self.encoder}, {self.frames} frames x {self.tiles} tiles, {self.tokens} tokens in "
            f"clips of up to {self.longest}: memory {measured} above the weights and the frames "
            f"({_gib(self.frames_bytes)}), {self.seconds:.0f} s. A dense float32 mask for every head "
            f"would take {_gib(self.mask_together)} over all tokens at once, "
            f"{_gib(self.mask_by_clip)} clip by clip."
        )


@torch.inference_mode()
def measure_memory_case(
    encoder: MeasuredEncoder, frames: int = FRAMES, tiles: int = TILES, share: float = SHARE
) -> MemoryCase:
    """Encode random gazes of `share` of all patches of all scales."""
    with blamed_on_adapter(encoder.dense.config):
        heads = encoder.adapter.num_heads
    generator = torch.Generator().manual_seed(0)
    place, pyramid = encoder.place, encoder.pyramid
    of_finest = share * pyramid.num_patches / pyramid.cells[-1]
    gaze = random_gaze(pyramid, frames, of_finest, generator, ragged=True, num_clips=tiles)
    pixels = torch.rand(tiles, frames, 3, pyramid.side, pyramid.side, generator=generator)
    pixels = pixels.to(place.device, place.dtype)
    encode_gazed(encoder, pixels[:1, :1], gaze[0].frames(0, 1), Stopwatch(place.device))  # warm-up
    meter, watch = PeakMeter(gauge_of(place.device)), Stopwatch(place.device)
    watch.enter(Stage.ENCODE)
    encode_gazed(encoder, pixels, gaze, meter)
    meter.stop()
    watch.stop()
    peaks = [meter.peaks[stage] for stage in (Stage.EMBED, Stage.ENCODE)]
    known = [peak for peak in peaks if peak is not None]
    longest = int(gaze.lengths.sum(1).max())
    return MemoryCase(
        encoder=encoder.name,
        frames=frames,
        tiles=tiles,
        tokens=gaze.num_patches,
        longest=longest,
        seconds=watch.of(Stage.ENCODE),
        frames_bytes=pixels.nbytes,
        peak=max(known) if len(known) == len(peaks) else None,
        mask_together=4 * heads * gaze.num_patches**2,
        mask_by_clip=4 * heads * tiles * longest**2,
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count < 2**33 else f"{count / 2**30:.0f} GiB"
