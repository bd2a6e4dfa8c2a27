"""Losses of two selectors at equal budgets, of greedily decoded gazes and of sampled ones.

    python examples/sampled_gazes.py DATA BEFORE AFTER VIDEO_MAE [--frames N] [--clips N]

For weights before and after GRPO, for example. Gazes at the first frames of clips of DATA/*/val
and prints as Markdown the loss of a VideoMAE, with the 95 % interval of the mean difference.
"""

import argparse

import torch

import autogaze
from autogaze.evaluation.quality.clips import ClipFiles, plan_clips, read_batch
from autogaze.tasks.video_mae import VideoMAETask

RATIOS = (0.02, 0.05, 0.1)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("video_mae")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--clips", type=int, default=8, help="of each kind")
    given = parser.parse_args()
    model = VideoMAETask.from_checkpoint(given.video_mae).eval()
    files = ClipFiles.of_root(given.data, "val")
    plan = plan_clips(files, per_kind=given.clips, side=224, seed=0)
    frames = read_batch(plan).frames[:, : given.frames]

    print("| decoded | share of patches | before | after | difference |")
    print("|---|---|---|---|---|")
    for temperature, name in ((0.0, "the likeliest"), (1.0, "sampled, temperature 1")):
        selectors = [
            autogaze.load(weights, temperature=temperature)
            for weights in (given.before, given.after)
        ]
        for ratio in RATIOS:
            losses = []
            for selector in selectors:
                generator = torch.Generator().manual_seed(0)
                gaze = selector.select(frames, ratio=ratio, generator=generator)
                found = model(frames.float() / 255, gaze, range(given.frames)).losses
                losses.append(found.mean(1))
            before, after = losses
            gained = after - before
            half = 1.96 * float(gained.std()) / len(gained) ** 0.5
            print(
                f"| {name} | {ratio:.0%} | {before.mean():.4f} | {after.mean():.4f} "
                f"| {gained.mean():+.4f} ± {half:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
