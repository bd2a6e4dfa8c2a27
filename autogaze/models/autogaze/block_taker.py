"""The patches of a block, each head's likeliest in turn: one kernel on a GPU, else PyTorch's.

PyTorch launches two kernels per head, a fifth of all that gazing at a frame launches.
"""

import functools
import logging
from collections.abc import Callable
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


def block_taker(device: torch.device) -> Take:
    """The fastest there is for a device."""
    if device.type != "cuda":
        return take_in_pytorch
    return take_in_pytorch if triton_failure(device) else take_in_triton


@functools.cache
def triton_failure(device: torch.device) -> str:
    """Why Triton's kernel cannot be used on a device; nothing where it can.

    It is tried out on random logits, some of which are equal.
    """
    failure = ""
    try:
        if not _equals_pytorch(device):
            failure = "it chooses other patches than PyTorch"
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        failure = f"Triton is not installed ({error}): pip install 'autogaze[gpu]'"
    except Exception as error:  # of a compiler, a driver, or a GPU that is too old
        failure = f"Triton cannot run it: {type(error).__name__}: {error}"
    if failure:
        log.warning("patches are sampled head by head, which takes longer: %s", failure)
    return failure


def _equals_pytorch(device: torch.device) -> bool:
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
