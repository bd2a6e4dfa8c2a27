"""The rows of `gpu_check.py`: what is timed, beside its targets and what version 0.1.0 took.

Clips are 16 x 224 x 224, a texture that moves, already on the device; encoders have random weights.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autogaze
from autogaze.datasets.clip import ClipBatch, LabelRequest
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.batches import with_labels
from autogaze.labelling.label import GazeBudget
from autogaze.models.autogaze.native.attention import attention_kernel
from autogaze.models.autogaze.triton_decoder import new_static_decoder
from autogaze.models.autogaze.triton_steps import new_frame_steps
from autogaze.reconstruction.search_kernel import search_kernel
from autogaze.selectors.learned import Learned
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.training.algorithms import NTP
from autogaze.training.config import AlgorithmOptions, TrainerOptions
from autogaze.training.loader import StepContext
from autogaze.training.objective import Objective
from autogaze.training.rollouts import BatchCounts
from autogaze.training.step import make_optimizer
from autogaze.utils.cuda_graphs import CudaGraphs
from autogaze.vision_encoders.attention import recorded_backends
from autogaze.vision_encoders.layout import AttentionType
from autogaze.weights import SELECTOR

FRAMES, REPEATS, LONG = 16, 5, 20.0
"""Of a clip; of a measurement, and the seconds after which none is begun any more."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: what was timed, and with how many clips at once.
        ms: milliseconds per clip, the median of up to `REPEATS` calls after a warm-up; None where
            it was left out.
        before: the same with version 0.1.0 on an H100, where it was measured.
        target: the most that it should take on an H100, in ms per clip.
        note: what else there is to know, by what it was computed, or why it was left out.
        failed: whether it should have been measured and was not.
        published: the same with the published code on an H100, where it was measured.
    """

    work: str
    ms: float | None
    before: str = ""
    target: float | None = None
    note: str = ""
    failed: bool = False
    published: str = ""

    @property
    def met(self) -> str:
        """Whether the target is met, in a word."""
        if self.ms is None or self.target is None:
            return ""
        return "yes" if self.ms <= self.target else "no"


class LeftOutError(Exception):
    """A row that is not measured here, and why."""


class Bench:
    """Clips, models and the clock of one run."""

    def __init__(self, device: torch.device, tiny: bool, seconds: float) -> None:
        self.device, self.tiny = device, tiny
        self.ends = time.monotonic() + seconds
        self.on_gpu = device.type == "cuda"
        self.dense: dict[tuple[str, int], Any] = {}  # see `dense`
        self.half = torch.float16 if self.on_gpu else torch.bfloat16

    def clips(self, number: int, side: int = 224) -> Tensor:
        """(B, T, 3, S, S) in [0, 1]: noise that drifts by a pixel per frame."""
        frames = 2 if self.tiny else FRAMES
        noise = torch.rand(number, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        noise = noise.to(self.device)
        wide = F.interpolate(noise, size=(side + frames,) * 2, mode="bilinear")
        moved = [wide[:, :, t : t + side, t : t + side] for t in range(frames)]
        return torch.stack(moved, 1)

    def number(self, clips: int, most_on_cpu: int = 1) -> int:
        """Clips at once: as many as asked for, fewer in a tiny run.

        Raises:
            LeftOutError: more than a CPU computes in seconds, or the time is over.
        """
        if time.monotonic() > self.ends:
            raise LeftOutError("the time was over")
        if self.tiny:
            return min(clips, 2)
        if not self.on_gpu and clips > most_on_cpu:
            raise LeftOutError("takes minutes on a CPU")
        return clips

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Median time of a call, after one that is not counted."""
        started = time.monotonic()
        call()
        times: list[float] = []
        while not times or (len(times) < REPEATS and time.monotonic() < started + LONG):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
            if self.tiny:
                break
        return sorted(times)[len(times) // 2] * 1000

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


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
    clips, dtype = len(one.pixels), bench.half if chosen_by == "learned" else torch.float32
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


def failed_row(name: str, why: str) -> Row:
    """The row of a work that should have been measured."""
    return Row(
        name, None, note="failed: " + " ".join(why.split()).replace("|", "/")[:400], failed=True
    )


GREEDY = ((1, None), (64, 0.5))
"""Clips at once, and the target in ms per clip."""

SIGLIPS = {"SigLIP2-base/16-224": (224, 16), "SO400M/14-392": (392, 14)}
"""Side of frames and of patches."""
