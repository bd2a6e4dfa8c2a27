"""The gaze decoder against a cache of fixed shape by Triton's kernels: a third of PyTorch's launches.

Gazing at one clip is bound by how many kernels follow each other. `new_static_decoder` takes these where
a GPU has them; they are compared with PyTorch's operators first.
"""

import logging
import math
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.static_decoder import StaticDecoder
from autogaze.utils.kernels import failure_of, power_of_two

PROGRAMS = 132
"""Programs of a kernel that are wanted at least: one for each multiprocessor of an H100."""

MOST_SPLIT = 512
"""Channels that are read at once at most, and half of them of several parts: registers hold no more."""

RESERVED = 1024
"""Bytes of shared memory that a program has for itself beside tokens and weights."""

MOST_PARTS = 8
"""Parts that attention to one row's slots is cut into at most: they are added up again."""


class Blocks(NamedTuple):
    """What one program of a kernel computes, and how.

    Attributes:
        rows: tokens.
        columns: outputs of a product; of attention unused.
        step: channels or slots that are multiplied at once.
        warps: of a program.
        stages: of its loop, which reads ahead.
        split: whether warps share the channels, each with a step of them, in place of a loop.
    """

    rows: int
    columns: int
    step: int
    warps: int
    stages: int
    split: bool = False

    @property
    def options(self) -> dict[str, int]:
        """As kernels take them."""
        sizes = {"ROWS": self.rows, "STEP": self.step}
        sizes |= {"COLUMNS": self.columns} if self.columns else {}
        return sizes | {"num_warps": self.warps, "num_stages": self.stages}


# The largest first; the first that is many programs is taken. Measured on an H100.
WIDE, NARROW = Blocks(128, 128, 64, 8, 3), Blocks(64, 64, 64, 4, 2)
MANY, FEW, FEWEST = Blocks(32, 32, 64, 4, 3), Blocks(16, 32, 64, 4, 4), Blocks(16, 32, 64, 2, 4)
SPLIT = Blocks(16, 16, 64, 4, 1, split=True)
PRODUCTS = {
    "project": (WIDE, MANY, FEWEST),
    "out": (NARROW, MANY, SPLIT._replace(warps=8)),
    "gate_up": (WIDE, MANY, FEW),
    "down": (NARROW, MANY, SPLIT),
}
# More channels at once would spill registers: a product of float32 is three.
EXACT = {name: (Blocks(64, 64, 32, 4, 3), *blocks[1:]) for name, blocks in PRODUCTS.items()}
EXACT["project"] = (*EXACT["project"][:-1], SPLIT._replace(columns=32))
ATTENTION = (Blocks(64, 0, 64, 4, 3), Blocks(16, 0, 64, 4, 3))
ALONE = Blocks(16, 0, 128, 4, 2)
"""Of attention where rows are too few to be a program for every multiprocessor."""

log = logging.getLogger(__name__)


