"""Times of the vision part of multimodal LLMs: selecting and encoding, against dense encoding.

    python scripts/mllm_times.py qwen3-vl-2b siglip-so400m llava-onevision
    python scripts/mllm_times.py qwen3-vl-2b --units scales --selector learned --height 448 --width 448
    python scripts/mllm_times.py siglip-so400m --device cuda --dtype bfloat16 --frames 64

Towers of real size with random weights; frames of a texture that moves, as large as the tower takes
them. Every round runs the dense tower and then each selector: frames to kept units (select), and
their patches to features (encode). Decoding and the pixels of patches are not timed on either side.
Shares of dense time are medians of the rounds' own; the same of CPU time, which other programs on
the machine move less. The bound is 1.3 x ratio + 5 %.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

import autogaze
from autogaze.clips import Clips
from autogaze.evaluation.encoders import load_encoder
from autogaze.evaluation.timing import hardware, timed
from autogaze.geometry import PatchPyramid
from autogaze.mllm.adapter import VisualInput
from autogaze.mllm.ranking import MAPPINGS, Mapping, scales_grid
from autogaze.mllm.registry import adapter_of
from autogaze.mllm.selection import select_units, unit_selector
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.selectors.base import Selector
from autogaze.selectors.registry import LEARNED
from autogaze.utils.device import DeviceOptions
from autogaze.utils.seeding import seed_weights

SELECTORS = ("greedy", "change", "run-length", "random")


class Tower(Protocol):
    """A vision tower that is timed: it encodes frames whole, or what a selector chose."""

    title: str
    dense_tokens: int

    def selector(self, name: str) -> Selector: ...
    def dense(self) -> object: ...
    def select(self, selector: Selector) -> Any: ...
    def encode(self, chosen: Any) -> object: ...
    def tokens(self, chosen: Any) -> int: ...


def moving_texture(num_frames: int, height: int, width: int) -> UInt8[Tensor, "T 3 H W"]:
    """Noise that drifts by a pixel per frame."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    size = (height + num_frames, width + num_frames)
    texture = F.interpolate(noise, size=size, mode="bicubic")[0].clamp(0, 1)
    frames = [texture[:, t : t + height, t : t + width] for t in range(num_frames)]
    return (torch.stack(frames) * 255).to(torch.uint8)


