"""What a short list costs a label search, and what labels of the judge gain over the canvas'.

    python examples/shortlist.py DATA [--clips N]

Searches the first frames of clips of DATA/*/train with the package's judge, asking it about the N
patches that promise most or about all, and with the canvas. Prints Markdown: the judge's mean
loss after the search, the canvas', and seconds a clip. Needs `autogaze[efficientnet]`.
"""

import argparse
import time
from collections import defaultdict

import torch
from torch import Tensor

from autogaze import Gaze
from autogaze.evaluation.quality.clips import ClipFiles, plan_clips, read_batch
from autogaze.labelling.metrics import CANVAS, JudgeChoice
from autogaze.reconstruction.canvas import canvas_losses

FRAMES, PATCHES = 2, 6
SHORTLISTS = (1, 2, 4, 8, 16, None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--clips", type=int, default=2, help="of each kind")
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    choices = {"canvas": JudgeChoice(CANVAS)}
    for number in SHORTLISTS:
        name = "judge, all 265" if number is None else f"judge, {number} that promise most"
        choices[name] = JudgeChoice("learned", dtype="bfloat16", shortlist=number)
    searchers = {name: choice.build(FRAMES)[0] for name, choice in choices.items()}
    _, judge = JudgeChoice("learned").build(FRAMES)  # the losses reported are in float32

    files = ClipFiles.of_root(given.data, "train")
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for clip in plan_clips(files, per_kind=given.clips, side=224, seed=given.seed):
        frames = read_batch([clip]).frames[:, :FRAMES]
        for name, searcher in searchers.items():
            began = time.perf_counter()
            labels = searcher.label(frames[0], [PATCHES] * FRAMES)
            seconds = time.perf_counter() - began
            ids = torch.tensor(labels.ids).flatten()
            gaze = Gaze(searcher.pyramid, ids, torch.tensor([[PATCHES] * FRAMES]))
            with torch.inference_mode():
                loss = judge(frames.float() / 255, gaze, range(FRAMES)).losses.mean()
            painted = canvas_losses(frames, gaze).mean()
            rows[name].append(torch.tensor([float(loss), float(painted), seconds]))
    print(f"| search of {PATCHES} patches in each of {FRAMES} frames | judge | canvas | seconds |")
    print("|---|---|---|---|")
    for name, found in rows.items():
        loss, painted, seconds = torch.stack(found).mean(0).tolist()
        print(f"| {name} | {loss:.4f} | {painted:.4f} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
