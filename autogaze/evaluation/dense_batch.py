"""How many frames a dense encoder is given at once: what suits it best on this machine."""

import time

import torch

from autogaze.evaluation.encoders import MeasuredEncoder
from autogaze.evaluation.timing import synchronize

ON_CPU, ON_GPU = (1, 4, 16), (16, 64, 128)
_ENOUGH_SECONDS = 20.0


@torch.inference_mode()
def fastest_batch(encoder: MeasuredEncoder) -> int:
    """Of a few batch sizes the one with the most frames a second.

    Each is timed on one batch of its own size, after a warm-up, and once more where that
    does not take long.
    """
    on_gpu = encoder.place.device.type == "cuda"
    side, candidates = encoder.pyramid.side, ON_GPU if on_gpu else ON_CPU
    frames = torch.zeros(
        max(candidates), 3, side, side, device=encoder.place.device, dtype=encoder.place.dtype
    )
    frames += torch.arange(len(frames), device=frames.device).to(frames)[:, None, None, None] / 100
    encoder.adapter.dense(frames[: candidates[0]])
    best = dict.fromkeys(candidates, float("inf"))
    began = time.perf_counter()
    for _ in range(3):
        for batch in candidates:
            best[batch] = min(best[batch], _seconds_a_frame(encoder, frames[:batch]))
        if time.perf_counter() - began > _ENOUGH_SECONDS / 4:
            break
    return min(best, key=lambda batch: best[batch])


def _seconds_a_frame(encoder: MeasuredEncoder, frames: torch.Tensor) -> float:
    synchronize()
    began = time.perf_counter()
    encoder.adapter.dense(frames)
    synchronize()
    return (time.perf_counter() - began) / len(frames)
