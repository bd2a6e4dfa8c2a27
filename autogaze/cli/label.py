"""`autogaze label`: greedy gaze labels for next-token pre-training; options in, a job out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autogaze.cli.errors import exit_codes
from autogaze.cli.options import PrintJson, device_option, dtype_option

JUDGE = "Who judges"
CLIPS = "What is labelled"
WORK = "How the work is divided"


def label(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Videos, folders of them (searched to the bottom), files of decoded clips.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The label file (.json, or .json.gz)."),
    ] = Path("gazing_labels.json"),
    judge: Annotated[
        str,
        typer.Option(
            "--metric",
            "--judge",
            metavar="canvas|FOLDER|HUB-ID",
            help="Whose loss is lowered: the canvas', or that of a VideoMAE's checkpoint.",
            rich_help_panel=JUDGE,
        ),
    ] = "canvas",
    loss_type: Annotated[
        str | None,
        typer.Option(
            help="Terms of a VideoMAE's loss, e.g. l1+dinov2_reg+siglip2.",
            show_default="what its config.json says, else l1",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    loss_weights: Annotated[
        str | None,
        typer.Option(help="A weight for each, e.g. 1+0.3+0.3.", rich_help_panel=JUDGE),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Of the patches.",
            show_default="the VideoMAE's own, else 32+64+112+224",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    device: Annotated[str, device_option("Where a VideoMAE runs", JUDGE)] = "cpu",
    dtype: Annotated[str, dtype_option("A VideoMAE's:", JUDGE)] = "float32",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Candidates that a VideoMAE reconstructs together.",
            show_default="8 on a CPU, 128 on a GPU",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    clip_len: Annotated[
        int | None,
        typer.Option(min=1, help="Frames of a clip.", show_default="16", rich_help_panel=CLIPS),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of them, this many frames apart.",
            show_default="1",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    windows: Annotated[
        Literal["first", "all"] | None,
        typer.Option(
            help="A video's first clip, or all that lie side by side in it.",
            show_default="first",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    decoder: Annotated[
        Literal["auto", "pyav", "opencv"] | None,
        typer.Option(
            help="Of videos; auto is PyAV where it is installed, else OpenCV.",
            show_default="auto",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of PATHs: a training's options of the group `dataset` (.yaml, .json), or "
            "all of its options (config.json).",
            show_default=False,
            rich_help_panel=CLIPS,
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val"],
        typer.Option(help="Which clips of --dataset.", rich_help_panel=CLIPS),
    ] = "train",
    min_ratio: Annotated[
        float, typer.Option(help="Least mean ratio of a clip.", rich_help_panel=CLIPS)
    ] = 0.02,
    max_ratio: Annotated[
        float, typer.Option(help="Largest mean ratio of a clip.", rich_help_panel=CLIPS)
    ] = 0.2,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the ratios, and of what --dataset draws if it names no seed.",
            show_default="0, or trainer.seed of a config.json",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Only part I of N, for N processes or machines that share a disk.",
            rich_help_panel=WORK,
        ),
    ] = "1/1",
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Put finished shards together.", rich_help_panel=WORK),
    ] = False,
    json: PrintJson = False,
) -> None:
    """Label clips with the patches that a greedy search chooses: what pre-training imitates."""
    with exit_codes():
        from autogaze.cli.labelling import (
            Labelling,
            MetricOptions,
            check_out,
            merge_shards,
            print_report,
        )
        from autogaze.labelling.label import GazeBudget

        if merge:
            print_report(merge_shards(out), json)
            return
        part = check_out(out, shard)
        job = Labelling.parse(
            paths=paths or [],
            metric=MetricOptions(judge, scales, loss_type, loss_weights, device, dtype, batch),
            budget=GazeBudget(min_ratio, max_ratio),
            clip_len=clip_len,
            stride=stride,
            windows=windows,
            decoder=decoder,
            dataset=dataset,
            split=split,
            seed=seed,
        )
        report, code = job.run(out, part)
        print_report(report, json)
        raise typer.Exit(code)
