"""The rows of `gpu_check.py`: what is timed, beside its targets and what version 0.1.0 took.

Clips are 16 x 224 x 224, a texture that moves, already on the device; encoders have random weights.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_bench import Bench, LeftOutError, Row, failed_row
from gpu_encoder_rows import encoder_works

import autogaze
from autogaze.datasets.clip import ClipBatch, LabelRequest
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import GazeBudget, with_labels
from autogaze.models.autogaze.kv_cache import attention_kernel
from autogaze.models.autogaze.triton_decoder import new_static_decoder
from autogaze.models.autogaze.triton_steps import new_frame_steps
from autogaze.reconstruction.search_kernel import search_kernel
from autogaze.selectors.learned import Learned
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.training.algorithms import NTP
from autogaze.training.config import AlgorithmOptions, TrainerOptions
from autogaze.training.loader import StepContext
from autogaze.training.rollouts import BatchCounts
from autogaze.training.step import Objective, make_optimizer
from autogaze.weights import SELECTOR

LEARNED: tuple[dict[str, Any], ...] = tuple(
    dict(
        zip(("clips", "ratio", "stops", "half", "before", "published", "target"), case, strict=True)
    )
    for case in (
        # clips, ratio, early stopping, half precision, ms with 0.1.0 and the published code, target
        (1, 0.1, False, False, "122", "650", 8.0),
        (1, 0.1, True, False, "115", "", 10.0),
        (1, 0.75, False, False, "968", "3130", 40.0),
        (8, 0.1, False, False, "16.4", "73", None),
        (64, 0.1, False, False, "4.1", "10.4", None),
        (64, 0.1, True, True, "31", "", 0.8),
        (256, 0.1, False, True, "3.2", "", 0.5),
    )
)


def learned_row(
    bench: Bench,
    clips: int,
    ratio: float,
    stops: bool,
    half: bool,
    before: str,
    published: str,
    target: float | None,
) -> list[Row]:
    """The learned selector with a cap, or with early stopping that takes about as much."""
    number, ratio = bench.number(clips), ratio / 5 if bench.tiny else ratio
    selector, frames = _learned(bench, bench.half if half else torch.float32), bench.clips(number)
    options = {"ratio": ratio}
    if stops:  # at the predicted loss that the cap leads to, on average
        predicted = selector.select(frames[:1], ratio=ratio).predicted_losses
        options = {"loss": ratio if predicted is None else float(predicted.mean())}
    taken = bench.milliseconds(lambda: selector.select(frames, **options))
    share = selector.select(frames, **options).ratio
    limit = "early stopping" if stops else f"ratio {ratio}"
    work = f"learned, {_name(selector.model.dtype)}, {limit}, clips: {number}"
    note = f"{share:.1%} of the patches, {_path_of(selector)}"
    return [Row(work, taken / number, before, target, note, published=published)]


@torch.no_grad()  # as it ran: our attention on a CPU has no gradients
def _path_of(selector: Learned) -> str:
    """How the learned selector ran."""
    states = selector.model.gazing_model.static_states
    if states.recorder is None:
        decoder = selector.model.gazing_model.gaze_decoder
        weight, head_dim = decoder.lm_head.weight.detach(), decoder.config.head_dim
        return f"attention: {attention_kernel(weight, head_dim).name}"
    graphs = f"{states.recorder.num_recorded} graphs, replayed {states.recorder.num_replayed} times"
    fused = selector.model.gazing_model.gaze_decoder.fused()
    decoder = new_static_decoder(fused, 1, 1, compiled=states.compiled)
    steps = new_frame_steps(fused, 1, sequential=True, compiled=states.compiled)
    return f"{graphs}, {type(decoder).__name__}, {type(steps).__name__}"


def _learned(bench: Bench, dtype: torch.dtype) -> Learned:
    return Learned.from_pretrained(SELECTOR, dtype=torch.float32).to(bench.device, dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def precision_row(bench: Bench) -> list[Row]:
    """How many patches half precision chooses as float32 does."""
    frames = bench.clips(bench.number(16 if bench.on_gpu else 1))
    dtypes, ratio = (torch.float32, bench.half), 0.02 if bench.tiny else 0.1
    one, other = (_learned(bench, dtype).select(frames, ratio=ratio).mask for dtype in dtypes)
    patches = float((one & other).sum() / one.sum())
    whole = float((one == other).all(dim=-1).double().mean())
    note = f"{patches:.1%} of the patches, {whole:.1%} of the frames; wanted: 99 % of the patches"
    return [Row(f"{_name(bench.half)} chooses as float32 does", None, note=note)]


def greedy_row(bench: Bench, clips: int, target: float | None) -> list[Row]:
    """The exact greedy search."""
    number = bench.number(clips)
    selector, frames = autogaze.load("greedy", device=bench.device), bench.clips(number)
    taken = bench.milliseconds(lambda: selector.select(frames, ratio=0.1))
    kernel = search_kernel(selector.pyramid, bench.device)
    note = f"{kernel.name}: {kernel.why}"
    return [Row(f"greedy, ratio 0.1, clips: {number}", taken / number, "27 to 55", target, note)]


def greedy_4k_row(bench: Bench) -> list[Row]:
    """The greedy search of a chunk of 3840 x 2160, whose tiles come from the host's memory as bytes."""
    number = bench.number(180)
    some = (bench.clips(min(number, 6)) * 255).round().to(torch.uint8).cpu()
    tiles = some.repeat(-(-number // len(some)), 1, 1, 1, 1)[:number]
    tiles = tiles.pin_memory() if bench.on_gpu else tiles
    selector = autogaze.load("greedy", device=bench.device)
    taken = bench.milliseconds(
        lambda: selector.select(tiles.to(bench.device, non_blocking=True), ratio=0.1)
    )
    work = f"greedy, 4K, {number} tiles, per frame"
    note = "without decoding and cutting tiles; a frame of 30 per second has 33 ms"
    return [Row(work, taken / tiles.shape[1], "", 1000 / 30, note)]


def training_rows(bench: Bench, clips: int) -> list[Row]:
    """A step of NTP with labels of the greedy search, and these labels alone; clips are decoded already.

    Clips lie in the host's memory, as they come from a loader.
    """
    clips, frames = bench.number(clips), 2 if bench.tiny else 8
    model = _learned(bench, torch.float32).model
    objective = Objective(
        model, CanvasReconstruction(model.pyramid), NTP(AlgorithmOptions()), bench.device
    )
    batch = _unlabelled(bench, model.pyramid, clips, frames)
    optimizer = make_optimizer([{"params": list(model.parameters())}], TrainerOptions(lr=1e-5))

    def step() -> None:
        rollouts = objective.rollouts(batch, StepContext(seed=0, step=0))
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.on_gpu):
            losses = objective.values(rollouts, BatchCounts.of([rollouts])).losses
        sum(losses.values()).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    labels = bench.milliseconds(lambda: with_labels(batch.to(bench.device))) / clips
    taken = bench.milliseconds(step) / clips
    what = f"clips: {clips} of {frames} frames"
    note = f"{1000 / taken:,.0f} clips/s; 1,000 wanted"
    kernel = search_kernel(model.pyramid, bench.device)
    return [
        Row(f"labels of a training, {what}", labels, note=f"{kernel.name}: {kernel.why}"),
        Row(f"training, NTP, {what}", taken, "8.7 (115 clips/s)", 1.0, note),
    ]


def _unlabelled(bench: Bench, pyramid: PatchPyramid, clips: int, frames: int) -> ClipBatch:
    """A batch as a loader makes it for a GPU."""
    pictures = bench.clips(clips, pyramid.side)[:, :frames]
    budget, generator = GazeBudget(), torch.Generator().manual_seed(0)
    requests = tuple(
        LabelRequest(pyramid, tuple(budget.draw(frames, pyramid.num_patches, generator)))
        for _ in range(clips)
    )
    names = tuple(map(str, range(clips)))
    host = (pictures * 255).round().to(torch.uint8).cpu()
    batch = ClipBatch(host, names, indices=tuple(range(clips)), pending=requests)
    return batch.pin_memory() if bench.on_gpu else batch


def works() -> dict[str, Callable[[Bench], list[Row]]]:
    """All that is measured, by name: each a function that gives some rows."""
    return {
        **{
            "learned, "
            + "half precision, " * case["half"]
            + ("early stopping" if case["stops"] else f"ratio {case['ratio']}")
            + f", clips: {case['clips']}": partial(learned_row, **case)
            for case in LEARNED
        },
        "half precision": precision_row,
        **{f"greedy, clips: {n}": partial(greedy_row, clips=n, target=t) for n, t in GREEDY},
        "greedy, 4K": greedy_4k_row,
        "training, clips: 64": partial(training_rows, clips=64),
        **encoder_works(),
    }


def measured_rows(bench: Bench, names: list[str] | None = None) -> Iterator[tuple[str, list[Row]]]:
    """The rows of every work of these names; those that are left out or fail say why."""
    for name, measure in works().items():
        if names is not None and name not in names:
            continue
        try:
            rows = measure(bench)
        except LeftOutError as reason:
            rows = [Row(name, None, note=f"left out: {reason}")]
        except torch.OutOfMemoryError:
            rows = [Row(name, None, note="left out: out of memory")]
        except Exception as error:  # whatever it is, the other rows are to be measured
            rows = [failed_row(name, f"{type(error).__name__}: {error}")]
        yield name, rows if bench.on_gpu else [replace(row, target=None) for row in rows]
        bench.wait()  # raises where a kernel has broken the context: another process goes on


GREEDY = ((1, None), (64, 0.5))
"""Clips at once, and the target in ms per clip."""
