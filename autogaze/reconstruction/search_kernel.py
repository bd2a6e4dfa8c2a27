"""Which code searches greedily: Triton on a GPU, C on a CPU, PyTorch where neither can be had.

All choose the same patches: C and Triton the same bit for bit, and so does PyTorch on a CPU wherever
C is chosen by itself.
"""

import logging
import os
from functools import cache, lru_cache

import numpy as np
import torch

from autogaze.errors import SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import CanvasSearch, TorchCanvasSearch
from autogaze.reconstruction.native_search import (
    NativeCanvasSearch,
    SearchKernel,
    built_search,
    native_search,
)
from autogaze.utils.kernels import chosen_kernel, failure_of

SWITCH = "AUTOGAZE_SEARCH"
"""Environment variable: "triton", "native" (errors where they cannot be had), "torch" or not set."""

log = logging.getLogger(__name__)


def new_canvas_search(
    pyramid: PatchPyramid, num_clips: int = 1, device: torch.device | str = "cpu"
) -> CanvasSearch:
    """Searches on the canvases of B clips whose frames are on a device; see `search_kernel`."""
    kernel = search_kernel(pyramid, device)
    if kernel.name == "triton":
        from autogaze.reconstruction.triton_search import TritonCanvasSearch

        return TritonCanvasSearch(pyramid, num_clips, device, kernel.block)
    if kernel.library is not None:
        return NativeCanvasSearch(pyramid, num_clips, kernel.library, kernel.block)
    return TorchCanvasSearch(pyramid, num_clips, device)


def search_kernel(pyramid: PatchPyramid, device: torch.device | str = "cpu") -> SearchKernel:
    """The kernel for a pyramid and frames on a device; compiled at first use.

    On a GPU Triton's is compared with the CPU's first. Where it cannot be had, or differs, a
    warning says so once, and the search is done on the CPU.

    Raises:
        SelectorError: AUTOGAZE_SEARCH has an unknown value, or asks for a kernel that is not
            available.
    """
    choice, device = chosen_kernel(SWITCH, "triton"), torch.device(device)
    if choice == "torch":
        return SearchKernel("torch", f"{SWITCH}=torch")
    failure = ""
    if choice == "triton" or (choice is None and device.type == "cuda"):
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        failure = triton_failure(pyramid, device)
        if not failure:
            why = "compiled here, and equal to the CPU's"
            return SearchKernel("triton", why, block=native_search(pyramid).block)
        if choice == "triton":
            raise SelectorError(f"{SWITCH}=triton, but it cannot be had: {failure}")
        _warn(failure)
    if device.type in ("cpu", "cuda"):
        kernel = native_search(pyramid)
    else:
        kernel = SearchKernel("torch", f"ours is for a CPU or CUDA, not {device}")
    if choice == "native" and kernel.library is None:
        raise SelectorError(f"{SWITCH}=native, but it cannot be had: {kernel.why}")
    log.debug("greedy search: %s (%s)", kernel.name, failure or kernel.why)
    return kernel


@cache
def _warn(failure: str) -> None:
    log.warning("the greedy search runs on the CPU, not on the GPU: %s", failure)


@lru_cache(maxsize=64)
def triton_failure(pyramid: PatchPyramid, device: torch.device) -> str:
    """Why Triton's search cannot be used on a device; nothing where it can.

    It is tried out on two frames of noise.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"ours is for CUDA, not {device}"

    def trial() -> str:
        from autogaze.reconstruction.triton_search import TritonCanvasSearch

        ours = TritonCanvasSearch(pyramid, 1, device, native_search(pyramid).block)
        return "" if _equals_the_cpus(ours) else f"sums of {pyramid} are not rounded as a CPU's"

    return failure_of(trial)


def _equals_the_cpus(ours: CanvasSearch) -> bool:
    """Whether two frames of noise have the same gazes and losses as on the CPU, bit for bit.

    Against PyTorch's sums, where there is no C compiler, almost the same losses.
    """
    pyramid, noise = ours.pyramid, np.random.default_rng(0)
    shape = (1, 2, 3, pyramid.side, pyramid.side)
    frames = torch.from_numpy(noise.integers(0, 256, shape, np.uint8))
    ids = [[[None] * min(pyramid.num_patches, 64)] * 2]
    library = built_search().library
    if library is None:
        theirs: CanvasSearch = TorchCanvasSearch(pyramid)
    else:
        theirs = NativeCanvasSearch(pyramid, 1, library, native_search(pyramid).block)
    [found], [wanted] = (search.search_clips(frames, ids) for search in (ours, theirs))
    if library is not None:
        return found == wanted
    return all(
        np.allclose(one.losses, other.losses, rtol=0, atol=1e-5)
        for one, other in zip(found, wanted, strict=True)
    )
