"""LLaVA-OneVision: a frame's 27 x 27 patches, interpolated to 14 x 14 units.

A unit is a weighted mean of up to 2 x 2 neighbouring patches, and neighbours share patches: what is
cut and encoded is the union of those that kept units need. A newline token follows every video.
"""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import DenseVisual, VisualFeatures, VisualInput
from autogaze.mllm.frame_processor import FrameProcessorAdapter
from autogaze.mllm.frame_tower import FrameAdapter, FramePatches
from autogaze.mllm.frames import cut_squares
from autogaze.mllm.processor_adapter import Expansion, FrameTimes, WholeImage, setting
from autogaze.mllm.prompt import Kind, Placeholder
from autogaze.mllm.stock_processor import StockProcessor
from autogaze.mllm.units import KeptUnits, UnitGrid

STRATEGY = "vision_feature_select_strategy"
"""Setting of models and processors: whether the vision encoder's first patch is dropped."""


class LlavaOnevisionAdapter(FrameAdapter):
    """Adapter of `LlavaOnevisionForConditionalGeneration`.

    Images, which it takes at many resolutions, stay whole.
    """

    dense_inputs = (
        "pixel_values",
        "image_sizes",
        "pixel_values_videos",
        "image_sizes_videos",
        "batch_num_images",
    )

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        check_strategy(getattr(self.config, STRATEGY, None), "model")

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return (
            Placeholder(self.config.video_token_id, "video", trailing=1),
            Placeholder(self.config.image_token_id, "image"),
        )

    @property
    def side(self) -> int:
        """Patches along a side of the model's frames."""
        return self.encoder.image_size // self.encoder.patch_size

    def patch_sides(self, grid: UnitGrid) -> list[int]:
        return patch_sides(grid, self.side)

    def patches(self, kept: KeptUnits) -> FramePatches:
        return needed_patches(kept, self.side)[0]

    def dense(self, inputs: Mapping[str, Any]) -> dict[Kind, list[DenseVisual]]:
        units = math.ceil(self.side / 2)
        given = inputs.get("pixel_values_videos")
        videos = []
        for frames in () if given is None else given:
            side = self.check_frames("pixel_values_videos", frames)
            if side != self.side:
                raise MLLMError(
                    f"the model takes frames of {self.side} x {self.side} patches, "
                    f"pixel_values_videos has frames of {side} x {side}"
                )
            videos.append(DenseVisual(UnitGrid(len(frames), ((units, units),)), frames))
        return {"video": videos, "image": self._images(inputs)}

    def cut(self, kind: Kind, pixels: Tensor, kept: KeptUnits) -> Float[Tensor, "N 3 p p"]:
        return pixels if kind == "image" else super().cut(kind, pixels, kept)  # whole crops

    def encode(self, visual: VisualInput) -> VisualFeatures:
        if visual.kind == "image":
            return self._encode_image(visual)
        _, taps, weights = needed_patches(visual.kept, self.side)
        features = self._project(visual)
        taps, weights = taps.to(features.device), weights.to(features.device, features.dtype)
        # One of the four taps at a time, whose memory is that of the units.
        units = weights[:, :1] * features[taps[:, 0]]
        for tap in range(1, 4):
            units = units + weights[:, tap, None] * features[taps[:, tap]]
        newline = self.model.model.image_newline[None].to(features.device, features.dtype)
        return VisualFeatures(torch.cat([units, newline]))

    def _project(self, visual: VisualInput) -> Float[Tensor, "N D"]:
        """Patches in the space of the LLM."""
        chosen = self.config.vision_feature_layer
        layers = [chosen] if isinstance(chosen, int) else list(chosen)
        states = torch.cat(self.encode_frames(visual, layers), dim=-1)
        return self.model.model.multi_modal_projector(states)

    def _images(self, inputs: Mapping[str, Any]) -> list[DenseVisual]:
        """Crops (n, 3, S, S) of every image of a dense input."""
        from transformers.models.llava_onevision import modeling_llava_onevision as library

        pixels = inputs.get("pixel_values")
        if pixels is None:
            return []
        sizes = torch.as_tensor(inputs["image_sizes"]).tolist()
        counts = inputs.get("batch_num_images")
        # Several images of a prompt are not cut into crops.
        single = (
            [True] * len(sizes) if counts is None else [n == 1 for n in counts for _ in range(n)]
        )
        images = []
        for padded, size, is_single in zip(pixels, sizes, single, strict=True):
            count = library.image_size_to_num_patches(
                size, self.config.image_grid_pinpoints, self.encoder.image_size
            )
            crops = padded[: count if is_single else 1]
            grid = UnitGrid(1, ((1, self._num_tokens(crops, tuple(size))),))
            images.append(DenseVisual(grid, crops, size=tuple(size)))
        return images

    def _encode_image(self, visual: VisualInput) -> VisualFeatures:
        """An image, whole: as many features as it has placeholders."""
        if visual.kept.num_units != visual.kept.dense_units:
            raise MLLMError(f"images of LLaVA-OneVision are kept whole, got {visual.kept}")
        crops, units = len(visual.pixels), math.ceil(self.side / 2)
        whole = KeptUnits.everything(UnitGrid(crops, ((units, units),)))
        frames = VisualInput("image", whole, super().cut("image", visual.pixels, whole))
        features = self._project(frames).unflatten(0, (crops, -1))
        return VisualFeatures(self._pack(features, visual.size, self.model.model.image_newline))

    def _num_tokens(self, crops: Tensor, size: tuple[int, int]) -> int:
        """Tokens of an image, asked from the model by shapes alone."""
        features = torch.empty(len(crops), self.side**2, 1, device="meta")
        return len(self._pack(features, size, torch.empty(1, device="meta")))

    def _pack(
        self, features: Float[Tensor, "n cells D"], size: tuple[int, int] | None, newline: Tensor
    ) -> Float[Tensor, "tokens D"]:
        """The features of crops as the sequence that the model makes of them."""
        if size is None:
            raise MLLMError("an image of LLaVA-OneVision needs its original size")
        rows, _ = self.model.model.pack_image_features(
            [features],
            [list(size)],
            image_newline=newline,
            vision_aspect_ratio=self.config.vision_aspect_ratio,
        )
        return rows[0]


