"""Times on a GPU: the learned selector and a gazed encoder, in milliseconds per clip.

    python scripts/gpu_times.py

Clips of 16 x 224 x 224, a texture that moves, already on the device; medians of three calls after
a warm-up. Needs PyTorch, transformers, NumPy and PyAV; encoders have random weights.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import autogaze
from autogaze.evaluation.encoders import PRESETS

DEVICE = torch.device("cuda")
FRAMES, SIDE = 16, 224


def moving_texture(num_clips: int) -> Tensor:
    """(B, T, 3, S, S) clips in [0, 1] on the GPU: noise that drifts by a pixel per frame."""
    noise = torch.rand(num_clips, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    texture = F.interpolate(noise, size=(SIDE + 2 * FRAMES,) * 2, mode="bicubic").clamp(0, 1)
    frames = [texture[:, :, t : t + SIDE, t : t + SIDE] for t in range(FRAMES)]
    return torch.stack(frames, 1).to(DEVICE)


def milliseconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median time of a call, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[repeats // 2] * 1000


@torch.inference_mode()
def time_encoder(num_clips: int) -> None:
    """Print the times of SigLIP2-base, dense and gazed at 10 % of the patches."""
    dense = PRESETS["siglip2-base-patch16-224"]().eval().to(DEVICE, torch.bfloat16)
    gazed = autogaze.gazed(dense)
    clips = moving_texture(num_clips)
    gaze = autogaze.load("random").select(clips.cpu(), ratio=0.1).to(DEVICE)
    pixels = ((clips - 0.5) / 0.5).to(torch.bfloat16)
    for name, call in (
        ("dense", lambda: dense(pixels.flatten(0, 1))),
        ("gazed, 10 %", lambda: gazed(pixels, gaze)),
    ):
        print(f"| SigLIP2-base {name} | {num_clips} | {milliseconds(call) / num_clips:.1f} |")


def time_selector(dtype: torch.dtype, num_clips: int) -> None:
    """Print the times of the learned selector with a cap, and with early stopping."""
    selector = autogaze.load("learned")
    selector.model.to(DEVICE, dtype)  # type: ignore[attr-defined]
    clips = moving_texture(num_clips)
    for limit in ({"ratio": 0.1}, {"loss": 0.02}):
        taken = milliseconds(lambda limit=limit: selector.select(clips, **limit))  # type: ignore[misc]
        words = " ".join(f"{name} {value}" for name, value in limit.items())
        name = str(dtype).removeprefix("torch.")
        print(f"| learned, {name}, {words} | {num_clips} | {taken / num_clips:.1f} |")


def main() -> None:
    """Print a table in Markdown."""
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| what | clips per batch | ms per clip |\n|---|---|---|")
    for num_clips in (1, 16):
        time_encoder(num_clips)
    for dtype in (torch.float32, torch.bfloat16):
        for num_clips in (1, 8, 64):
            time_selector(dtype, num_clips)


if __name__ == "__main__":
    main()
