"""The rows of `gpu_check.py` of vision encoders: dense, gazed, and together with selecting.

SigLIPs have random weights. Their targets grow with the share of dense tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from gpu_bench import Bench, LeftOutError, Row
from torch import Tensor, nn

import autogaze
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.utils.cuda_graphs import CudaGraphs
from autogaze.vision_encoders.attention import recorded_backends
from autogaze.vision_encoders.layout import AttentionType

SIGLIPS = {"SigLIP2-base/16-224": (224, 16), "SO400M/14-392": (392, 14)}
"""Side of frames and of patches."""


@dataclass(frozen=True)
class Dense:
    """A SigLIP with random weights, its input, and its time for whole frames, in ms per clip."""

    model: nn.Module
    pixels: Tensor
    pyramid: PatchPyramid
    ms: float


def dense(bench: Bench, name: str, clips: int) -> Dense:
    """The encoder of `SIGLIPS`, timed once."""
    clips, (side, patch) = bench.number(clips), SIGLIPS[name]
    if side > 224 and not (bench.on_gpu or bench.tiny):
        raise LeftOutError("takes minutes on a CPU")
    if (name, clips) not in bench.dense:
        bench.dense.clear()  # the one before is not needed again
        dtype = torch.bfloat16 if bench.on_gpu else torch.float32
        with bench.device:  # where weights are drawn in no time
            model = _siglip(side, patch, bench.tiny).eval().to(dtype)
        grid = side // patch
        scales = tuple(patch * round(grid / parts) for parts in (7, 3.5, 2, 1))
        pixels = ((bench.clips(clips, side) - 0.5) / 0.5).to(dtype)
        ms = bench.milliseconds(lambda: model(pixels.flatten(0, 1))) / clips
        bench.dense[name, clips] = Dense(model, pixels, PatchPyramid(scales, patch), ms)
    return bench.dense[name, clips]


@torch.inference_mode()
def dense_row(bench: Bench, name: str, clips: int) -> list[Row]:
    """A SigLIP of whole frames; on a GPU also as a CUDA graph, for which the host costs nothing."""
    one = dense(bench, name, clips)
    rows = [Row(f"{name}, dense, clips: {len(one.pixels)}", one.ms)]
    if bench.on_gpu:
        call = partial(one.model, one.pixels.flatten(0, 1))
        replay = CudaGraphs(bench.device).run_and_record(call)
        ms = bench.milliseconds(replay) / len(one.pixels)
        rows.append(Row(f"{rows[0].work}, graphs", ms, note="as a CUDA graph"))
    return rows


@torch.inference_mode()
def gazed_row(
    bench: Bench, name: str, clips: int, ratio: float, attention: AttentionType, graphs: bool
) -> list[Row]:
    """A gazed SigLIP; the target grows with the share of dense tokens."""
    one = dense(bench, name, clips)
    clips, frames = one.pixels.shape[:2]
    gaze = _random_gaze(one.pyramid, clips, frames, ratio).to(bench.device)
    share = int(gaze.lengths[0, 0]) / one.pyramid.grids[-1] ** 2
    gazed = autogaze.gazed(one.model, attn_type=attention, graphs=graphs)
    with recorded_backends() as backends:
        taken = bench.milliseconds(partial(gazed, one.pixels, gaze)) / clips
    work = f"{name}, {share:.0%} of dense tokens, {attention}, clips: {clips}"
    target, note = 1.15 * share * one.ms + 2 / clips, f"by {', '.join(sorted(backends))}"
    if graphs:
        work, note = f"{work}, graphs", f"{note}, as a CUDA graph"
    else:
        note = f"{note}, graphs=False: every kernel is launched by Python"
    return [Row(work, taken, target=target, note=note)]


def together_row(bench: Bench, name: str, clips: int, chosen_by: str) -> list[Row]:
    """Selecting and encoding together, at the largest published share; the target is dense encoding.

    The encoder is that of `gazed(model)`, which records small calls that come again by itself.
    """
    one = dense(bench, name, clips)
    halved = chosen_by == "learned" and bench.on_gpu  # on a CPU it takes ten times as long
    clips, dtype = len(one.pixels), bench.half if halved else torch.float32
    selector = autogaze.load(chosen_by, device=bench.device, dtype=dtype, pyramid=one.pyramid)
    frames = bench.clips(clips, one.pyramid.side)
    gazed = autogaze.gazed(one.model)
    ratio = PUBLISHED / 10 if bench.tiny else PUBLISHED

    @torch.inference_mode()
    def together() -> None:
        gazed(one.pixels, selector.select(frames, ratio=ratio))

    taken = bench.milliseconds(together) / clips
    replayed = gazed.graphs and gazed.graphs.recorder and gazed.graphs.recorder.num_replayed
    how = ", encoded as a CUDA graph" if replayed else ""
    work = f"{chosen_by} and {name} together, {ratio:.1%} of the patches, clips: {clips}"
    return [Row(work, taken, target=one.ms, note=f"{one.ms / taken:.2f} x as fast as dense{how}")]


PUBLISHED = 0.205
"""Largest of the published shares of patches, that of 1 frame per second: there least is saved."""

ATTENTION: tuple[AttentionType, ...] = ("frame_independent", "block_causal")


def _random_gaze(pyramid: PatchPyramid, clips: int, frames: int, ratio: float) -> Gaze:
    blank = torch.zeros(clips, frames, 3, pyramid.side, pyramid.side, dtype=torch.uint8)
    selector = autogaze.load("random", device="cpu", pyramid=pyramid)
    return selector.select(blank, ratio=ratio, generator=torch.Generator().manual_seed(0))


def _siglip(side: int, patch: int, tiny: bool) -> nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    width, mlp, layers, heads = (768, 3072, 12, 12) if side == 224 else (1152, 4304, 27, 16)
    if tiny:
        width, mlp, layers, heads = 32, 64, 2, 2
    config = SiglipVisionConfig(
        hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, image_size=side, patch_size=patch,
    )  # fmt: skip
    return SiglipVisionModel(config)


def encoder_works() -> dict[str, Callable[[Bench], list[Row]]]:
    """Every encoder, dense and gazed, for one clip and several; where there is a GPU also by graphs."""
    by_graphs = (False, True) if torch.cuda.is_available() else (False,)
    found: dict[str, Callable[[Bench], list[Row]]] = {}
    for name, clips in product(SIGLIPS, (1, 16)):
        found[f"{name}, dense, clips: {clips}"] = partial(dense_row, name=name, clips=clips)
        for ratio, attention, graphs in product((0.1, 0.25), ATTENTION, by_graphs):
            work = f"{name}, ratio {ratio}, {attention}, clips: {clips}" + ", graphs" * graphs
            found[work] = partial(
                gazed_row, name=name, clips=clips, ratio=ratio, attention=attention, graphs=graphs
            )
        for chosen_by in ("greedy", "learned"):
            work = f"{chosen_by} and {name} together, clips: {clips}"
            found[work] = partial(together_row, name=name, clips=clips, chosen_by=chosen_by)
    return found