class QwenTower:
    """Qwen3-VL-2B's vision tower, through the adapter of `autogaze.gazed_mllm`."""

    def __init__(self, options: argparse.Namespace, device_options: DeviceOptions) -> None:
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        vision = {
            "depth": 24,
            "hidden_size": 1024,
            "num_heads": 16,
            "intermediate_size": 4096,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "deepstack_visual_indexes": [5, 11, 17],
            "out_hidden_size": 2048,
            "num_position_embeddings": 2304,
        }
        text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32}
        text |= {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
        config = Qwen3VLConfig(vision_config=vision, text_config=text)
        seed_weights(0)
        model = Qwen3VLForConditionalGeneration(config).eval().requires_grad_(False)
        model.to(device_options.device, device_options.dtype)
        self.adapter: Any = adapter_of(model)
        self.units: Mapping = options.units
        self.ratio: float = options.ratio
        height, width, tubelets = options.height, options.width, options.frames // 2
        rows, columns = height // 32, width // 32
        self.frames = moving_texture(options.frames, height, width)
        self.grid = UnitGrid(tubelets, ((rows, columns),))
        self.thw = torch.tensor([[tubelets, rows * 2, columns * 2]], device=device_options.device)
        self.dense_tokens = tubelets * rows * columns
        # Twice as many rows as dense units have: with "scales" there are more units to choose from.
        pixels = torch.randn(8 * self.dense_tokens, 3 * 2 * 16 * 16)
        self.pixels = pixels.to(device_options.device, device_options.dtype)
        self.title = f"Qwen3-VL-2B, {options.frames} x {width} x {height}"

    def selector(self, name: str) -> Selector:
        selector = unit_selector(name, self.units)
        if self.units == "scales":
            self.grid = scales_grid(self.grid.tubelets, *self.grid.dense, selector.pyramid)
        return selector

    def dense(self) -> object:
        return self.adapter.tower(self.pixels[: 4 * self.dense_tokens], grid_thw=self.thw)

    def select(self, selector: Selector) -> KeptUnits:
        generator = torch.Generator().manual_seed(0)
        chosen = select_units(
            [self.frames],
            self.grid,
            2,
            selector,
            units=self.units,
            ratio=self.ratio,
            generator=generator,
        )
        return chosen.kept

    def encode(self, chosen: KeptUnits) -> object:
        pixels = self.pixels[: 4 * chosen.num_units]
        return self.adapter.encode(VisualInput("video", chosen, pixels))

    def tokens(self, chosen: KeptUnits) -> int:
        return chosen.num_units


class SiglipTower:
    """SigLIP-SO400M/14-384, through `autogaze.gazed`: each frame attends to itself."""

    def __init__(self, options: argparse.Namespace, device_options: DeviceOptions) -> None:
        name = "siglip2-so400m-patch14-384"  # the architecture of SigLIP-SO400M/14-384 too
        self.encoder = load_encoder(name, device_options, "frame_independent")
        self.ratio: float = options.ratio
        self.clips = Clips(moving_texture(options.frames, 384, 384)[None])
        self.pixels = self.encoder.normalised(self.clips.frames)
        self.dense_tokens = options.frames * 27 * 27
        self.title = f"SigLIP-SO400M/14, {options.frames} x 384 x 384"

    def selector(self, name: str) -> Selector:
        if name == LEARNED:
            return autogaze.load(name, pyramid=self.encoder.pyramid)
        return autogaze.load(name, pyramid=PatchPyramid((384,), 14, crop=True))

    def dense(self) -> object:
        return self.encoder.adapter.dense(self.pixels[0])

    def select(self, selector: Selector) -> autogaze.Gaze:
        # A cap counts patches of all scales: with several, as many as the ratio of the finest.
        ratio = self.ratio * selector.pyramid.cells[-1] / selector.pyramid.num_patches
        generator = torch.Generator().manual_seed(0)
        return selector.select(self.clips, ratio=ratio, generator=generator)

    def encode(self, chosen: autogaze.Gaze) -> object:
        return self.encoder.gazed(self.pixels, chosen.to(self.pixels.device))

    def tokens(self, chosen: autogaze.Gaze) -> int:
        return chosen.num_patches


class LlavaTower:
    """SigLIP-SO400M/14-384 with the projector of LLaVA-OneVision-0.5B, through its adapter."""

    def __init__(self, options: argparse.Namespace, device_options: DeviceOptions) -> None:
        from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        }
        text = {"model_type": "qwen2", "vocab_size": 64, "hidden_size": 896}
        text |= {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 14}
        text |= {"num_key_value_heads": 2}
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=text,
            vision_feature_layer=-1,
            video_token_id=62,
            image_token_id=63,
        )
        seed_weights(0)
        model = LlavaOnevisionForConditionalGeneration(config).eval().requires_grad_(False)
        self.model: Any = model.to(device_options.device, device_options.dtype)
        self.adapter = adapter_of(model)
        self.ratio: float = options.ratio
        self.frames = moving_texture(options.frames, 384, 384)
        pixels = (self.frames.float()[None] / 255 - 0.5) / 0.5
        self.pixels = pixels.to(device_options.device, device_options.dtype)
        self.grid = UnitGrid(options.frames, ((14, 14),))
        self.dense_tokens = options.frames * 14 * 14
        self.title = f"LLaVA-OneVision, {options.frames} x 384 x 384"

    def selector(self, name: str) -> Selector:
        return unit_selector(name)

    def dense(self) -> object:
        return self.model.model.get_video_features(
            self.pixels, vision_feature_layer=-1, vision_feature_select_strategy="full"
        )

    def select(self, selector: Selector) -> KeptUnits:
        generator = torch.Generator().manual_seed(0)
        chosen = select_units(
            [self.frames], self.grid, 1, selector, ratio=self.ratio, generator=generator
        )
        return chosen.kept

    def encode(self, chosen: KeptUnits) -> object:
        (video,) = self.adapter.dense({"pixel_values_videos": self.pixels})["video"]
        cut = self.adapter.cut("video", video.pixels, chosen)
        return self.adapter.encode(VisualInput("video", chosen, cut))

    def tokens(self, chosen: KeptUnits) -> int:
        return chosen.num_units