class TritonDecoder(StaticDecoder):
    """A `StaticDecoder` whose layers are five kernels each; they read slots, never a mask."""

    has_windows = False

    def __init__(
        self, fused: FusedDecoder, num_rows: int, capacity: int, *, compiled: bool
    ) -> None:
        super().__init__(fused, num_rows, capacity, compiled=compiled)
        self.options = launch_options(fused.device)
        self.memory = shared_memory(fused.device)

    def feed(
        self,
        tokens: Float[Tensor, "R n C"],
        places: Int[Tensor, "R n"],
        positions: Int[Tensor, "R n"],
        window: int,
    ) -> Float[Tensor, "R C"]:
        """As `StaticDecoder.feed`; writes over `tokens`."""
        with torch.cuda.device_of(tokens):  # where Triton launches is the current device
            return self._feed(tokens.contiguous(), places.contiguous(), positions.contiguous())

    def _feed(
        self,
        tokens: Float[Tensor, "R n C"],
        places: Int[Tensor, "R n"],
        positions: Int[Tensor, "R n"],
    ) -> Float[Tensor, "R C"]:
        from autogaze.models.autogaze import decoder_triton_kernels as kernels

        (R, n, C), fused, config = tokens.shape, self.fused, self.fused.config
        first_layer = fused.layers[0]
        HD, GD, D = first_layer.num_queries, first_layer.num_keys, first_layer.head_dim
        inner_width = config.intermediate_size
        x = tokens.view(R * n, C)
        queries = x.new_empty(R * n, HD, dtype=fused.dtype)
        rotation = torch.view_as_real(self.rotations)
        # Three products of TF32 are as exact as one of float32, and many times as fast.
        exact = {"PRECISION": "tf32x3" if fused.dtype == torch.float32 else "ieee"}
        exact |= self.options
        heads = {"HEAD": D, "PADDED_HEAD": power_of_two(D, 16)}
        normed = {"EPS": config.rms_norm_eps, "WIDTH": C}
        for index, layer in enumerate(fused.layers):
            cache = self.cache[index]
            grid, blocks = self._blocks("project", R * n, HD + 2 * GD, C)
            kernels.project[grid](
                *(x, x.stride(0), layer.qkv, rotation, positions, places, queries),
                *(cache, *cache.stride()[:2], R * n, n, self.earliest),
                **(exact | normed | blocks | {"QUERIES": HD, "KEYS": GD, "HEAD": D}),
            )
            # Of the last layer only each row's last token is read.
            first = n - 1 if index == len(fused.layers) - 1 else 0
            count = n - first
            num_blocks, parts, blocks = attention_blocks(count, R * (HD // D))
            dtype = torch.float32 if parts > 1 else fused.dtype
            attended = x.new_empty(parts, R * count, HD, dtype=dtype)
            logs = x.new_empty(parts, R * count, HD // D)
            kernels.attend[(R * (HD // D) * parts * num_blocks,)](
                *(queries, places, cache, *cache.stride()[:2], self.capacity, n, first, count),
                *(num_blocks, attended, logs),
                **(exact | heads | blocks | {"HEADS": HD // D, "KV_HEADS": GD // D}),
                PARTS=parts,
            )
            before = x
            if first:
                before, x = tokens[:, -1], x.new_empty(R, C)
            grid, blocks = self._blocks("out", R * count, C, HD, D if parts > 1 else None)
            kernels.add_product[grid](
                *(before, before.stride(0), x, C, attended, logs, layer.out, R * count),
                **(exact | heads | blocks | {"OUTPUTS": C, "WIDTH": HD, "PARTS": parts}),
            )
            inner = x.new_empty(R * count, inner_width, dtype=fused.dtype)
            grid, blocks = self._blocks("gate_up", R * count, inner_width)
            kernels.gate_up[grid](
                *(x, layer.gate_up, inner, R * count),
                **(exact | normed | blocks | {"INNER": inner_width}),
            )
            grid, blocks = self._blocks("down", R * count, C, inner_width)
            kernels.add_product[grid](
                *(x, C, x, C, inner, logs, layer.down, R * count),
                **(exact | heads | blocks | {"OUTPUTS": C, "WIDTH": inner_width, "PARTS": 1}),
            )
        return fused.norm(x)

    def _blocks(
        self,
        name: str,
        num_tokens: int,
        num_outputs: int,
        width: int | None = None,
        chunk: int | None = None,
    ) -> tuple[tuple[int, int], dict[str, int]]:
        return product_blocks(
            name, self.fused.dtype, num_tokens, num_outputs, width, chunk, memory=self.memory
        )


def product_blocks(
    name: str,
    dtype: torch.dtype,
    num_tokens: int,
    num_outputs: int,
    width: int | None = None,
    chunk: int | None = None,
    *,
    memory: float = math.inf,
) -> tuple[tuple[int, int], dict[str, int]]:
    """A product's grid, and the sizes of its blocks: of few tokens small ones, so that they are many.

    Args:
        name: of the product, one of `PRODUCTS`.
        width: channels that are multiplied, of a product that can be split; else None.
        chunk: how many of them are a head, whose parts are put together; None for a product of no parts.
        memory: bytes of shared memory that a program can have; `NARROW` stands in for blocks of more.
    """
    for blocks in (EXACT if dtype == torch.float32 else PRODUCTS)[name]:
        if _most_memory(name, dtype, blocks) > memory:
            blocks = min(blocks, NARROW, key=partial(_most_memory, name, dtype))
        grid = -(-num_outputs // blocks.columns), -(-num_tokens // blocks.rows)
        if grid[0] * grid[1] >= PROGRAMS:
            break
    if width is None:
        return grid, blocks.options
    chunk, most = (blocks.step, MOST_SPLIT) if chunk is None else (chunk, MOST_SPLIT // 2)
    splits = power_of_two(-(-width // chunk))
    channels = splits * power_of_two(chunk)
    needed = channels * (blocks.rows * torch.float32.itemsize + blocks.columns * dtype.itemsize)
    is_split = blocks.split and channels <= most and needed + RESERVED <= memory
    return grid, blocks.options | {"SPLITS": splits if is_split else 1}


def _most_memory(name: str, dtype: torch.dtype, blocks: Blocks) -> int:
    """Bytes of tokens and weights that a program of a product reads ahead, at the most."""
    columns = blocks.columns * (2 if name == "gate_up" else 1)
    per_channel = blocks.rows * torch.float32.itemsize + columns * dtype.itemsize
    return blocks.stages * blocks.step * per_channel


def attention_blocks(num_tokens: int, num_heads: int) -> tuple[int, int, dict[str, int]]:
    """How many blocks a row's tokens are, the parts that its slots are cut into, and sizes of blocks.

    Args:
        num_tokens: of a row.
        num_heads: of all rows together.
    """
    blocks = next((each for each in ATTENTION if each.rows <= num_tokens), ATTENTION[-1])
    num_blocks, parts = -(-num_tokens // blocks.rows), 1
    if blocks.rows == ALONE.rows and num_blocks * num_heads < PROGRAMS:
        blocks = ALONE
    while parts < MOST_PARTS and num_blocks * num_heads * parts < PROGRAMS:
        parts *= 2
    return num_blocks, parts, blocks.options


def shared_memory(device: torch.device) -> float:
    """Bytes of a multiprocessor's memory that a program can have: 227 KiB of an H100, 99 of an RTX 4090."""
    if device.type != "cuda":
        return math.inf
    from triton.runtime import driver

    index = torch.cuda.current_device() if device.index is None else device.index
    return driver.active.utils.get_device_properties(index)["max_shared_mem"]


def launch_options(device: torch.device) -> dict[str, Any]:
    """Of all kernels: on GPUs that can, each is launched while the one before still runs, and waits."""
    from triton.language.extra import cuda

    options: dict[str, Any] = {"enable_fp_fusion": True}  # Triton warns where nothing is said
    follows = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    if not (follows and hasattr(cuda, "gdc_wait")):
        return options | {"FOLLOWS": False}
    return options | {"FOLLOWS": True, "launch_pdl": True}


def new_static_decoder(
    fused: FusedDecoder, num_rows: int, capacity: int, *, compiled: bool
) -> StaticDecoder:
    """The fastest decoder for a device and a precision: Triton's on a GPU where it works, else PyTorch's."""
    computed = (torch.float32, torch.float16, torch.bfloat16)
    if compiled or fused.device.type != "cuda" or fused.dtype not in computed:
        return StaticDecoder(fused, num_rows, capacity, compiled=compiled)
    kind = StaticDecoder if triton_failure(fused) else TritonDecoder
    return kind(fused, num_rows, capacity, compiled=False)


_FAILURES: dict[Hashable, str] = {}
"""What `triton_failure` has found, by sizes, precision and device of a decoder."""


def triton_failure(fused: FusedDecoder) -> str:
    """Why Triton's kernels cannot run decoders of these sizes; empty where they can."""
    config = fused.config
    sizes = config.hidden_size, config.intermediate_size, config.head_dim
    heads = config.num_attention_heads, config.num_key_value_heads
    key = (*sizes, *heads, config.rms_norm_eps, fused.dtype, fused.device)
    if key not in _FAILURES:
        _FAILURES[key] = failure = failure_of(lambda: _failure(fused))
        if failure:
            log.warning(
                "the gaze decoder runs by PyTorch's operators, which takes longer: %s", failure
            )
    return _FAILURES[key]


def _failure(fused: FusedDecoder) -> str:
    most = max(1e-3, 32 * torch.finfo(fused.dtype).eps)  # of bfloat16 a quarter: it has 8 bits
    difference = _difference(fused)
    if difference <= most:
        return ""
    return f"hidden states differ from PyTorch's by {difference:.2g}"


@torch.no_grad()
def _difference(fused: FusedDecoder, counts: Sequence[int] = (10, 80), num_rows: int = 3) -> float:
    """The largest difference of hidden states from PyTorch's, as a share of the largest.

    Of two feeds of rows, the second of which has padding.

    Args:
        counts: tokens of a row in a feed: few, and many.
    """
    exact, device = fused.exact, fused.device
    worst = 0.0
    for n in counts:
        decoders = [
            kind(fused, num_rows, 512, compiled=False) for kind in (StaticDecoder, TritonDecoder)
        ]
        generator = torch.Generator().manual_seed(0)
        last = torch.tensor([[0], [7], [100]])[torch.arange(num_rows) % 3]
        for padded in (0, 2):
            tokens = torch.randn(num_rows, n, fused.config.hidden_size, generator=generator)
            places = last + torch.arange(n)
            places[num_rows // 2, :padded] = 512
            last = last + n
            places, tokens = places.to(device), tokens.to(device, exact)
            one, other = (each.feed(tokens.clone(), places, places, 512) for each in decoders)
            worst = max(worst, float((one - other).abs().max() / one.abs().max()))
    return worst
