"""The vision encoders that are measured: architectures of real size, or anybody's checkpoints."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from autogaze.errors import AutoGazeError, EncoderError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.utils.device import DeviceOptions
from autogaze.utils.modules import run_python_file
from autogaze.utils.progress import without_loading_bars
from autogaze.utils.seeding import seed_weights
from autogaze.vision_encoders import GazedVisionModel, PixelStatistics, gazed
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.checkpoint import Checkpoint
from autogaze.vision_encoders.registry import adapter_class, is_registered


def _siglip(width: int, mlp: int, layers: int, heads: int, side: int, patch: int) -> Any:
    """A SigLIP encoder with random weights, of `side` pixels a side in patches of `patch`."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=side,
            patch_size=patch,
        )
    )


def _dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(image_size=518, patch_size=14))


PRESETS: dict[str, Callable[[], nn.Module]] = {
    "siglip2-base-patch16-224": partial(_siglip, 768, 3072, 12, 12, 224, 16),
    "siglip2-so400m-patch14-384": partial(_siglip, 1152, 4304, 27, 16, 384, 14),
    "dinov2-base": _dinov2,
}
"""Architectures of real size, built with random weights."""


@dataclass(frozen=True, eq=False)
class MeasuredEncoder:
    """One vision transformer, untouched and gazed, with the same weights.

    Attributes:
        adapter: parts of the transformers model by name; `adapter.dense` runs it untouched.
        gazed: the same tensors behind `autogaze.gazed`.
        pyramid: the scales it is gazed at; dense encoding sees the largest.
        random: whether its weights are random.
    """

    name: str
    adapter: EncoderAdapter
    gazed: GazedVisionModel
    pyramid: PatchPyramid
    statistics: PixelStatistics
    device_options: DeviceOptions
    random: bool

    def normalised(self, frames: UInt8[Tensor, "B T 3 S S"]) -> Float[Tensor, "B T 3 S S"]:
        """8-bit frames as the encoder expects them, on its device."""
        unit = frames.to(self.device_options.device).float() / 255
        return self.statistics.normalise(unit).to(self.device_options.dtype)


def load_encoder(
    name: str,
    device_options: DeviceOptions,
    attn_type: str = "block_causal",
    backend: str = "auto",
) -> MeasuredEncoder:
    """An encoder by name.

    Args:
        name: one of `PRESETS` (random weights), or a checkpoint folder or hub id, which is
            gazed at the scales that were saved with it, else at its family's.
        attn_type, backend: what a gazed token attends to, and what computes that, as in
            `autogaze.gazed`.

    Raises:
        EncoderError: unknown name, or weights that cannot be loaded.
    """
    if build := PRESETS.get(name):
        seed_weights(0)
        return measured(name, build(), device_options, attn_type, backend)
    checkpoint = _read_checkpoint(name)
    with without_loading_bars():  # across our own
        model = checkpoint.load()
    return measured(
        name,
        model,
        device_options,
        attn_type,
        backend,
        scales=checkpoint.saved.get("scales"),
        statistics=_processor_statistics(name),
        random=False,
    )


def check_encoders(names: Sequence[str]) -> None:
    """Raise `EncoderError` for a name that can be no encoder, before anything slow.

    Configurations of checkpoints are read, so that a family without adapter is found now.
    """
    for name in names:
        if name not in PRESETS:
            _read_checkpoint(name)


def _read_checkpoint(name: str) -> Checkpoint:
    if not os.path.isdir(name) and "/" not in name:
        raise EncoderError(
            f"unknown encoder {name!r}; known are {', '.join(PRESETS)} (random weights), the "
            "path of a checkpoint folder, or a hub id such as google/siglip2-base-patch16-224"
        )
    return Checkpoint.read(name)


def _processor_statistics(name: str) -> PixelStatistics | None:
    """Those of the image processor that was saved with a checkpoint, if one was."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        values, _ = BaseImageProcessor.get_image_processor_dict(name)
    except (OSError, ValueError):  # there is none, or no JSON in it
        return None
    mean, std = values.get("image_mean"), values.get("image_std")
    if not isinstance(mean, list) or not isinstance(std, list):
        return None
    if (len(mean), len(std)) != (3, 3):
        raise EncoderError(
            f"{name}: its image processor has a mean of {len(mean)} and a std of "
            f"{len(std)} channels; 3 are expected"
        )
    return PixelStatistics(tuple(mean), tuple(std))


def measured(
    name: str,
    model: nn.Module,
    device_options: DeviceOptions,
    attn_type: str = "block_causal",
    backend: str = "auto",
    *,
    scales: str | tuple[int, ...] | None = None,
    statistics: PixelStatistics | None = None,
    random: bool = True,
) -> MeasuredEncoder:
    """A transformers model beside its gazed twin.

    Args:
        scales: at which it is gazed; None takes its adapter's.
        statistics: by which pixels are normalised; None takes its family's.
        random: whether its weights are.

    Raises:
        EncoderError: the adapter that a user registered for the model fails.
    """
    model = model.eval().requires_grad_(False).to(device_options.device, device_options.dtype)
    config: Any = model.config
    try:
        adapter = adapter_class(config)(model)
        pyramid = adapter.usual_pyramid
        if scales is not None:
            pyramid = PatchPyramid.parse(scales, adapter.patch_size, crop=True)
        # A frame without a patch repeats the features of the frame before, it is not refused.
        twin = gazed(model, attn_type=attn_type, backend=backend, empty_frames="hold")  # type: ignore[arg-type]
        statistics = statistics or adapter.statistics
        encoder = MeasuredEncoder(name, adapter, twin, pyramid, statistics, device_options, random)
        if is_registered(config):
            _try(encoder)
    except AutoGazeError:
        raise
    except Exception as error:  # anything may go wrong in a class of the user's
        if not is_registered(config):
            raise
        raise EncoderError(
            f"the adapter {adapter_class(config).__name__} that was registered for "
            f"{config.model_type!r} fails: {type(error).__name__}: {error}; "
            "docs/encoders.md says which parts an adapter has to name"
        ) from error
    return encoder


@torch.no_grad()
def _try(encoder: MeasuredEncoder) -> None:
    """One black frame, whole and with every patch gazed, which uses every part of an adapter."""
    side = encoder.pyramid.side
    frames = encoder.normalised(torch.zeros(1, 1, 3, side, side, dtype=torch.uint8))
    encoder.adapter.dense(frames[0])
    encoder.gazed(frames, Gaze.everything(encoder.pyramid, 1, 1).to(encoder.device_options.device))


def run_adapter_files(paths: Sequence[str]) -> None:
    """Run Python files that make more families known, by `register_encoder`.

    Raises:
        EncoderError: there is no such file, it is no Python, or it raises.
    """
    for path in paths:
        run_python_file(path, "--adapter", EncoderError)
