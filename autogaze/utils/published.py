"""Helpers that AutoGaze's users import from `autogaze.utils`."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from autogaze.errors import AutoGazeError


class UnNormalize:
    """The inverse of a normalisation: pixels * std + mean, per channel.

    Args:
        mean, std: one per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std):
            raise AutoGazeError(f"one mean and one std per channel, got {mean} and {std}")
        self.mean = mean
        self.std = std

    def __call__(self, pixels: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N C H W"]:
        if pixels.ndim < 3 or pixels.shape[-3] != len(self.mean):
            raise AutoGazeError(
                f"expected (..., {len(self.mean)}, height, width), got {tuple(pixels.shape)}"
            )
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return pixels * std + mean


class GazingPositions(NamedTuple):
    """Slots of a mask: ids numbered over the clip, which of them are padding, and their counts."""

    gazing_pos: Int[Tensor, "B S"]
    if_padded_gazing: Bool[Tensor, "B S"]
    num_gazing_each_frame: Int[Tensor, " T"]


def get_gazing_pos_from_gazing_mask(
    gazing_mask: Tensor | Sequence[Tensor],
) -> GazingPositions:
    """The ids of a mask, ascending within every frame, padded to the largest count of the batch.

    Args:
        gazing_mask: (B, T, V), not 0 where a patch was gazed at; or one (B, T, cells) per scale.

    Returns:
        Ids are id + V * frame, in padded slots the first of the next frame.
    """
    mask = gazing_mask if isinstance(gazing_mask, Tensor) else torch.cat(list(gazing_mask), dim=-1)
    if mask.ndim != 3:
        raise AutoGazeError(f"expected a mask of (clips, frames, patches), got {tuple(mask.shape)}")
    mask = mask != 0
    vocabulary = mask.shape[-1]
    counts = mask.sum(-1)  # (B, T)
    slots = counts.amax(0) if len(mask) else counts.new_zeros(mask.shape[1])
    # Gazed ids first, ascending, since the sort is stable; then the others.
    order = (~mask).to(torch.uint8).sort(dim=-1, stable=True).indices
    positions, padding = [], []
    for frame, count in enumerate(slots.tolist()):
        is_padding = torch.arange(count, device=mask.device) >= counts[:, frame, None]
        ids = order[:, frame, :count].masked_fill(is_padding, vocabulary)
        positions.append(ids + vocabulary * frame)
        padding.append(is_padding)
    if not positions:
        empty = counts.new_zeros(len(mask), 0)
        return GazingPositions(empty, empty.bool(), slots)
    return GazingPositions(torch.cat(positions, 1), torch.cat(padding, 1), slots)


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside of wrappers: data-parallel ones and compiled ones."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.parallel.DistributedDataParallel | nn.DataParallel
        ):
            inner = model.module
        if inner is None:
            return model
        model = inner


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch on all devices.

    Nothing in this package draws from them (see `autogaze.utils.seeding`).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_scheduled_temperature(
    step: int, total_steps: int, temp_schedule_args: Mapping[str, Any] | None = None
) -> float:
    """Sampling temperature at a step of training.

    Args:
        step: from 0.
        total_steps: of the training; the last of them has the last temperature.
        temp_schedule_args: {"mode": "exp", "exp": {"start": 3.0, "end": 0.3}}; `temp_start` and
            `temp_end` are the same. Modes are "exp", start * (end / start)^(step / (total_steps - 1)),
            "linear", and "constant", which is the start.
    """
    args = dict(temp_schedule_args or {})
    mode = str(args.get("mode", args.get("schedule", "exp")))
    inner = args.get(mode)
    values = dict(inner) if isinstance(inner, Mapping) else args
    start = float(values.get("start", values.get("temp_start", 3.0)))
    end = float(values.get("end", values.get("temp_end", 0.3)))
    share = min(max(step / max(1, total_steps - 1), 0.0), 1.0)
    if mode in ("exp", "exponential"):
        return start * (end / start) ** share
    if mode == "linear":
        return start + (end - start) * share
    if mode == "constant":
        return start
    raise AutoGazeError(f"the temperature's mode must be exp, linear or constant, got {mode!r}")


class AverageScalarMeter:
    """Mean of the newest values, as many as `window_size`."""

    def __init__(self, window_size: int) -> None:
        if window_size < 1:
            raise AutoGazeError(f"window_size must be at least 1, got {window_size}")
        self.window_size = window_size
        self.clear()

    def clear(self) -> None:
        self.current_size = 0
        self.mean = 0.0

    def update(self, values: Tensor | float) -> None:
        """Add values; of those before, as many count as the window has room for beside them."""
        new = torch.as_tensor(values, dtype=torch.float64).flatten()
        if not new.numel():
            return
        size = min(new.numel(), self.window_size)
        old = min(self.window_size - size, self.current_size)
        self.current_size = size + old
        self.mean = (self.mean * old + float(new.mean()) * size) / self.current_size

    def get_mean(self) -> float:
        return self.mean

    def __len__(self) -> int:
        return self.current_size


def move_inputs_to_cuda(inputs: Any) -> Any:
    """The inputs with all tensors, in dicts, lists and tuples too, on the current CUDA device.

    Without a CUDA device they are returned where they are.
    """
    if isinstance(inputs, Tensor):
        return inputs.cuda(non_blocking=True) if torch.cuda.is_available() else inputs
    if isinstance(inputs, Mapping):
        return {key: move_inputs_to_cuda(value) for key, value in inputs.items()}
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):
        return type(inputs)(*map(move_inputs_to_cuda, inputs))
    if isinstance(inputs, list | tuple):
        return type(inputs)(map(move_inputs_to_cuda, inputs))
    return inputs