def check_strategy(value: Any, where: str) -> None:
    """Raise `MLLMError` where a setting asks to drop patches."""
    if value not in (None, "full"):
        raise MLLMError(
            f"{STRATEGY}={value!r} of the {where} is not supported: all patches of a frame are taken; "
            "published checkpoints say 'full'"
        )


def patch_sides(grid: UnitGrid, side: int) -> list[int]:
    """Patches along a side of every grid, where the model's frames have `side`.

    Raises:
        MLLMError: a grid of other frames.
    """
    # n patches make ceil(n / 2) units; a coarser grid has as odd or even a number of patches.
    units = math.ceil(side / 2)
    if grid.dense != (units, units) or any(rows != columns for rows, columns in grid.grids):
        raise MLLMError(f"the model has {units} x {units} units a frame, got {grid}")
    return [2 * rows - side % 2 for rows, _ in grid.grids]


def needed_patches(
    kept: KeptUnits, side: int
) -> tuple[FramePatches, Int[Tensor, "K 4"], Float[Tensor, "K 4"]]:
    """Patches that kept units are interpolated from, and where and how much each of them is."""
    sides = torch.tensor(patch_sides(kept.grid, side))
    starts = torch.tensor([0, *accumulate((sides**2).tolist())])
    grid, row, column = kept.places.unbind(-1)
    rows, row_weights = _taps(row, sides[grid])
    columns, column_weights = _taps(column, sides[grid])
    cells = rows[:, :, None] * sides[grid][:, None, None] + columns[:, None, :]
    cells = cells + starts[grid][:, None, None]
    weights = row_weights[:, :, None] * column_weights[:, None, :]
    total = int(starts[-1])
    wanted = kept.tubelet[:, None, None] * total + cells
    union, taps = wanted.unique(return_inverse=True)
    tubelet, index = union // total, union % total
    segment = tubelet * len(sides) + torch.searchsorted(starts, index, right=True) - 1
    lengths = segment.unique_consecutive(return_counts=True)[1].tolist()
    return FramePatches(index, tubelet, tuple(lengths)), taps.flatten(1), weights.flatten(1)


