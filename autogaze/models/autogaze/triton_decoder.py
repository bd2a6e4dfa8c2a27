"""The gaze decoder against a cache of fixed shape by Triton's kernels: a third of PyTorch's launches.

Gazing at one clip is bound by how many kernels follow each other. `new_static_decoder` takes these where
a GPU has them; they are compared with PyTorch's operators first.
"""

import logging
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.static_decoder import StaticDecoder

FEW_TOKENS = 64
"""Tokens up to which a kernel's blocks are of 16 tokens, in place of 64."""

PROGRAMS = 264
"""Programs of attention that are wanted at least: two for each multiprocessor of an H100."""

MOST_PARTS = 8
"""Parts that attention to one row's slots is cut into at most: they are added up again."""

STEP = 64
"""Channels or slots that a kernel multiplies at once."""

log = logging.getLogger(__name__)


class TritonDecoder(StaticDecoder):
    """A `StaticDecoder` whose layers are five kernels each; they read slots, never a mask."""

    has_windows = False

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
        exact: dict[str, Any] = {"PRECISION": "tf32x3" if fused.dtype == torch.float32 else "ieee"}
        exact["enable_fp_fusion"] = True  # Triton warns where nothing is said
        normed = {"EPS": config.rms_norm_eps, "WIDTH": C}
        for index, layer in enumerate(fused.layers):
            cache, few = self.cache[index], _blocks(R * n)
            kernels.project[_grid(R * n, HD + 2 * GD, few)](
                *(x, x.stride(0), layer.qkv, rotation, positions, places, queries),
                *(cache, *cache.stride()[:2], R * n, n, self.earliest),
                **(exact | normed | few | {"QUERIES": HD, "KEYS": GD, "HEAD": D}),
            )
            # Of the last layer only each row's last token is read.
            first = n - 1 if index == len(fused.layers) - 1 else 0
            count = n - first
            rows = 16 if count <= 16 else 64
            blocks = -(-count // rows)
            parts = max(1, min(MOST_PARTS, PROGRAMS // (R * (HD // D) * blocks)))
            attended = x.new_empty(parts, R * count, HD)
            logs = x.new_empty(parts, R * count, HD // D)
            kernels.attend[R * (HD // D), blocks, parts](
                *(queries, places, cache, *cache.stride()[:2], self.capacity, n, first, count),
                *(attended, logs, parts),
                **(exact | {"HEADS": HD // D, "KV_HEADS": GD // D, "HEAD": D}),
                PADDED_HEAD=max(16, 1 << (D - 1).bit_length()),
                ROWS=rows,
                STEP=STEP,
                num_warps=4 if rows == 16 else 8,
                num_stages=2,
            )
            before, few = x, _blocks(R * count)
            if first:
                before, x = tokens[:, -1], x.new_empty(R, C)
            products = exact | few | {"OUTPUTS": C}
            kernels.add_product[_grid(R * count, C, few)](
                *(before, before.stride(0), x, C, attended, logs, parts, layer.out, R * count),
                **(products | {"WIDTH": HD, "HEAD": D, "HAS_PARTS": parts > 1}),
            )
            inner = x.new_empty(R * count, inner_width, dtype=fused.dtype)
            kernels.gate_up[_grid(R * count, inner_width, few)](
                *(x, layer.gate_up, inner, R * count),
                **(exact | normed | few | {"INNER": inner_width}),
            )
            kernels.add_product[_grid(R * count, C, few)](
                *(x, C, x, C, inner, logs, 1, layer.down, R * count),
                **(products | {"WIDTH": inner_width, "HEAD": D, "HAS_PARTS": False}),
            )
        return fused.norm(x)


def _blocks(num_tokens: int) -> dict[str, int]:
    """Sizes of a program's block: of few tokens many programs, so that they are done sooner."""
    if num_tokens <= FEW_TOKENS:
        return {"ROWS": 16, "COLUMNS": 32, "STEP": STEP}
    # With four warps some registers would be spilled.
    return {"ROWS": 64, "COLUMNS": 64, "STEP": STEP, "num_warps": 8, "num_stages": 2}


def _grid(num_tokens: int, num_outputs: int, blocks: dict[str, int]) -> tuple[int, int]:
    return -(-num_tokens // blocks["ROWS"]), -(-num_outputs // blocks["COLUMNS"])


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
        _FAILURES[key] = failure = _failure(fused)
        if failure:
            log.warning(
                "the gaze decoder runs by PyTorch's operators, which takes longer: %s", failure
            )
    return _FAILURES[key]


def _failure(fused: FusedDecoder) -> str:
    most = max(1e-3, 32 * torch.finfo(fused.dtype).eps)  # of bfloat16 a quarter: it has 8 bits
    try:
        difference = _difference(fused)
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        return f"Triton is not installed ({error}): pip install 'autogaze[gpu]'"
    except Exception as error:  # of a compiler, a driver, or a GPU that is too old
        return f"Triton cannot run it: {type(error).__name__}: {error}"
    if difference <= most:
        return ""
    return f"hidden states differ from PyTorch's by {difference:.2g}"


@torch.no_grad()
def _difference(fused: FusedDecoder, counts: Sequence[int] = (10, 80)) -> float:
    """The largest difference of hidden states from PyTorch's, as a share of the largest.

    Of two feeds of three rows, the second of them with padding.

    Args:
        counts: tokens of a row in a feed: few, and many.
    """
    exact, device = fused.exact, fused.device
    worst = 0.0
    for n in counts:
        decoders = [kind(fused, 3, 512, compiled=False) for kind in (StaticDecoder, TritonDecoder)]
        generator = torch.Generator().manual_seed(0)
        last = torch.tensor([[0], [7], [100]])
        for padded in (0, 2):
            tokens = torch.randn(3, n, fused.config.hidden_size, generator=generator)
            places = last + torch.arange(n)
            places[1, :padded] = 512
            last = last + n
            places, tokens = places.to(device), tokens.to(device, exact)
            one, other = (each.feed(tokens.clone(), places, places, 512) for each in decoders)
            worst = max(worst, float((one - other).abs().max() / one.abs().max()))
    return worst
