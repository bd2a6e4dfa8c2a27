"""A tiny training: NTP, then GRPO, on procedural clips under the canvas loss.

    OMP_NUM_THREADS=1 python examples/tiny_run.py --seeds 0 1 2 --out docs/tiny-run.png

Trains as `docs/training.md` says, in minutes per seed on one CPU core, plots losses and rewards
and prints them as Markdown. Finished trainings in the folder are not repeated.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, ScalarFormatter

from autogaze.clips import frame_caps
from autogaze.datasets.clip import collate
from autogaze.labelling.search import CanvasSearcher
from autogaze.rendering.plot_style import GUIDE, INK, SERIES, caption, clean, make_panels, save
from autogaze.trainer import Trainer
from autogaze.training.factory import build_trainer
from autogaze.training.loader import StepContext
from autogaze.training.logging import read_metrics

NAME = "procedural_canvas_reconstruction_ar_gaze_{}"
RATIOS = (0.015, 0.03, 0.058, 0.1, 0.2, 0.4)
SHOWN = 0.1
"""The ratio of the plotted losses, and of GRPO's rollouts."""
REFERENCES = (0.2, 0.4)
"""Ratios of random gazes; NTP is to reach their losses with half as many patches."""
COMMON = ["batch_size=16", "num_workers=0", "val_clips=32", "val_pictures=2", "resume=true"]
NTP = [*COMMON, "max_steps=100", "val_nsteps=20", "log_nsteps=2"]
# A constant temperature: rewards would rise by themselves while it falls.
GRPO = [*COMMON, "max_steps=30", "val_nsteps=10", "log_nsteps=1"]
GRPO += ["temp_schedule_args.schedule=constant", "temp_schedule_args.start=1"]
COLOURS = {"own": SERIES[0], "shuffled": SERIES[2], "random": GUIDE, "greedy": SERIES[1]}
STYLES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dash-dotted"}
"""Lines of seeds."""

Entries = list[dict[str, float]]


@dataclass(frozen=True)
class Run:
    """Results of one seed.

    Attributes:
        ntp, grpo: lines of both trainings' `metrics.jsonl`.
        shares: share of all patches per frame, at each of RATIOS.
        greedy: mean losses of the greedy search on the validation clips, at each of RATIOS.
        rewards: mean rewards of sampled gazes on the validation clips, before and after GRPO.
    """

    seed: int
    ntp: Entries
    grpo: Entries
    shares: tuple[float, ...]
    greedy: tuple[float, ...]
    rewards: tuple[float, float]


def train(kind: str, folder: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "autogaze.train", "--config-name", NAME.format(kind)]
    names = [f"exp_folder={folder.parent}", f"exp_name={folder.name}"]
    command += [f"trainer.{option}" for option in (*names, *options)]
    if kind == "grpo":
        command.append("algorithm.policy=as_released")  # as docs/experiments.md measured it
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


def validation_trainer(grpo: Path, weights: Path) -> Trainer:
    """A trainer with the GRPO run's options that only validates these weights."""
    config = json.loads((grpo / "config.json").read_text())
    config["trainer"] |= {"val_only": True, "resume": False, "gaze_weights": str(weights)}
    return build_trainer(config)


@torch.no_grad()
def sampled_reward(trainer: Trainer) -> float:
    """Mean reward of groups sampled at the validation clips, the same draws for all weights."""
    clips = [trainer.data.val[number] for number in range(trainer.options.val_clips)]
    rollouts = trainer.objective.rollouts(collate(clips), StepContext(0, 0, training=False))
    return float(rollouts.reward.mean())


def greedy_losses(trainer: Trainer) -> tuple[float, ...]:
    """Mean loss of the greedy search on the validation clips, at each of RATIOS."""
    searcher = CanvasSearcher(trainer.objective.model.pyramid)
    clips = [trainer.data.val[number].frames for number in range(trainer.options.val_clips)]
    V = searcher.pyramid.num_patches
    return tuple(
        float(
            np.mean([loss[-1] for frames in clips for loss in searcher.label(frames, caps).losses])
        )
        for caps in (frame_caps(ratio, len(clips[0]), V) for ratio in RATIOS)
    )


def run(seed: int, folder: Path) -> Run:
    ntp, grpo = folder / f"ntp-{seed}", folder / f"grpo-{seed}"
    ratios = ",".join(f"{ratio:g}" for ratio in RATIOS)
    train("ntp", ntp, [*NTP, f"val_ratios=[{ratios}]", f"seed={seed}"])
    start = ntp / "checkpoint_latest_gaze"
    train("grpo", grpo, [*GRPO, f"val_ratios=[{SHOWN:g}]", f"seed={seed}", f"gaze_weights={start}"])
    before = validation_trainer(grpo, start)
    after = validation_trainer(grpo, grpo / "checkpoint_latest_gaze")
    V = before.objective.model.pyramid.num_patches
    return Run(
        seed,
        read_metrics(ntp / "metrics.jsonl"),
        read_metrics(grpo / "metrics.jsonl"),
        tuple(frame_caps(ratio, 1, V)[0] / V for ratio in RATIOS),
        greedy_losses(before),
        (sampled_reward(before), sampled_reward(after)),
    )


def series(entries: Entries, name: str) -> tuple[list[float], list[float]]:
    """The steps and the values of a metric."""
    found = [(entry["step"], entry[name]) for entry in entries if name in entry]
    return [step for step, _ in found], [value for _, value in found]


def share_for(loss: float, shares: tuple[float, ...], losses: list[float]) -> float:
    """The least share of patches with which losses fall to `loss`, between those measured."""
    logs = np.log(np.minimum.accumulate(losses))
    if np.log(loss) < logs[-1]:
        return float("nan")  # not even with the largest share
    return float(np.interp(-np.log(loss), -logs, shares))


