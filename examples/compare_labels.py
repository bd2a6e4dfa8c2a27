"""Losses of two label files of the same clips under three metrics, canvas, VideoMAE and features.

    python examples/compare_labels.py DATASET LABELS OTHERS VIDEO_MAE [--clips N]

DATASET is the file given to `autogaze label --dataset`; clips of both files are drawn from its
training split. Prints the share of equal patches per frame, and mean losses with the 95 %
interval of the mean difference. Needs `autogaze[efficientnet]`.
"""

import argparse
import random

import torch

from autogaze import Gaze
from autogaze.datasets.clip import GazeLabels
from autogaze.datasets.labels import LabelFile
from autogaze.evaluation.quality.metrics import MeasuredClips, efficientnet_metric
from autogaze.labelling.label import clips_of
from autogaze.reconstruction.canvas import reconstruct
from autogaze.reconstruction.efficientnet import load_efficientnet
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.training.mixture import DatasetFile


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("labels", nargs=2)
    parser.add_argument("video_mae")
    parser.add_argument("--clips", type=int, default=60)
    given = parser.parse_args()
    model = VideoMAETask.from_checkpoint(given.video_mae).eval()
    features = efficientnet_metric(load_efficientnet("lite1"))
    pyramid = model.pyramid
    files = [LabelFile.load(path, pyramid.num_patches).clips for path in given.labels]
    shares = [
        len(set(ours) & set(theirs)) / len(ours)
        for name in files[0].keys() & files[1].keys()
        for ours, theirs in zip(files[0][name].ids, files[1][name].ids, strict=True)
    ]
    print(f"{torch.tensor(shares).mean():.1%} of the patches per frame are the same, on average\n")

    def losses(frames: torch.Tensor, labels: GazeLabels) -> list[float]:
        lengths = torch.tensor([[len(ids) for ids in labels.ids]])
        gaze = Gaze(pyramid, torch.tensor([i for ids in labels.ids for i in ids]), lengths)
        video = frames.float() / 255
        canvas = reconstruct(video, gaze)
        found = (
            model(video, gaze, range(len(labels.ids))).losses,
            canvas.losses,
            features.losses(MeasuredClips(video), gaze, canvas),
        )
        return [float(each.mean()) for each in found]

    source, _, seed = DatasetFile.load(given.dataset)
    clips = clips_of([one.to_label("train", pyramid, seed or 0) for one in source.members()])
    random.Random(0).shuffle(clips)
    rows = []
    for clip in clips[: given.clips]:
        frames = clip.read()[None]
        rows.append([losses(frames, file[clip.name]) for file in files])
    table = torch.tensor(rows)  # (clips, 2, metrics)
    print("| metric | labels | others | difference |")
    print("|---|---|---|---|")
    for number, name in enumerate(("video-mae", "canvas", "efficientnet")):
        ours, theirs = table[:, 0, number], table[:, 1, number]
        gained = ours - theirs
        half = 1.96 * float(gained.std()) / len(gained) ** 0.5
        print(
            f"| {name} | {ours.mean():.4f} | {theirs.mean():.4f} "
            f"| {gained.mean():+.4f} ± {half:.4f} |"
        )


if __name__ == "__main__":
    main()
