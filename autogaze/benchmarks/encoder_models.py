"""The vision encoders that are measured: real architectures, or anybody's weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from autogaze.benchmarks.device import Place
from autogaze.errors import EncoderError
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders import GazedVisionModel, gazed
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.gazed import SETTINGS_KEY
from autogaze.vision_encoders.registry import adapter_class, model_class

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of every channel in [0, 1]."""


@dataclass(frozen=True)
class Preset:
    """An architecture of real size, with random weights.

    Attributes:
        build: makes the transformers model.
        side: pixels of the frames it is given.
        scales: at which it is gazed, as many as AutoGaze has; the last is `side`. Their
            cells lie where those of the learned selector do (`GridAdaptation`).
    """

    build: Callable[[], nn.Module]
    side: int
    scales: tuple[int, ...]
    statistics: Statistics


def _siglip(**sizes: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        return SiglipVisionModel(SiglipVisionConfig(**sizes))

    return build


def _dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(image_size=518, patch_size=14))


PRESETS = {
    "siglip2-base-patch16-224": Preset(
        _siglip(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
        ),
        224,
        (32, 64, 112, 224),
        HALF,
    ),
    "siglip2-so400m-patch14-384": Preset(
        _siglip(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        ),
        384,
        (56, 112, 196, 384),
        HALF,
    ),
    "dinov2-base": Preset(_dinov2, 224, (32, 64, 112, 224), IMAGENET),
}


@dataclass(frozen=True, eq=False)
class MeasuredEncoder:
    """One vision transformer, untouched and gazed, with the same weights.

    Attributes:
        name: as it was asked for.
        dense: the transformers model as transformers runs it.
        gazed: the same tensors behind `autogaze.gazed`.
        pyramid: the scales it is gazed at; dense encoding sees the largest.
        statistics: what pixels are normalised by.
        random: whether its weights are random.
    """

    name: str
    dense: nn.Module
    gazed: GazedVisionModel
    pyramid: PatchPyramid
    statistics: Statistics
    place: Place
    random: bool

    @property
    def adapter(self) -> EncoderAdapter:
        """The parts of the untouched model by name."""
        return adapter_class(self.dense.config)(self.dense)

    def normalised(self, frames: UInt8[Tensor, "B T 3 S S"]) -> Float[Tensor, "B T 3 S S"]:
        """8-bit frames as the encoder wants them, on its device."""
        device, dtype = self.place.device, self.place.dtype
        mean, deviation = (
            torch.tensor(values, device=device)[:, None, None] for values in self.statistics
        )
        scaled = frames.to(device).float() / 255
        return ((scaled - mean) / deviation).to(dtype)

    def forward_dense(self, frames: Float[Tensor, "F 3 S S"]) -> Any:
        """The untouched model's output for whole frames."""
        model_type = str(getattr(self.dense.config, "model_type", ""))
        if model_type.startswith("siglip2"):  # NaFlex takes patches, colours last
            return self.dense(**_flat_patches(frames, self.pyramid.patch_size))
        return self.dense(frames)


def check_encoders(names: Sequence[str]) -> None:
    """Raise EncoderError for a name that can be no encoder, before anything slow."""
    for name in names:
        if name not in PRESETS and not Path(name).is_dir() and "/" not in name:
            raise EncoderError(
                f"unknown encoder {name!r}; known are {', '.join(PRESETS)} (random weights), the "
                "path of a checkpoint folder, or a hub id such as google/siglip2-base-patch16-224"
            )


def load_encoder(name: str, place: Place, attn_type: str = "block_causal") -> MeasuredEncoder:
    """An encoder by name.

    Args:
        name: one of `PRESETS` (random weights), or a checkpoint folder or hub id.
        attn_type: who is seen by a gazed token, as in `autogaze.gazed`.

    Raises:
        EncoderError: unknown name, or weights that cannot be loaded.
    """
    if preset := PRESETS.get(name):
        torch.manual_seed(0)
        pyramid = PatchPyramid(preset.scales, _patch_size(model := preset.build()), crop=True)
        return measured(name, model, pyramid, preset.statistics, place, attn_type, random=True)
    check_encoders([name])
    from transformers import AutoConfig

    try:
        with _no_bars():
            config = AutoConfig.from_pretrained(name)
            model = model_class(config).from_pretrained(name)
    except EncoderError:
        raise
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(f"{name}: cannot be loaded as a vision encoder: {first}") from error
    saved = getattr(config, SETTINGS_KEY, None) or {}
    statistics = _statistics(name, model)
    pyramid = _pyramid_of(model, saved.get("scales"))
    return measured(name, model, pyramid, statistics, place, attn_type, random=False)


def measured(
    name: str,
    model: nn.Module,
    pyramid: PatchPyramid,
    statistics: Statistics,
    place: Place,
    attn_type: str = "block_causal",
    *,
    random: bool = True,
) -> MeasuredEncoder:
    """Put a transformers model beside its gazed twin."""
    model = model.eval().requires_grad_(False).to(place.device, place.dtype)
    # Frames without a patch (a stop at once) are seen as the frame before, not refused.
    twin = gazed(model, attn_type=attn_type, empty_frames="hold")  # type: ignore[arg-type]
    return MeasuredEncoder(name, model, twin, pyramid, statistics, place, random)


def scaled_pyramid(side: int, patch_size: int) -> PatchPyramid:
    """AutoGaze's scales (1/7, 2/7, 1/2 and 1 of the side) in whole patches."""
    cells = [round(side * scale / 224 / patch_size) for scale in (32, 64, 112)]
    coarse = {cell * patch_size for cell in cells if cell >= 1 and cell * patch_size < side}
    return PatchPyramid((*sorted(coarse), side), patch_size, crop=True)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Transformers draws bars on stderr, terminal or not, and across our own."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _pyramid_of(model: nn.Module, scales: str | None) -> PatchPyramid:
    adapter = adapter_class(model.config)(model)
    if scales is not None:
        return PatchPyramid.parse(scales, adapter.patch_size, crop=True)
    side = adapter.image_size
    # DINOv2 is trained with the position table of 518 pixels and mostly used at 224.
    if str(getattr(model.config, "model_type", "")).startswith("dinov2") and side == 518:
        return PatchPyramid((32, 64, 112, 224), adapter.patch_size, crop=True)
    return scaled_pyramid(side, adapter.patch_size)


def _patch_size(model: nn.Module) -> int:
    return adapter_class(model.config)(model).patch_size


def _statistics(name: str, model: nn.Module) -> Statistics:
    """Mean and deviation of the checkpoint's image processor, or its family's."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        values, _ = BaseImageProcessor.get_image_processor_dict(name)
        return tuple(values["image_mean"]), tuple(values["image_std"])
    except (OSError, ValueError, KeyError, TypeError):
        siglip = str(getattr(model.config, "model_type", "")).startswith(("siglip", "vit"))
        return HALF if siglip else IMAGENET


def _flat_patches(frames: Float[Tensor, "F 3 S S"], p: int) -> dict[str, Tensor]:
    grid = frames.shape[-1] // p
    cells = frames.unflatten(-1, (grid, p)).unflatten(-3, (grid, p))  # F 3 g p g p
    count = len(frames)
    return {
        "pixel_values": cells.permute(0, 2, 4, 3, 5, 1).reshape(count, grid * grid, -1),
        "pixel_attention_mask": torch.ones(
            count, grid * grid, dtype=torch.long, device=frames.device
        ),
        "spatial_shapes": torch.tensor([[grid, grid]] * count, device=frames.device),
    }
