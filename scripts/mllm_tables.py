"""The tables of tokens and memory in docs/mllm.md: computed from published settings, nothing decoded.

    python scripts/mllm_tables.py          # prints them
    python scripts/mllm_tables.py --write  # writes them into docs/mllm.md

Sizes of frames, grids and placeholders are those of the processor adapters and of NVILA's frames,
so the tables say what `GazedProcessor` makes; tests/mllm/test_tables.py holds the page to them.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from autogaze import PatchPyramid
from autogaze.clips import frame_cap, frame_caps
from autogaze.mllm.nvila.frames import plan_grid
from autogaze.mllm.nvila.gazed_video import token_rows
from autogaze.mllm.nvila.selection import CHUNK
from autogaze.mllm.processor_adapter import FrameTimes
from autogaze.mllm.registry import processor_adapter_of
from autogaze.mllm.stock_processor import StockProcessor
from autogaze.mllm.units import KeptUnits

PAGE = Path(__file__).resolve().parents[1] / "docs" / "mllm.md"
BEGIN, END = "<!-- written by scripts/mllm_tables.py -->\n", "<!-- end of tables -->\n"
RATIOS = (1.0, 0.1, 0.02)
NVILA_PYRAMID = PatchPyramid((56, 112, 196, 392), 14)


@dataclass(frozen=True)
class Video:
    """Sampled frames and their size."""

    num_frames: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.num_frames:,} frames, {self.width} x {self.height}"


@dataclass(frozen=True)
class LLM:
    """What a token costs in the keys and values of an LLM, stored in 16 bits."""

    name: str
    layers: int
    kv_heads: int
    head_size: int

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_size * 2


@dataclass(frozen=True)
class Cost:
    """What is left of a video at one ratio: tokens of the LLM, and bytes of pixels in float32."""

    tokens: int
    pixel_bytes: int


@dataclass(frozen=True)
class Encoded:
    """A video as a family encodes it: what its frames are, and its cost by ratio."""

    frames: str
    costs: Mapping[float, Cost]


@dataclass(frozen=True)
class Stock:
    """A family with a processor adapter, under the settings of its published checkpoint.

    Args:
        title: as the tables name it.
        llm: of the checkpoint.
        model_type: of the registry.
        video, own, model: of `StockProcessor`.
        native: frames as large as the video's.
    """

    title: str
    llm: LLM
    model_type: str
    video: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    native: bool = False

    def encode(self, video: Video) -> Encoded:
        stock = StockProcessor(
            self.model_type, None, None, self.video, {}, own=self.own, model=self.model
        )
        adapter = processor_adapter_of(stock)
        height, width = adapter.frame_size(
            "video", video.height, video.width, video.num_frames, self.native
        )
        form = adapter.form("video")
        tubelets = -(-video.num_frames // form.tubelet)
        grid = adapter.grid("video", tubelets, height, width)
        # One unit stands for any that are kept: what always follows them does not depend on it.
        one = KeptUnits(grid, torch.tensor([0]), (1,) + (0,) * (tubelets - 1))
        times = FrameTimes(tuple(float(second) for second in range(video.num_frames)))
        always = sum(trailing for *_, trailing in adapter.expand("video", one, times).blocks)
        rows = adapter.rows_per_unit("video")
        costs = {}
        for ratio in RATIOS:
            units = tubelets * frame_cap(ratio, 0, grid.dense_units)
            if rows is None:  # units share patches: at most 4 each, and those of the frames
                every = tubelets * (height // form.patch) * (width // form.patch)
                patches = min(4 * units, every)
            else:
                patches = units * rows
            costs[ratio] = Cost(units + always, patches * form.values * 4)
        return Encoded(f"{width} x {height}", costs)


@dataclass(frozen=True)
class Tiles:
    """NVILA-HD-Video: tiles at a cap per frame, and thumbnails of which everything is kept."""

    title: str
    llm: LLM
    max_tiles: int = 48
    thumbnails: int = 64
    shuffle: int = 9
    pyramid: PatchPyramid = NVILA_PYRAMID

    def encode(self, video: Video) -> Encoded:
        patches = self.pyramid.num_patches
        tiles = plan_grid(video.width, video.height, self.pyramid.side, self.max_tiles).num_tiles
        whole = torch.full((1, self.thumbnails), patches)
        costs = {}
        for ratio in RATIOS:
            caps = torch.tensor([frame_caps(ratio, CHUNK, patches)] * tiles)
            chunks = video.num_frames // CHUNK
            tokens = chunks * len(token_rows(caps, self.shuffle))
            kept = chunks * int(caps.sum()) + int(whole.sum())
            costs[ratio] = Cost(
                tokens + len(token_rows(whole, self.shuffle)),
                kept * 3 * self.pyramid.patch_size**2 * 4,
            )
        return Encoded(f"{tiles} tiles of {self.pyramid.side}", costs)


QWEN2_7B = LLM("Qwen2.5-VL-7B", layers=28, kv_heads=4, head_size=128)
QWEN3_8B = LLM("Qwen3-VL-8B", layers=36, kv_heads=8, head_size=128)
QWEN3_VIDEO = {"size": {"shortest_edge": 4096, "longest_edge": 25_165_824}}

LLAVA_7B = LLM("LLaVA-OneVision-7B", layers=28, kv_heads=4, head_size=128)
SMOLVLM2_500M = LLM("SmolVLM2-500M", layers=32, kv_heads=5, head_size=64)
INTERNVL3_8B = LLM("InternVL3-8B", layers=28, kv_heads=4, head_size=128)
SMOLVLM2_VIDEO = {"max_image_size": {"longest_edge": 512}}
INTERNVL3_VIDEO = {"size": {"height": 448, "width": 448}}

VIDEOS = (Video(128, 1920, 1080), Video(256, 3840, 2160), Video(1024, 3584, 3584))
FAMILIES: tuple[Stock | Tiles, ...] = (
    Stock("Qwen2.5-VL, native", QWEN2_7B, "qwen2_5_vl", native=True),
    Stock("Qwen2.5-VL, 768 units a frame", QWEN2_7B, "qwen2_5_vl", {"max_pixels": 768 * 28**2}),
    Stock("Qwen3-VL, native", QWEN3_8B, "qwen3_vl", QWEN3_VIDEO, native=True),
    Stock("Qwen3-VL, stock", QWEN3_8B, "qwen3_vl", QWEN3_VIDEO),
    Stock("LLaVA-OneVision", LLAVA_7B, "llava_onevision", own={"num_image_tokens": 729}),
    Stock("SmolVLM2", SMOLVLM2_500M, "smolvlm", SMOLVLM2_VIDEO, own={"image_seq_len": 64}),
    Stock("InternVL3", INTERNVL3_8B, "internvl", INTERNVL3_VIDEO, own={"image_seq_length": 256}),
    Tiles("NVILA-HD-Video, 48 tiles", LLM("NVILA-8B", layers=28, kv_heads=4, head_size=128)),
)


def tables() -> str:
    """Both tables as Markdown."""
    rows = [(video, family, family.encode(video)) for video in VIDEOS for family in FAMILIES]
    tokens = (
        [str(video), family.title, encoded.frames]
        + [f"{encoded.costs[ratio].tokens:,}" for ratio in RATIOS]
        for video, family, encoded in rows
    )
    memory = (
        [str(video), family.title]
        + [_size(encoded.costs[ratio].pixel_bytes) for ratio in RATIOS]
        + [_size(encoded.costs[ratio].tokens * family.llm.bytes_per_token) for ratio in RATIOS]
        for video, family, encoded in rows
    )
    return "\n".join(
        [
            "| video | family | frames as encoded | tokens, all units | 10 % | 2 % |",
            "|---|---|---|---|---|---|",
            *_lines(tokens),
            "",
            "| video | family | pixels, all units | 10 % | 2 % | keys and values, all units | 10 % | 2 % |",
            "|---|---|---|---|---|---|---|---|",
            *_lines(memory),
            "",
        ]
    )


def written(page: str) -> str:
    """The page with these tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"the page needs the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _lines(rows: Any) -> Iterator[str]:
    return (f"| {' | '.join(cells)} |" for cells in rows)


def _size(size: int) -> str:
    """In powers of 10, as memory is sold."""
    return f"{size / 1e9:,.3g} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(written(PAGE.read_text()))
    else:
        print(tables())
