"""The processor's side of LLaVA-OneVision: 14 x 14 units of a frame, a newline behind a video."""

import math

from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.dense_prompt import Kind
from autogaze.mllm.frame_processor import FrameProcessorAdapter
from autogaze.mllm.frames import cut_squares
from autogaze.mllm.llava_onevision import STRATEGY, check_strategy, needed_patches, patch_sides
from autogaze.mllm.processor_adapter import Expansion, FrameTimes, WholeImage, setting
from autogaze.mllm.stock_processor import StockProcessor
from autogaze.mllm.units import KeptUnits, UnitGrid


class LlavaOnevisionProcessorAdapter(FrameProcessorAdapter):
    """Units share patches, and what is cut are the patches that some kept unit needs."""

    image_class = "LlavaOnevisionImageProcessor"

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
        """Tokens of an image: the whole of it, and its crops side by side, a newline behind each row.

        What crops have beyond the image is left out, and more rows and columns than the family's
        limit are interpolated to fewer.
        """
        from transformers.image_processing_utils import select_best_resolution

        patches, frame = self.patches, self.frame_side("image")
        canvas = select_best_resolution((height, width), self.image_processor.image_grid_pinpoints)
        rows, columns = (length // frame * patches for length in canvas)
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        name = str(setting(self.stock.own, "vision_aspect_ratio", "anyres_max_9"))
        most = name.removeprefix("anyres_max_")
        if not most.isdecimal():
            raise MLLMError(f"vision_aspect_ratio={name} of the processor: anyres_max_N is known")
        shrink = math.sqrt(rows * columns / (int(most) * patches**2))
        if shrink > 1.1:
            rows, columns = int(rows // shrink), int(columns // shrink)
        return patches**2 + rows * columns + rows