TOWERS: dict[str, Callable[..., Tower]] = {
    "qwen3-vl-2b": QwenTower,
    "llava-onevision": LlavaTower,
    "siglip-so400m": SiglipTower,
}


class Seconds(NamedTuple):
    """Time of one call: on the clock, and of the CPU in all threads."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, call: Callable[[], object]) -> "Seconds":
        before = time.process_time()
        wall = timed(call, 1, warmup=0).median
        return cls(wall, time.process_time() - before)


@dataclass(frozen=True)
class Round:
    """A selector's times, and those of dense encoding just before."""

    dense: Seconds
    select: Seconds
    encode: Seconds

    @property
    def share(self) -> float:
        return (self.select.wall + self.encode.wall) / self.dense.wall

    @property
    def cpu_share(self) -> float:
        return (self.select.cpu + self.encode.cpu) / self.dense.cpu


@torch.inference_mode()
def measure(tower: Tower, names: Sequence[str], repeats: int, bound: float) -> None:
    """Print the rows of a tower."""
    selectors = {name: tower.selector(name) for name in names}
    chosen: dict[str, Any] = {}
    for name, selector in selectors.items():  # what is made at first use is not timed
        chosen[name] = tower.select(selector)
        tower.encode(chosen[name])
    tower.dense()
    rounds: dict[str, list[Round]] = {name: [] for name in names}
    for _ in range(repeats):
        dense = Seconds.of(tower.dense)
        for name, selector in selectors.items():
            select = Seconds.of(partial(tower.select, selector))
            encode = Seconds.of(partial(tower.encode, chosen[name]))
            rounds[name].append(Round(dense, select, encode))
    total = milliseconds(found.dense for found in rounds[names[0]])
    print(f"| {tower.title} | dense | {tower.dense_tokens} | | {total} | | | |", flush=True)
    for name, found in rounds.items():
        shares = [one.share for one in found]
        share, cpu = statistics.median(shares), statistics.median(one.cpu_share for one in found)
        columns = [
            f"{tower.tokens(chosen[name])}",
            milliseconds(one.select for one in found),
            milliseconds(one.encode for one in found),
            f"{share:.3f} ({min(shares):.3f}..{max(shares):.3f})",
            f"{cpu:.3f}",
            f"{share / bound:.2f}",
        ]
        print(f"| | {name} | {' | '.join(columns)} |", flush=True)


def milliseconds(times: Iterable[Seconds]) -> str:
    """The median on the clock."""
    return f"{statistics.median(one.wall for one in times) * 1000:,.0f}"


def arguments() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("towers", nargs="+", choices=list(TOWERS))
    parser.add_argument("--selector", action="append", help="by default: " + ", ".join(SELECTORS))
    parser.add_argument("--units", choices=MAPPINGS, default="finest", help="of Qwen3-VL")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--height", type=int, default=448, help="of Qwen3-VL's frames")
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if options.frames % 2 or options.height % 32 or options.width % 32:
        parser.error("frames must be even, height and width multiples of 32")
    return options


def main() -> None:
    """Print a table in Markdown."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device_options = DeviceOptions.parse(options.device, options.dtype)
    bound = 1.3 * options.ratio + 0.05
    print(f"{hardware(device_options.device)}, {device_options}, ratio {options.ratio:g}\n")
    header = (
        "tower | selector | tokens | select, ms | encode, ms | share of dense time | CPU | / bound"
    )
    print(f"| {header} |\n|{'---|' * 8}", flush=True)
    for name in options.towers:
        tower = TOWERS[name](options, device_options)
        names = options.selector or SELECTORS
        measure(tower, names, options.repeats, bound)


if __name__ == "__main__":
    try:
        main()
    except autogaze.AutoGazeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
