"""Is choosing cheaper than what it saves? The device tests, then times on a GPU beside their targets.

    python scripts/gpu_check.py --out FOLDER        # make gpu-check

Needs PyTorch, transformers and NumPy beside this checkout, no network and no PyAV, and about four
minutes of a GPU. Clips are 16 x 224 x 224, a texture that moves, already on the device; encoders
have random weights. Writes `gpu-check.json` and `gpu-check.md`. On a CPU what takes minutes is left
out; `--tiny` runs every row with tiny models, to see that the script works.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autogaze
from autogaze.datasets.clip import ClipBatch, LabelRequest
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.batches import with_labels
from autogaze.labelling.label import GazeBudget
from autogaze.reconstruction.search_kernel import search_kernel
from autogaze.selectors.learned import Learned
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.training.algorithms import NTP
from autogaze.training.config import AlgorithmOptions
from autogaze.training.loader import StepContext
from autogaze.training.objective import Objective
from autogaze.training.rollouts import BatchCounts
from autogaze.vision_encoders.attention import recorded_backends
from autogaze.vision_encoders.layout import AttentionType
from autogaze.weights import SELECTOR

CHECKOUT = Path(__file__).resolve().parent.parent
FRAMES, REPEATS = 16, 5
SECONDS = 240
"""After these no further row is begun."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: what was timed, and with how many clips at once.
        ms: milliseconds per clip, the median of `REPEATS` calls after a warm-up; None where it
            was left out.
        before: the same with version 0.1.0 on an H100, where it was measured.
        target: the most that it should take on an H100, in ms per clip.
        note: what else there is to know, or why it was left out.
    """

    work: str
    ms: float | None
    before: str = ""
    target: float | None = None
    note: str = ""

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
        self.half = torch.float16 if self.on_gpu else torch.bfloat16

    def clips(self, number: int, side: int = 224) -> Tensor:
        """(B, T, 3, S, S) in [0, 1]: noise that drifts by a pixel per frame."""
        frames = 2 if self.tiny else FRAMES
        noise = torch.rand(number, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        wide = F.interpolate(noise, size=(side + frames,) * 2, mode="bilinear")
        moved = [wide[:, :, t : t + side, t : t + side] for t in range(frames)]
        return torch.stack(moved, 1).to(self.device)

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
        call()
        times = []
        for _ in range(1 if self.tiny else REPEATS):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
        return sorted(times)[len(times) // 2] * 1000

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


LEARNED = (
    # clips, ratio, early stopping, half precision, ms with 0.1.0, target
    (1, 0.1, False, False, "122", 8.0),
    (1, 0.1, True, False, "115", 10.0),
    (1, 0.75, False, False, "968", 40.0),
    (8, 0.1, False, False, "16.4", None),
    (64, 0.1, False, False, "4.1", None),
    (64, 0.1, True, True, "31", 0.8),
    (256, 0.1, False, True, "3.2", 0.5),
)


def learned_row(
    bench: Bench,
    clips: int,
    ratio: float,
    stops: bool,
    half: bool,
    before: str,
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
    return [Row(work, taken / number, before, target, f"{share:.1%} of the patches")]


def _learned(bench: Bench, dtype: torch.dtype) -> Learned:
    return Learned.from_pretrained(SELECTOR, dtype=torch.float32).to(bench.device, dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def precision_row(bench: Bench) -> list[Row]:
    """How many patches half precision chooses as float32 does."""
    frames = bench.clips(bench.number(16, most_on_cpu=16))
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

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
    return [
        Row(f"labels of a training, {what}", labels),
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


@torch.inference_mode()
def encoder_rows(bench: Bench, name: str, side: int, patch: int, clips: int) -> list[Row]:
    """A SigLIP, dense and gazed; the target grows with the share of dense tokens."""
    clips = bench.number(clips)
    if side > 224 and not (bench.on_gpu or bench.tiny):
        raise LeftOutError("takes minutes on a CPU")
    dtype = torch.bfloat16 if bench.on_gpu else torch.float32
    dense = _siglip(side, patch, bench.tiny).eval().to(bench.device, dtype)
    grid = side // patch
    pyramid = PatchPyramid(tuple(patch * round(grid / parts) for parts in (7, 3.5, 2, 1)), patch)
    pixels = ((bench.clips(clips, side) - 0.5) / 0.5).to(dtype)
    whole = bench.milliseconds(lambda: dense(pixels.flatten(0, 1))) / clips
    rows = [Row(f"{name}, dense, clips: {clips}", whole)]
    for ratio in (0.1, 0.25):
        gaze = _random_gaze(pyramid, clips, pixels.shape[1], ratio).to(bench.device)
        share = int(gaze.lengths[0, 0]) / grid**2
        for attention in ATTENTION:
            gazed = autogaze.gazed(dense, attn_type=attention)
            with recorded_backends() as backends:
                taken = bench.milliseconds(partial(gazed, pixels, gaze)) / clips
            work = f"{name}, {share:.0%} of dense tokens, {attention}, clips: {clips}"
            target, note = 1.15 * share * whole + 2 / clips, f"by {', '.join(sorted(backends))}"
            rows.append(Row(work, taken, target=target, note=note))
    return rows


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


def measured_rows(bench: Bench) -> Iterator[Row]:
    """All rows, one after another; those that are left out say why."""
    works: list[tuple[str, Callable[[], list[Row]]]] = [
        *((f"learned, clips: {case[0]}", partial(learned_row, bench, *case)) for case in LEARNED),
        ("half precision", partial(precision_row, bench)),
        *((f"greedy, clips: {n}", partial(greedy_row, bench, n, t)) for n, t in GREEDY),
        ("training, clips: 64", partial(training_rows, bench, 64)),
        *(
            (f"{name}, clips: {clips}", partial(encoder_rows, bench, name, *size, clips))
            for name, size in SIGLIPS.items()
            for clips in (1, 16)
        ),
    ]
    for work, measure in works:
        try:
            yield from measure()
        except LeftOutError as reason:
            yield Row(work, None, note=f"left out: {reason}")
        except torch.OutOfMemoryError:
            yield Row(work, None, note="left out: out of memory")


GREEDY = ((1, None), (64, 0.5))
"""Clips at once, and the target in ms per clip."""

SIGLIPS = {"SigLIP2-base/16-224": (224, 16), "SO400M/14-392": (392, 14)}
"""Side of frames and of patches."""


def device_test_files() -> list[str]:
    """Files with tests that need a GPU, from the checkout on."""
    return sorted(
        str(path.relative_to(CHECKOUT))
        for path in CHECKOUT.glob("tests/**/test_*.py")
        if "pytest.mark.cuda\n" in path.read_text() or "pytest.mark.cuda," in path.read_text()
    )


def device_tests() -> str:
    """Run the tests that need a GPU; the last line of their report."""
    if importlib.util.find_spec("pytest") is None:
        return "pytest is not installed, so the device tests did not run"
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-m", "cuda"]
    command += device_test_files()
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:], file=sys.stderr)
    return done.stdout.strip().rpartition("\n")[2]


def markdown(hardware: str, tests: str, rows: list[Row]) -> str:
    """The report as a page."""
    lines = [
        f"{hardware}. Device tests: {tests}\n",
        "| work | ms per clip | target | met | 0.1.0 | |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        ms, target = ("" if value is None else f"{value:.3g}" for value in (row.ms, row.target))
        lines.append(f"| {row.work} | {ms} | {target} | {row.met} | {row.before} | {row.note} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the reports")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="begin no row after these")
    parser.add_argument("--tiny", action="store_true", help="tiny models: only to see that it runs")
    parser.add_argument("--no-tests", action="store_true", help="leave the device tests out")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.tiny, options.seconds
    )
    name = (
        torch.cuda.get_device_name()
        if bench.on_gpu
        else f"a CPU, {torch.get_num_threads()} threads"
    )
    hardware = f"{name}, torch {torch.__version__}"
    tests = "left out" if options.no_tests else device_tests()
    rows = []
    for row in measured_rows(bench):
        rows.append(row if bench.on_gpu else replace(row, target=None))
        print(f"{row.work}: {'' if row.ms is None else f'{row.ms:.3g} ms'} {row.note}", flush=True)
    page = markdown(hardware, tests, rows)
    report = {
        "hardware": hardware,
        "tests": tests,
        "rows": [{**asdict(row), "met": row.met} for row in rows],
    }
    (options.out / "gpu-check.json").write_text(json.dumps(report, indent=1))
    (options.out / "gpu-check.md").write_text(page)
    print(f"\n{page}")


if __name__ == "__main__":
    main()
