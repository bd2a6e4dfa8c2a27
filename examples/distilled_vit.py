"""A small vision transformer distilled from EfficientNet-Lite0 on your own videos and photographs.

    python examples/distilled_vit.py FOLDER... --val FOLDER --out vit
    autogaze bench fidelity --encoder vit VIDEOS

No package carries the weights of a vision transformer, and with random ones `autogaze bench
fidelity` says little. A linear head predicts the teacher's last feature map, 7 x 7 x 1280, from
the patch tokens, another one its mean from the pooled class token. The heads are not saved; the
folder written is one that transformers reads.

Both targets are standardised per channel, so that a constant prediction has a cosine near 0. Run
again with the same options, training continues where it was saved. Needs the extra: pip install
'autogaze[efficientnet]'.
"""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTImageProcessor, ViTModel
from transformers.utils import logging

from autogaze.datasets.augmentation import Augmentation, augment
from autogaze.datasets.video_windows import find_files
from autogaze.reconstruction.efficientnet import HEAD_WIDTH, EfficientNetLite, load_efficientnet
from autogaze.utils.files import replacing
from autogaze.video.reader import Video

SIDE, CELLS = 224, 7
ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".jpg", ".jpeg", ".png", ".webp")
CHANGES = Augmentation(min_crop=0.5)
LEARNING_RATE, WARMUP = 1e-3, 0.05
SMALL = 0.75
"""Share of the schedule in which the student sees half the resolution, for a quarter of the cost."""
EVERY = 100
"""Steps between evaluations; a checkpoint is written with each."""


def read_squares(folders: Sequence[Path], count: int) -> UInt8[Tensor, "N 3 224 224"]:
    """Squares at random places: of frames spread over each video, or cut out of a photograph.

    Args:
        folders: of videos and photographs.
        count: squares per video; twice as many per photograph.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    with _bar() as bar:
        for path in bar.track(find_files(folders, ENDINGS), description="reading"):
            video = Video(path)
            is_photo = video.info.is_image
            fps = None if is_photo else count / (video.info.duration or 1)
            frames = [frame.pixels for frame in islice(video.frames(fps=fps), count)]
            for pixels in frames * (2 * count if is_photo else 1):
                size, top, left = torch.rand(3, generator=generator).tolist()
                height, width = pixels.shape[:2]
                side = round(min(height, width) * (0.4 + 0.6 * size if is_photo else 1))
                top, left = round(top * (height - side)), round(left * (width - side))
                square = torch.from_numpy(pixels[top : top + side, left : left + side])
                square = square.permute(2, 0, 1)[None].float()
                square = F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True)
                found.append(square.round().to(torch.uint8))
    if not found:
        raise SystemExit(f"no videos or photographs in {', '.join(map(str, folders))}")
    return torch.cat(found)


class Features(NamedTuple):
    """The teacher's features, or the student's predictions of them."""

    cells: Float[Tensor, "N 49 1280"]
    pooled: Float[Tensor, "N 1280"]

    def cosines(self, other: "Features") -> Float[Tensor, "two"]:
        """Mean cosine similarities of the cells' features and of the pooled ones."""
        pairs = zip(self, other, strict=True)
        return torch.stack([F.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs])

    def loss(self, wanted: "Features") -> Float[Tensor, ""]:
        """1 - cosine + smooth L1, of the cells and of the pooled features."""
        smooth = [F.smooth_l1_loss(a, b) for a, b in zip(self, wanted, strict=True)]
        return (1 - self.cosines(wanted)).sum() + torch.stack(smooth).sum()


class Teacher:
    """EfficientNet-Lite0's features, standardised with the statistics of some frames."""

    def __init__(self, network: EfficientNetLite, some: UInt8[Tensor, "N 3 S S"]) -> None:
        self.network = network
        cells, pooled = zip(*(self._raw(part) for part in batches(some, network)), strict=True)
        self.statistics = [
            (value.mean(0), value.std(0) + 1e-3)
            for value in (torch.cat(cells).flatten(0, 1), torch.cat(pooled))
        ]

    def __call__(self, rgb: Float[Tensor, "N 3 S S"]) -> Features:
        pairs = zip(self._raw(rgb), self.statistics, strict=True)
        return Features(*((value - mean) / deviation for value, (mean, deviation) in pairs))

    @torch.no_grad()
    def _raw(self, rgb: Float[Tensor, "N 3 S S"]) -> Features:
        cells = self.network(rgb)[0].float().flatten(2).mT
        return Features(cells, cells.mean(1))


