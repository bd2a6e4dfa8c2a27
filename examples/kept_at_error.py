"""Tables of docs/quality.md: ratios at given losses, and losses of all selectors at given ratios.

    python examples/kept_at_error.py [VIDEO...]

Prints Markdown. Every loss is the measured canvas loss.
"""

import sys
from pathlib import Path

import torch

import autogaze
from autogaze.evaluation.videos import sample_video

LOSSES = (0.01, 0.02, 0.03, 0.05)
RATIOS = (0.02, 0.05, 0.1, 0.2)


SAMPLES = ("bikes.mp4", "bigbuckbunny.mp4")


def main() -> None:
    videos = [Path(name) for name in sys.argv[1:] or map(sample_video, SAMPLES)]
    print("| video | " + " | ".join(f"loss {loss:g}" for loss in LOSSES) + " |")
    print("|---|" + "---|" * len(LOSSES))
    for video in videos:
        shares = [autogaze.gaze_video(video, loss=loss).ratio for loss in LOSSES]
        print(f"| {video.name} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
    print()
    print("| video | selector | " + " | ".join(f"cap {ratio:.0%}" for ratio in RATIOS) + " |")
    print("|---|---|" + "---|" * len(RATIOS))
    for video in videos:
        for name in autogaze.list_selectors():
            cells = []
            for ratio in RATIOS:
                gaze = autogaze.gaze_video(
                    video,
                    selector=name,
                    ratio=ratio,
                    generator=torch.Generator().manual_seed(0),
                )
                cells.append(f"{float(gaze.losses.mean()):.4f} ({gaze.ratio:.1%})")
            print(f"| {video.name} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
