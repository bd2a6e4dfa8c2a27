"""The steps of a frame in three kernels, where a GPU has Triton: PyTorch's operators are fifty.

Gazing at one clip is bound by how many kernels follow each other, and how many the host launches.
`new_frame_steps` takes these where they work; they are compared with PyTorch's operators first.
"""

import logging
from collections.abc import Hashable
from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.frame_steps import FrameRows, FrameSteps
from autogaze.utils.kernels import failure_of, power_of_two

TOKENS = 16
"""Tokens that a program of `begin` lays out."""

FEW_ROWS = 64
"""Rows up to which the heads' blocks are of 16, in place of 64."""

FLAGS = torch.uint8

log = logging.getLogger(__name__)


class TritonSteps(FrameSteps):
    """`FrameSteps` in kernels; all tensors of the rows must be contiguous."""

    def begin(self, rows: FrameRows, vision: Float[Tensor, "B tokens C"], capacity: int) -> None:
        from autogaze.models.autogaze import frame_triton_kernels as kernels

        if vision.stride(2) != 1:
            vision = vision.contiguous()
        num_present, num_tokens, width = vision.shape
        (R, V), num_kept, num_counts = rows.taken.shape, rows.kept.shape[1], len(rows.counts)
        blocks = -(-(self.num_slots + num_tokens) // TOKENS)
        with torch.cuda.device_of(
            vision
        ):  # where Triton launches is the current device, not theirs
            kernels.begin[R, blocks](
                *(vision, *vision.stride()[:2], num_present, num_tokens, rows.unfed),
                *(rows.valid.view(FLAGS), self.fused.embedding, rows.last, rows.caps, capacity),
                *(rows.frame_tokens, rows.frame_places, rows.ends, rows.going.view(FLAGS)),
                *(rows.left, rows.turns, rows.taken.view(FLAGS), V),
                *(rows.kept.view(FLAGS), num_kept, rows.counts, num_counts),
                NUM_SLOTS=self.num_slots,
                WIDTH=width,
                SLOTS=power_of_two(self.num_slots, 2),
                PADDED_WIDTH=power_of_two(width, 2),
                TOKENS=TOKENS,
                WIDE=power_of_two(max(V, num_kept, num_counts), 2),
                enable_fp_fusion=False,  # there is nothing to fuse; Triton warns where nothing is said
            )

    def heads(
        self, hidden: Float[Tensor, "R C"]
    ) -> tuple[Float[Tensor, "R K V"], Float[Tensor, "R K"]]:
        from autogaze.models.autogaze import frame_triton_kernels as kernels

        hidden, weights = hidden.contiguous(), self.fused.all_heads
        (R, width), outputs = hidden.shape, weights.shape[1]
        both = hidden.new_empty(R, outputs)
        # Of few rows many programs; with four warps of many some registers would be spilled.
        rows, columns, warps = (16, 32, 4) if R <= FEW_ROWS else (64, 64, 8)
        with torch.cuda.device_of(hidden):
            kernels.heads[-(-R // rows), -(-outputs // columns)](
                *(hidden, weights, both, R, outputs),
                WIDTH=width,
                ROWS=rows,
                COLUMNS=columns,
                STEP=64,
                num_warps=warps,
                num_stages=2,
                enable_fp_fusion=True,
            )
        return self._split(both)

    def block(
        self,
        rows: FrameRows,
        logits: Float[Tensor, "R K V"] | None,
        losses: Float[Tensor, "R K"],
        capacity: int,
        *,
        first: bool,
        weighted: bool = False,
    ) -> None:
        from autogaze.models.autogaze import frame_triton_kernels as kernels

        R, V = rows.taken.shape
        width = rows.tokens.shape[2]
        strides = (0, 0) if logits is None else logits.stride()[:2]
        with torch.cuda.device_of(losses):
            kernels.block[(R,)](
                *(losses if logits is None else logits, *strides, losses, losses.stride(0)),
                *(rows.log_weights, self.fused.embedding, capacity, rows.taken.view(FLAGS), V),
                *(rows.ids, rows.unfed, rows.valid.view(FLAGS), rows.chosen),
                *(rows.kept.view(FLAGS), rows.kept.shape[1], rows.last, rows.ends),
                *(rows.going.view(FLAGS), rows.turns, rows.left, rows.counts, rows.thresholds),
                *(rows.predicted, rows.tokens, rows.places, rows.positions),
                NUM_SLOTS=self.num_slots,
                WIDTH=width,
                SLOTS=power_of_two(self.num_slots, 2),
                PADDED_WIDTH=power_of_two(width, 2),
                PATCHES=power_of_two(V, 2),
                TAKES=logits is not None,
                WEIGHTED=weighted,
                SEQUENTIAL=self.sequential,
                num_warps=4,
                enable_fp_fusion=False,
            )


def new_frame_steps(
    fused: FusedDecoder, num_tokens: int, *, sequential: bool, compiled: bool
) -> FrameSteps:
    """The fastest steps for a device: Triton's on a GPU where they work, else PyTorch's."""
    usable = fused.device.type == "cuda" and fused.exact == torch.float32 and not compiled
    kind = TritonSteps if usable and not triton_failure(fused) else FrameSteps
    return kind(fused, num_tokens, sequential=sequential)


_FAILURES: dict[Hashable, str] = {}
"""What `triton_failure` has found, by sizes and device of a decoder."""


def triton_failure(fused: FusedDecoder) -> str:
    """Why Triton's kernels cannot be used for decoders of these sizes; empty where they can."""
    config = fused.config
    sizes = config.hidden_size, config.vocab_size, config.num_multi_token_pred
    key = (*sizes, fused.dtype, fused.device)
    if key not in _FAILURES:
        _FAILURES[key] = failure = failure_of(lambda: _differs(fused))
        if failure:
            log.warning("patches are taken by PyTorch's operators, which takes longer: %s", failure)
    return _FAILURES[key]


def _differs(fused: FusedDecoder) -> str:
    different = differing(fused)
    return f"it differs from PyTorch in {different}" if different else ""


@torch.no_grad()
def differing(fused: FusedDecoder, num_rows: int = 20, num_tokens: int = 21) -> str:
    """What Triton's steps compute otherwise than PyTorch's, on random rows; empty if nothing."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_rows, fused.config.hidden_size, generator=generator)
    hidden = hidden.to(fused.device, fused.exact)
    for sequential in (True, False):
        both = [
            kind(fused, num_tokens, sequential=sequential) for kind in (FrameSteps, TritonSteps)
        ]
        start = random_rows(fused, num_rows, num_tokens, generator)
        pairs = [copied(start), copied(start)]
        shape = (num_rows - 1, num_tokens, fused.config.hidden_size)
        vision = torch.randn(shape, generator=generator).to(fused.device, fused.dtype)
        for steps, rows in zip(both, pairs, strict=True):
            steps.begin(rows, vision, 99)
        if names := unequal(*pairs):
            return f"begin: {names}"
        (logits, losses), others = (steps.heads(hidden) for steps in both)
        for one, other in zip((logits, losses), others, strict=True):
            if float((one - other).abs().max()) > 1e-4 * float(one.abs().max()):
                return "heads"
        for number in range(3):
            given = None if number == 2 else logits.mul(4).round()  # some are equally likely
            for steps, rows in zip(both, pairs, strict=True):
                steps.block(rows, given, losses, 99, first=number == 0, weighted=number == 1)
            if names := unequal(*pairs):
                return f"block: {names}"
    return ""


def random_rows(
    fused: FusedDecoder, num_rows: int, num_tokens: int, generator: torch.Generator
) -> FrameRows:
    """Rows in any state, with caps of no more than all patches; the last one is not present."""
    rows, config = FrameRows.of(fused, num_rows, num_tokens), fused.config
    K, V = config.num_multi_token_pred, config.vocab_size - 1

    def below(most: int, like: Tensor) -> Tensor:
        return torch.randint(most, like.shape, generator=generator).to(like)

    rows.reset(num_rows - 1)
    rows.last[:-1].copy_(below(20, rows.last[:-1]))
    rows.valid[:-1].copy_(below(2, rows.valid[:-1]))
    rows.unfed.copy_(below(V, rows.unfed))
    rows.ids.copy_(below(V, rows.ids))
    rows.caps.copy_(below(min(4 * K, V), rows.caps) + 1)
    rows.thresholds.copy_(below(3, rows.thresholds) - 2.5)
    rows.log_weights.copy_(below(4, rows.log_weights) - 3.0)
    return rows


def copied(rows: FrameRows) -> FrameRows:
    """The same rows in tensors of their own."""
    return FrameRows(*(getattr(rows, each.name).clone() for each in fields(rows)))


def unequal(one: FrameRows, other: FrameRows) -> str:
    """Names of what differs between rows; numbers of which nothing is known are equal."""
    names = [each.name for each in fields(one)]
    return ", ".join(
        name
        for name in names
        if not torch.allclose(getattr(one, name), getattr(other, name), 0, 0, equal_nan=True)
    )