def needed(found: Run, reference: float) -> tuple[list[float], list[float]]:
    """Steps of NTP, and the share that reaches the loss of random gazes with a ratio."""
    steps, shares = [], []
    for entry in found.ntp:
        if "val/loss" in entry:
            own = [entry[f"val/loss@{ratio:g}"] for ratio in RATIOS]
            goal = entry[f"val/random_loss@{reference:g}"]
            steps.append(entry["step"])
            shares.append(share_for(goal, found.shares, own))
    return steps, shares


def scale_logarithmically(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers at the ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter("")


def draw_losses(axes: Axes, runs: list[Run], stage: str, title: str) -> None:
    for found, style in zip(runs, STYLES, strict=False):
        entries = getattr(found, stage)
        names = {"own": "", "shuffled": "shuffled_", "random": "random_"}
        for label, prefix in names.items():
            points = series(entries, f"val/{prefix}loss@{SHOWN:g}")
            # Own and shuffled losses may coincide: one is seen through the other.
            looks = {"linewidth": 5, "alpha": 0.3} if label == "own" else {"marker": "."}
            axes.plot(*points, style, color=COLOURS[label], label=label, **looks)
        greedy = found.greedy[RATIOS.index(SHOWN)]
        looks = {"color": COLOURS["greedy"], "linestyle": style, "linewidth": 1}
        axes.axhline(greedy, label="greedy search", **looks)
    scale_logarithmically(axes)
    share = runs[0].shares[RATIOS.index(SHOWN)]
    finish(axes, f"{title}: canvas loss at {share:.1%} of the patches")


def draw_shares(axes: Axes, runs: list[Run]) -> None:
    for reference, colour in zip(REFERENCES, (SERIES[3], SERIES[5]), strict=True):
        share = runs[0].shares[RATIOS.index(reference)]
        for found, style in zip(runs, STYLES, strict=False):
            steps, shares = needed(found, reference)
            label = f"as random with {share:.1%}"
            axes.plot(
                steps, [100 * part for part in shares], style, color=colour, marker=".", label=label
            )
        looks = {"color": colour, "linewidth": 0.8, "alpha": 0.6}
        axes.axhline(50 * share, label=f"half of {share:.1%}", **looks)
    scale_logarithmically(axes)
    finish(axes, "NTP: patches it needs for random's loss, %")


def draw_rewards(axes: Axes, runs: list[Run]) -> None:
    for found, style in zip(runs, STYLES, strict=False):
        steps, rewards = series(found.grpo, "reward")
        axes.plot(
            steps, rewards, style, color=COLOURS["own"], alpha=0.6, label="training clips, all new"
        )
        ends = [0, steps[-1]]
        axes.plot(
            ends, found.rewards, style, color=INK, marker="o", label="the same validation clips"
        )
    finish(axes, "GRPO: mean reward at temperature 1")


def finish(axes: Axes, title: str) -> None:
    """Title, names of the lines (once each, of all seeds), and the common looks."""
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    axes.set_xlabel("step", fontsize=8.5)
    axes.tick_params(labelsize=7.5)
    labels = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(labels.values(), labels.keys(), fontsize=7, frameon=False)
    clean(axes)


def draw(runs: list[Run], target: Path) -> None:
    figure, ((first, second), (third, fourth)) = make_panels(2, 2, (9.4, 6.8))
    draw_losses(first, runs, "ntp", "NTP")
    draw_shares(second, runs)
    draw_rewards(third, runs)
    draw_losses(fourth, runs, "grpo", "GRPO")
    seeds = ", ".join(
        f"{kind}: seed {found.seed}" for found, kind in zip(runs, STYLES.values(), strict=False)
    )
    words = "Own: gazes at the clip itself; shuffled: the same gazes, each at another clip."
    caption(figure, [f"Procedural clips of 8 frames of 112 pixels. {words} Lines: {seeds}."])
    save(figure, target)


def report(runs: list[Run]) -> None:
    """Two tables in Markdown: losses after NTP, and the results of both trainings."""
    print("| seed | share of patches | random | shuffled | NTP | greedy |\n" + "|---" * 6 + "|")
    for found in runs:
        last = [entry for entry in found.ntp if "val/loss" in entry][-1]
        for ratio, share, greedy in zip(RATIOS, found.shares, found.greedy, strict=True):
            cells = [last[f"val/{name}loss@{ratio:g}"] for name in ("random_", "shuffled_", "")]
            losses = " | ".join(f"{loss:.4f}" for loss in (*cells, greedy))
            print(f"| {found.seed} | {share:.1%} | {losses} |")
    print(
        "\n| seed | NTP as random with | needs | reward before GRPO | after | loss before | after |"
    )
    print("|---" * 7 + "|")
    for found in runs:
        goals = [found.shares[RATIOS.index(reference)] for reference in REFERENCES]
        shares = [needed(found, reference)[1][-1] for reference in REFERENCES]
        losses = series(found.grpo, f"val/loss@{SHOWN:g}")[1]
        cells = [", ".join(f"{share:.1%}" for share in part) for part in (goals, shares)]
        cells += [f"{value:.4f}" for value in (*found.rewards, losses[0], losses[-1])]
        print(f"| {found.seed} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train NTP, then GRPO, on procedural clips.")
    parser.add_argument("--folder", type=Path, default=Path("exps/tiny_run"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("tiny-run.png"))
    options = parser.parse_args()
    if len(options.seeds) > len(STYLES):
        parser.error(f"--seeds: at most {len(STYLES)} can be told apart")
    runs = [run(seed, options.folder) for seed in options.seeds]
    draw(runs, options.out)
    report(runs)


if __name__ == "__main__":
    main()
