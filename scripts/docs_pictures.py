"""The pictures of docs/concepts.md, of a video that the package draws itself.

python scripts/docs_pictures.py            # draws docs/concepts-*.png anew
python scripts/docs_pictures.py --out DIR
"""

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

import autogaze
from autogaze.cli.app import app
from autogaze.datasets.procedural import ProceduralSettings, draw_clip
from autogaze.reconstruction.canvas import reconstruct
from autogaze.rendering.painter import dim, scale_colours
from autogaze.rendering.plot_style import GUIDE, INK, MUTED
from autogaze.utils.files import replacing
from autogaze.utils.seeding import seeded
from autogaze.video import VideoWriter, plan_tiles

ROOT = Path(__file__).resolve().parents[1]
PYRAMID = autogaze.PatchPyramid()
SHOWN = (0, 1, 4, 8, 12, 15)
"""Frames in the pictures of a gaze."""
LOSS = 0.006


def clip() -> UInt8[Tensor, "1 T 3 S S"]:
    """Shapes that move over a background that stands still."""
    settings = ProceduralSettings(max_camera=0.0)
    frames = draw_clip(settings, seeded("pictures", 32))
    return (frames * 255).round().to(torch.uint8)[None]


def pixels(frame: Tensor) -> UInt8[np.ndarray, "S S 3"]:
    """A frame (3, S, S) as a picture."""
    frame = frame if frame.dtype == torch.uint8 else (frame * 255).round().to(torch.uint8)
    return frame.permute(1, 2, 0).numpy()


def colours() -> Float[np.ndarray, "scales 3"]:
    """The colour of every scale, as in overlays and sheets."""
    return scale_colours(len(PYRAMID.scales)) / 255


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    """A white figure of `width` x `height` inches with (rows, columns) bare axes."""
    drawn = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        bare(one)
    return drawn, axes


def pyramid(frame: Tensor) -> Figure:
    """One frame at every scale, cut into patches, with the ids of some of them."""
    drawn, axes = figure(10, 3.0, 1, len(PYRAMID.scales))
    for level, (scale, grid) in enumerate(zip(PYRAMID.scales, PYRAMID.grids, strict=True)):
        one, side = axes[0, level], PYRAMID.side
        seen = Image.fromarray(pixels(frame)).resize((scale, scale), Image.Resampling.BILINEAR)
        one.imshow(seen, extent=(0, side, side, 0), interpolation="nearest")
        for edge in np.linspace(0, side, grid + 1):
            one.plot([edge, edge], [0, side], color="white", linewidth=0.8)
            one.plot([0, side], [edge, edge], color="white", linewidth=0.8)
        row, column = grid // 2, grid // 2
        patch = PYRAMID.id(scale, row, column)
        left, top, right, bottom = PYRAMID.rectangle(patch)
        one.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, lw=2.5, ec=INK)
        )
        first, last = PYRAMID.offsets[level], PYRAMID.offsets[level] + grid * grid - 1
        one.set_title(
            f"scale {scale}: {grid} x {grid} patches", fontsize=10, color=INK, weight="bold"
        )
        one.set_xlabel(f"ids {first} to {last}; outlined: {patch}", fontsize=9, color=MUTED)
    return drawn


def gaze_rows(frames: Tensor, gaze: autogaze.Gaze) -> Figure:
    """Frames, the patches chosen of them, and the canvas that these leave."""
    seen = reconstruct(frames, gaze)
    rows = ("video", "chosen\npatches", "canvas")
    drawn, axes = figure(10, 5.5, len(rows), len(SHOWN))
    for column, index in enumerate(SHOWN):
        frame = pixels(frames[0, index])
        for row, picture in enumerate((frame, dim(frame), pixels(seen.frames[0, index]))):
            axes[row, column].imshow(picture)
        for patch in gaze.frame(0, index).tolist():
            left, top, right, bottom = PYRAMID.rectangle(patch)
            colour = colours()[int(PYRAMID.levels[patch])]
            box = Rectangle((left, top), right - left, bottom - top, fill=False, lw=1, ec=colour)
            axes[1, column].add_patch(box)
        axes[0, column].set_title(f"frame {index}", fontsize=10, color=INK)
        axes[1, column].set_xlabel(
            f"{int(gaze.lengths[0, index])} of {PYRAMID.num_patches}", fontsize=9, color=MUTED
        )
        axes[2, column].set_xlabel(
            f"loss {float(seen.losses[0, index]):.3f}", fontsize=9, color=MUTED
        )
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(name, fontsize=10, color=INK)
    return drawn


