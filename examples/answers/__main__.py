"""Train the small model, let it answer, and report.

    PYTHONPATH=examples python -m answers train OUT
    PYTHONPATH=examples python -m answers evaluate OUT answers.jsonl
    PYTHONPATH=examples python -m answers report answers.jsonl --out report

All three go on where they were stopped, if they are run again.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import logging

import autogaze
from answers.choosing import CHOOSERS, MULTI_SCALE
from answers.drawing import draw_clip, write_clip
from answers.evaluation import RATIOS, Journal, evaluate, questions_of
from answers.model import load, make_model, save
from answers.report import write_report
from answers.summary import read_runs
from answers.training import Recipe, Training, project_linearly
from autogaze.errors import AutoGazeError

VALIDATION = (("dense", 1.0, 32), ("random", 0.2, 96))
"""Chooser, ratio and clips of the accuracies printed during training."""

FIXED = {"dense": 1.0, "blind": 0.0}
"""What has no ratio to choose -> the one it is written down with."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="Folder of the model and of the run's state.")],
    start: Annotated[Path | None, typer.Option(help="Folder of a model to start from.")] = None,
    chooser: Annotated[
        str, typer.Option(help="Of the kept units: random, dense, a selector, or greedy:scales.")
    ] = "random",
    steps: Annotated[int, typer.Option(help="Length of the schedule.")] = Recipe.steps,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = Recipe.learning_rate,
    units: Annotated[int, typer.Option(help="Kept units per step.")] = Recipe.units,
    auxiliary: Annotated[
        float, typer.Option(help="Part with the auxiliary loss.")
    ] = Recipe.auxiliary,
    until: Annotated[int | None, typer.Option(help="Stop after this step, to go on later.")] = None,
    seed: int = 0,
    device: str = "cpu",
    every: Annotated[float, typer.Option(help="Minutes between accuracies.")] = 7,
) -> None:
    """Train a model from nothing, or from another one."""
    out.mkdir(parents=True, exist_ok=True)
    recipe = replace(
        Recipe(), chooser=chooser, steps=steps, learning_rate=learning_rate, units=units, auxiliary=auxiliary, seed=seed
    )  # fmt: skip
    model = (make_model(seed) if start is None else load(start)).to(device)
    training = Training(model, recipe, out)
    validated = saved = time.monotonic()
    losses: dict[str, list[float]] = {}
    for found in training.run():
        for name, loss in found.items():
            losses.setdefault(name, []).append(loss)
        now, last = time.monotonic(), training.step in (recipe.steps, until)
        if training.step % 25 == 0 or last:
            means = ", ".join(f"{name} {sum(v) / len(v):.2f}" for name, v in sorted(losses.items()))
            spent = f"{training.seconds / 60:.1f} minutes of a processor"
            print(
                f"step {training.step}, {training.clips} clips, {spent}: loss {means}", flush=True
            )
            losses = {}
        if now - saved > 60 or last:
            training.save()
            saved = now
        if now - validated > 60 * every or last:
            print(validate(model), flush=True)
            model.train()
            validated = time.monotonic()
        if training.step == until:
            break
    save(model.eval(), out)


@app.command(name="evaluate")
def answer(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    out: Annotated[Path, typer.Argument(help="JSON lines, one per clip, chooser and ratio.")],
    chooser: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Repeatable.")] = None,
    clips: Annotated[int, typer.Option(help="Unseen clips, each with five questions.")] = 400,
    device: str = "cpu",
) -> None:
    """Ask the questions of the test clips."""
    gazed, journal = autogaze.gazed_mllm(project_linearly(load(model).to(device))), Journal(out)
    names = chooser or [*FIXED, *CHOOSERS, *MULTI_SCALE]
    settings = [(name, FIXED[name]) for name in names if name in FIXED]
    settings += [(name, value) for value in ratio or RATIOS for name in names if name not in FIXED]
    for name, value in settings:
        began = time.process_time()
        for answers in evaluate(gazed, name, value, journal.missing(name, value, clips)):
            journal.add(answers)
        right = [
            sum(a.right.values()) / len(a.right)
            for a in journal.answers
            if (a.chooser, a.ratio) == (name, value)
        ]
        spent = time.process_time() - began
        print(f"{name} {value:.0%}: {sum(right) / len(right):.1%}, {spent:.0f} s", flush=True)


@app.command()
def draw(
    out: Annotated[Path, typer.Argument(help="MP4 file to write.")],
    number: Annotated[int, typer.Option(help="Of the test clip.")] = 0,
) -> None:
    """Write a test clip, and print its questions and answers."""
    clip = draw_clip("test", number)
    write_clip(clip, out)
    for question in questions_of(clip, "test"):
        print(f"{question.text} {', '.join(question.options)}: {question.answer}")


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(help="NAME=FILE of each model's answers; the first is the main one."),
    ],
    out: Annotated[
        Path, typer.Option(help="Path without ending: .json, .md and .png are written.")
    ],
) -> None:
    """Accuracies with intervals, as JSON, Markdown and plot."""
    write_report(read_runs(runs), out)


def validate(model: Qwen3VLForConditionalGeneration) -> str:
    """Accuracies on validation clips, by kind."""
    gazed, lines = autogaze.gazed_mllm(model.eval()), []
    for name, ratio, count in VALIDATION:
        found = [
            a for part in evaluate(gazed, name, ratio, range(count), "validation") for a in part
        ]
        kinds = {kind: sum(a.right[kind] for a in found) / count for kind in found[0].right}
        means = ", ".join(f"{kind} {mean:.0%}" for kind, mean in kinds.items())
        lines.append(f"  {name} {ratio:.0%}: {means}")
    return "\n".join(lines)


if __name__ == "__main__":
    logging.disable_progress_bar()
    try:
        app()
    except AutoGazeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