def _taps(
    place: Int[Tensor, " K"], side: Int[Tensor, " K"]
) -> tuple[Int[Tensor, "K 2"], Float[Tensor, "K 2"]]:
    """Neighbours and weights of bilinear interpolation from `side` patches to ceil(side / 2)."""
    units = (side + 1) // 2
    # The centre (place + 1/2) side / units - 1/2 of a unit, in whole 1 / (2 units).
    centre = ((2 * place + 1) * side - units).clamp(min=0)
    first, rest = centre // (2 * units), centre % (2 * units)
    # A neighbour without weight is not needed.
    second = torch.minimum(first + (rest > 0), side - 1)
    weight = rest / (2 * units)
    return torch.stack([first, second], dim=1), torch.stack([1 - weight, weight], dim=1)


class LlavaOnevisionProcessorAdapter(FrameProcessorAdapter):
    """Units share patches, and what is cut are the patches that some kept unit needs."""

    image_class = "llava_onevision:LlavaOnevisionImageProcessor"

    def __init__(self, stock: StockProcessor) -> None:
        super().__init__(stock)
        check_strategy(stock.own.get(STRATEGY), "processor")
        check_strategy(stock.model.get(STRATEGY), "model")

    @property
    def patches(self) -> int:
        """Patches along a side of a frame."""
        count = self.stock.own.get("num_image_tokens")
        if count is None:
            vision = self.stock.model.get("vision_config") or {}
            size = setting(vision, "image_size", self.size)
            return int(size) // int(setting(vision, "patch_size", 14))
        return math.isqrt(int(count))

    @property
    def side(self) -> int:
        return math.ceil(self.patches / 2)

    def patch(self, kind: Kind) -> int:
        return self.frame_side(kind) // self.patches

    def rows_per_unit(self, kind: Kind) -> int | None:
        return None

    def cut(
        self, kind: Kind, frames: UInt8[Tensor, "T 3 S S"], kept: KeptUnits
    ) -> Float[Tensor, "N 3 p p"]:
        needed = needed_patches(kept, self.patches)[0]
        sides = patch_sides(kept.grid, self.patches)
        return cut_squares(frames, sides, needed.tubelet, needed.index, self.form(kind))

    def expand(self, kind: Kind, kept: KeptUnits, times: FrameTimes) -> Expansion:
        trailing = 1 if kind == "video" else 0
        return Expansion(self.placeholder(kind), ((0, kept.grid.tubelets, trailing),))

    def image(self, pixels: UInt8[Tensor, "3 H W"], together: int) -> WholeImage:
        # Several images of a prompt are not cut into crops; one more stands for them.
        crops, _ = self.crops(pixels, min(together, 2))
        height, width = pixels.shape[1:]
        tokens = self.patches**2 + 1 if together > 1 else self._anyres_tokens(height, width)
        if together > 1:
            crops = crops[:1]
        return WholeImage(
            grid=UnitGrid(1, ((1, tokens),)),
            pixels=crops,
            expansion=Expansion(self.placeholder("image"), ((0, 1, 0),)),
            num_crops=len(crops),
            side=self.frame_side("image"),
        )

    def _anyres_tokens(self, height: int, width: int) -> int:
        """Tokens of an image and its crops, as the family's own processor counts them."""
        from transformers.models.llava_onevision.processing_llava_onevision import (
            LlavaOnevisionProcessor,
        )

        name = str(setting(self.stock.own, "vision_aspect_ratio", "anyres_max_9"))
        if not name.removeprefix("anyres_max_").isdecimal():
            raise MLLMError(f"vision_aspect_ratio={name} of the processor: anyres_max_N is known")
        asked: Any = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
        vars(asked).update(
            image_processor=self.image_processor,
            num_image_tokens=self.patches**2,
            vision_aspect_ratio=name,
        )
        side = self.frame_side("image")
        return asked._get_number_of_features(height, width, side, side)  # type: ignore[no-any-return]