def tiles() -> Figure:
    """A wide video: chunks of frames in time, tiles in space."""
    grid = plan_tiles(854, 480, PYRAMID.side)
    drawn, axes = figure(10, 2.4, 1, 1)
    one, shift = axes[0, 0], 26
    for chunk in range(3):
        x0, y0 = chunk * 1250, 0
        for depth in range(3, -1, -1):
            box = (x0 + depth * shift, y0 - depth * shift)
            one.add_patch(Rectangle(box, 854, 480, fc="#eef1f6", ec=GUIDE, lw=0.8))
        width, height = 854 / grid.columns, 480 / grid.rows
        for row in range(grid.rows):
            for column in range(grid.columns):
                place = (x0 + column * width, y0 + row * height)
                one.add_patch(Rectangle(place, width, height, fill=False, ec="#3b5bdb", lw=1.6))
                number = row * grid.columns + column
                one.text(
                    place[0] + width / 2,
                    place[1] + height / 2,
                    f"clip {number}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=INK,
                )
        one.text(
            x0 + 427,
            570,
            f"chunk {chunk}: frames {chunk * 16} to {chunk * 16 + 15}",
            ha="center",
            fontsize=10,
            color=INK,
        )
    one.set_xlim(-30, 3480)
    one.set_ylim(620, -110)
    one.set_aspect("equal")
    return drawn


def packed(gaze: autogaze.Gaze) -> Figure:
    """The ragged gaze of a clip beside the dense tokens, and the packed sequence."""
    drawn = Figure(figsize=(10, 3.6), layout="constrained", facecolor="white")
    one = drawn.subplots()
    dense = PYRAMID.cells[-1]
    for index in range(gaze.num_frames):
        one.barh(index, dense, color="#eef1f6", height=0.8)
        left = 0
        levels = PYRAMID.levels[gaze.frame(0, index).cpu()].bincount(minlength=len(PYRAMID.scales))
        for level, count in enumerate(levels.tolist()):
            label = f"scale {PYRAMID.scales[level]}" if index == 0 else None
            one.barh(index, count, left=left, color=colours()[level], height=0.8, label=label)
            left += count
    one.invert_yaxis()
    one.set_ylabel("frame", color=INK)
    one.set_xlabel(
        f"tokens: {gaze.num_patches} chosen in all, {dense * gaze.num_frames} dense (grey)",
        color=INK,
    )
    one.set_yticks(range(0, gaze.num_frames, 5))
    one.spines[["top", "right"]].set_visible(False)
    one.legend(loc="lower right", fontsize=9, frameon=False)
    return drawn


def sheet() -> Image.Image:
    """The contact sheet of docs/start.md."""
    settings = ProceduralSettings(clip_len=48, max_camera=0)
    frames = draw_clip(settings, torch.Generator().manual_seed(7))
    with tempfile.TemporaryDirectory() as folder:
        video, picture = Path(folder) / "video.mp4", Path(folder) / "sheet.png"
        with VideoWriter(video, fps=12, width=PYRAMID.side, height=PYRAMID.side) as writer:
            for frame in frames:
                writer.write((frame * 255).byte().permute(1, 2, 0).numpy())
        command = ["gaze", str(video), "--ratio", "0.1", "--sheet", str(picture)]
        app(command, standalone_mode=False)
        drawn = Image.open(picture).convert("RGB")
    return drawn.resize((1120, round(1120 * drawn.height / drawn.width)), Image.Resampling.LANCZOS)


def rendered(drawn: Figure) -> Image.Image:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=110)
    return Image.open(buffer).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    """Write a small PNG: 256 colours are enough for drawings and for frames of this size."""
    with replacing(path) as temporary:
        few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(temporary, format="PNG", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    folder = parser.parse_args().out
    frames = clip()
    gaze = autogaze.load("greedy", device="cpu").select(frames, loss=LOSS)
    save(rendered(pyramid(frames[0, 0])), folder / "concepts-pyramid.png")
    save(rendered(gaze_rows(frames, gaze)), folder / "concepts-gaze.png")
    save(rendered(tiles()), folder / "concepts-tiles.png")
    save(rendered(packed(gaze)), folder / "concepts-tokens.png")
    save(sheet(), folder / "start-sheet.png")
    lengths = gaze.lengths[0].tolist()
    print(f"greedy, loss {LOSS}: {gaze.num_patches} patches, {lengths}, ratio {gaze.ratio:.3f}")


if __name__ == "__main__":
    main()