class Student(nn.Module):
    """A ViT and the linear heads of its distillation loss."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            pooler_output_size=width,
        )
        self.vit = ViTModel(config)
        self.cells_head, self.pooled_head = (nn.Linear(width, HEAD_WIDTH) for _ in range(2))

    def forward(self, rgb: Float[Tensor, "N 3 S S"]) -> Features:
        seen = self.vit(2 * rgb - 1, interpolate_pos_encoding=rgb.shape[-1] != SIDE)
        grid = math.isqrt(seen.last_hidden_state.shape[1] - 1)
        patches = seen.last_hidden_state[:, 1:].mT.unflatten(2, (grid, grid))
        cells = F.adaptive_avg_pool2d(patches, CELLS).flatten(2).mT
        return Features(
            self.cells_head(cells).float(), self.pooled_head(seen.pooler_output).float()
        )


class Training:
    """The student, its optimizer and their progress."""

    def __init__(self, student: Student, teacher: Teacher, folder: Path, bf16: bool) -> None:
        self.student, self.teacher, self.folder = student, teacher, folder
        self.device = next(student.parameters()).device
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
        self.optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.05)
        self.step, self.seconds = 0, 0.0
        if (folder / "training.pt").exists():
            state = torch.load(folder / "training.pt", self.device, weights_only=True)
            student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def run(
        self, frames: UInt8[Tensor, "M 3 S S"], batch: int, steps: int, minutes: float
    ) -> Iterator[float]:
        """Train until the steps are done or the time is over; yields the share done."""
        began = time.monotonic() - self.seconds
        while (done := max(self.step / steps, self.seconds / 60 / minutes)) < 1:
            generator = torch.Generator().manual_seed(self.step)  # the same after a restart
            chosen = torch.randint(len(frames), (batch,), generator=generator)
            changed = [augment(frame[None], CHANGES, generator) for frame in frames[chosen]]
            rgb = torch.cat(changed).to(self.device) / 255
            with self.precision:
                wanted = self.teacher(rgb)
                loss = self.student(F.avg_pool2d(rgb, 2) if done < SMALL else rgb).loss(wanted)
            share = min((done + 1e-3) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * done))
            self.optimizer.param_groups[0]["lr"] = LEARNING_RATE * share
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()
            self.step, self.seconds = self.step + 1, time.monotonic() - began
            yield done

    @torch.no_grad()
    def evaluate(self, frames: UInt8[Tensor, "M 3 S S"]) -> str:
        """Cosines to the teacher."""
        with self.precision:
            found = [
                len(rgb) * self.student(rgb).cosines(self.teacher(rgb))
                for rgb in batches(frames, self.student)
            ]
        cells, pooled = (torch.stack(found).sum(0) / len(frames)).tolist()
        past = f"step {self.step}, {self.seconds / 60:.1f} minutes"
        return f"{past}: held-out cosine {cells:.3f} of cells, {pooled:.3f} of pooled features"

    def save(self) -> None:
        """Write the folder for transformers, with the training state in it."""
        state = {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}
        with replacing(self.folder / "training.pt") as temporary:
            torch.save({**state, "step": self.step, "seconds": self.seconds}, temporary)
        self.student.vit.save_pretrained(self.folder)
        processor = ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)  # 2 * rgb - 1
        processor.save_pretrained(self.folder)


def batches(frames: UInt8[Tensor, "N 3 S S"], module: nn.Module) -> Iterator[Tensor]:
    """RGB in [0, 1], where a module is."""
    device = next(module.parameters()).device
    return (part.to(device) / 255 for part in frames.split(50))


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def main(
    folders: Annotated[list[Path], typer.Argument(help="Videos and photographs to learn from.")],
    val: Annotated[list[Path], typer.Option(help="Folders for validation; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    frames: Annotated[int, typer.Option(help="Frames per video, kept in memory.")] = 5,
    steps: Annotated[int, typer.Option(help="Length of the schedule, in steps,")] = 20_000,
    minutes: Annotated[float, typer.Option(help="or in minutes, whichever ends first.")] = 25,
    batch: int = 16,
    device: str = "cpu",
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = False,
    tiny: Annotated[bool, typer.Option(help="2 layers of 64, to try it out.")] = False,
) -> None:
    """Distil EfficientNet-Lite0's features into a small vision transformer."""
    logging.disable_progress_bar()  # transformers' own would go through ours
    out.mkdir(parents=True, exist_ok=True)
    network = load_efficientnet("lite0").to(device)
    seen, kept = read_squares(folders, frames), read_squares(val, 2)
    print(f"{len(seen)} training frames, {len(kept)} for validation", flush=True)
    torch.manual_seed(0)
    student = Student(64, 2) if tiny else Student(192, 12)
    teacher = Teacher(network, seen[:: max(1, len(seen) // 400)])
    training = Training(student.to(device), teacher, out, bf16)
    with _bar() as bar:
        task = bar.add_task("training", total=1.0)
        for done in training.run(seen, batch, steps, minutes):
            bar.update(task, completed=done)
            if training.step % EVERY == 0:
                print(training.evaluate(kept), flush=True)
                training.save()
    training.save()
    print(f"{training.evaluate(kept)}; written to {out}")


if __name__ == "__main__":
    typer.run(main)
