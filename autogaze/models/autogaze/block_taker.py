"""The patches of a block, and which are kept: two kernels on a GPU, else PyTorch's operators.

PyTorch launches two kernels per head to take them, each head's likeliest in turn, and twenty to apply caps
and thresholds: a third of all that gazing at a frame launches.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.models.autogaze.sampling import likeliest_in_turn

Take = Callable[[Float[Tensor, "R k V"], Bool[Tensor, "R V"], Int[Tensor, "R k"]], None]
"""Writes to (R, k) the likeliest patch of each of the k heads in turn, and adds it to (R, V), those taken."""

log = logging.getLogger(__name__)


def take_in_pytorch(
    logits: Float[Tensor, "R k V"], taken: Bool[Tensor, "R V"], ids: Int[Tensor, "R k"]
) -> None:
    """As any device can."""
    torch.cat(likeliest_in_turn(logits, taken), 1, out=ids)
    taken.scatter_(1, ids, True)


def take_in_triton(
    logits: Float[Tensor, "R k V"], taken: Bool[Tensor, "R V"], ids: Int[Tensor, "R k"]
) -> None:
    """In one kernel, without copies: `taken` and `ids` must be contiguous, and patches side by side.

    Raises:
        ImportError: Triton is not installed.
    """
    from autogaze.models.autogaze import triton_kernels

    rows, heads, patches = logits.shape
    with torch.cuda.device_of(logits):  # where Triton launches is the current device, not theirs
        triton_kernels.take_in_turn[(rows,)](
            logits,
            *logits.stride()[:2],
            heads,
            patches,
            taken.view(torch.uint8),
            ids,
            BLOCK=1 << (patches - 1).bit_length(),
            enable_fp_fusion=False,  # there is nothing to fuse; Triton warns where nothing is said
        )


@dataclass(frozen=True)
class BlockRows:
    """Rows in the middle of a frame, whose tensors `Limit` writes.

    Attributes:
        ids, kept: of the block, and which of these are kept.
        going: rows that take part; then those that go on with a next block.
        left: patches that each row may still take in the frame.
        turns: blocks of the frame that each row took part in.
        predicted: the loss predicted to be left in the frame.
        unfed, valid: ids that are fed with the next frame, and which of them are.
        following: 1 to K; only read.
    """

    ids: Int[Tensor, "R K"]
    kept: Bool[Tensor, "R K"]
    going: Bool[Tensor, " R"]
    left: Int[Tensor, "R 1"]
    turns: Int[Tensor, " R"]
    predicted: Float[Tensor, " R"]
    unfed: Int[Tensor, "R K"]
    valid: Bool[Tensor, "R K"]
    following: Int[Tensor, " K"]


Limit = Callable[[BlockRows, Float[Tensor, "R K"], Float[Tensor, "R slots"]], None]
"""Applies caps and thresholds to a block of predicted losses: (rows, losses, thresholds), the latter one
for all slots of a row or one for each."""


def limit_in_pytorch(
    rows: BlockRows, losses: Float[Tensor, "R K"], thresholds: Float[Tensor, "R slots"]
) -> None:
    """As any device can."""
    K, going = losses.shape[1], rows.going[:, None]
    room = (rows.following <= rows.left) & going
    stops = (losses <= thresholds) & room
    torch.gt(room, stops, out=rows.kept)  # room, and no stop
    # The loss that is left is predicted by the slot that stops, by that behind the cap, or the last.
    ends = stops | (rows.following > rows.left.clamp(max=K - 1))
    slot = ends.view(torch.uint8).argmax(1, keepdim=True)
    torch.where(rows.going, losses.gather(1, slot)[:, 0], rows.predicted, out=rows.predicted)
    goes_on = rows.kept.all(1) & (rows.left[:, 0] > K)
    torch.where(going, rows.ids, rows.unfed, out=rows.unfed)
    # None of a row that goes on: it is fed next.
    rows.valid.copy_(torch.where(going, rows.kept > goes_on[:, None], rows.valid))
    rows.turns.add_(rows.going)
    rows.going.copy_(goes_on)
    rows.left.sub_(K)


def limit_in_triton(
    rows: BlockRows, losses: Float[Tensor, "R K"], thresholds: Float[Tensor, "R slots"]
) -> None:
    """In one kernel; all but the rows of `valid` must be contiguous.

    Raises:
        ImportError: Triton is not installed.
    """
    from autogaze.models.autogaze import triton_kernels

    (R, K), flags = losses.shape, torch.uint8
    with torch.cuda.device_of(losses):  # where Triton launches is the current device, not theirs
        triton_kernels.limit[(R,)](
            *(losses, losses.stride(0), thresholds, thresholds.stride(0)),
            *(int(thresholds.shape[1] > 1), K, rows.ids, rows.kept.view(flags)),
            *(rows.going.view(flags), rows.left, rows.turns, rows.predicted, rows.unfed),
            *(rows.valid.view(flags), rows.valid.stride(0)),
            BLOCK=1 << (K - 1).bit_length(),
            num_warps=1,
            enable_fp_fusion=False,
        )


def block_taker(device: torch.device) -> Take:
    """The fastest there is for a device."""
    if device.type != "cuda":
        return take_in_pytorch
    return take_in_pytorch if triton_failure(device) else take_in_triton


def block_limiter(device: torch.device) -> Limit:
    """The fastest there is for a device."""
    if device.type != "cuda":
        return limit_in_pytorch
    return limit_in_pytorch if triton_failure(device) else limit_in_triton


@functools.cache
def triton_failure(device: torch.device) -> str:
    """Why Triton's kernels cannot be used on a device; nothing where they can.

    They are tried out on random logits, some of which are equal, and on random losses.
    """
    failure = ""
    try:
        if not _takes_as_pytorch(device):
            failure = "it chooses other patches than PyTorch"
        elif not _limits_as_pytorch(device):
            failure = "it keeps other patches than PyTorch"
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        failure = f"Triton is not installed ({error}): pip install 'autogaze[gpu]'"
    except Exception as error:  # of a compiler, a driver, or a GPU that is too old
        failure = f"Triton cannot run it: {type(error).__name__}: {error}"
    if failure:
        log.warning("patches are sampled head by head, which takes longer: %s", failure)
    return failure


def _takes_as_pytorch(device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 40, (3, 10, 266), generator=generator).float().to(device)
    taken = (torch.rand(3, 265, generator=generator) < 0.3).to(device)
    taken[2, 5:] = True  # fewer patches than heads are left
    found: list[Any] = []
    for take in (take_in_pytorch, take_in_triton):
        parts = taken.clone(), torch.zeros(3, 10, dtype=torch.long, device=device)
        take(logits[..., :-1], *parts)
        found.append(parts)
    return all(one.equal(other) for one, other in zip(*found, strict=True))


def _limits_as_pytorch(device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    R, K = 64, 10
    found: list[BlockRows] = []
    losses, thresholds = (torch.rand(R, n, generator=generator).to(device) for n in (K, K))
    start = random_rows(R, K, generator)
    for limit in (limit_in_pytorch, limit_in_triton):
        parts = {each.name: getattr(start, each.name).clone().to(device) for each in fields(start)}
        parts["valid"] = torch.cat([parts["valid"]] * 2, 1)[:, :K]  # of longer rows
        found.append(BlockRows(**parts))
        limit(found[-1], losses, 0.1 * thresholds)
        limit(found[-1], losses, 0.1 * thresholds[:, :1])
    return all(
        getattr(found[0], each.name).equal(getattr(found[1], each.name)) for each in fields(start)
    )


def random_rows(num_rows: int, num_slots: int, generator: torch.Generator) -> BlockRows:
    """Rows in any state, on the CPU."""
    R, K = num_rows, num_slots

    def below(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=generator)

    return BlockRows(
        *(below(99, R, K), below(2, R, K).bool(), below(4, R) > 0, below(4 * K, R, 1) - K),
        *(below(5, R), torch.rand(R, generator=generator), below(99, R, K), below(2, R, K).bool()),
        torch.arange(1, K + 1),
    )
