"""`autogaze bench quality`: options in, tables and files out."""

from typing import Annotated, Literal

import typer

from autogaze.cli.errors import exit_codes
from autogaze.cli.options import FILES, HOW, WHAT, Device, JsonFile, plot_option

CLIPS = "What to judge on"


def quality(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="ROOT",
            help="Videos and photographs in ROOT/*/val.",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Another folder than val of --data.", rich_help_panel=CLIPS)
    ] = "val",
    static: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER|FILE",
            help="Instead of --data: videos, or files of decoded clips; repeat for more.",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    photos: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER|FILE",
            help="And photographs, which are filmed by a moving camera and composed; repeat for more.",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    clips: Annotated[
        int, typer.Option(min=2, help="Clips of 16 frames of each kind.", rich_help_panel=CLIPS)
    ] = 24,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER|HUB-ID",
            help="Learned weights, and what to call them; repeat for more.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    selectors: Annotated[
        list[str] | None,
        typer.Option(
            "--selector",
            metavar="NAME",
            help="Any of `autogaze selectors` but codec; repeat for more. random and centre are "
            "always there, and everybody's gazes of other clips (shuffled); with greedy also what it "
            "takes most often in other clips (habit).",
            show_default="learned (if there are no --weights), greedy, run-length, change",
            rich_help_panel=WHAT,
        ),
    ] = None,
    ratios: Annotated[
        list[float] | None,
        typer.Option(
            "--ratio",
            help="Share of all patches, in (0, 1]; repeat for more.",
            show_default="0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5",
            rich_help_panel=WHAT,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="learned|FOLDER|HUB-ID",
            help="A VideoMAE that judges too: the package's own, or a checkpoint.",
            show_default="none",
            rich_help_panel=WHAT,
        ),
    ] = None,
    efficientnet: Annotated[
        bool,
        typer.Option(
            help="EfficientNet-Lite1 judges too; needs its weights.", rich_help_panel=WHAT
        ),
    ] = True,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With whom the others are compared, clip by clip.",
            show_default="the first weights, else the first selector",
            rich_help_panel=WHAT,
        ),
    ] = None,
    stop_losses: Annotated[
        list[float] | None,
        typer.Option(
            "--stop-loss",
            help="Also: let weights stop at this predicted loss (greedy at the measured one), and find the actual one; repeat for more.",
            show_default="none",
            rich_help_panel=WHAT,
        ),
    ] = None,
    stop_judge: Annotated[
        Literal["canvas", "video-mae"],
        typer.Option(help="The judge that the weights were trained with.", rich_help_panel=WHAT),
    ] = "canvas",
    every: Annotated[
        int,
        typer.Option(
            min=1,
            help="Networks judge every N-th frame, beginning at another one in every clip.",
            show_default="1: all",
            rich_help_panel=HOW,
        ),
    ] = 1,
    seed: Annotated[
        int, typer.Option(help="Of clips, random gazes and intervals.", rich_help_panel=HOW)
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Clips at a time.", rich_help_panel=HOW)] = 4,
    device: Device = "cpu",
    by_kind: Annotated[
        bool, typer.Option("--by-kind", help="Print tables of every kind.", rich_help_panel=HOW)
    ] = False,
    json: JsonFile = None,
    markdown: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="All tables (.md).", rich_help_panel=FILES),
    ] = None,
    plot: Annotated[str | None, plot_option("Loss against share of patches")] = None,
    stop_plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Predicted against actual loss (.png); needs matplotlib.",
            rich_help_panel=FILES,
        ),
    ] = None,
) -> None:
    """Measure what is lost at what share of patches, by every selector and four controls.

    Clips are real videos (mostly static cameras), photographs filmed by a moving camera, and
    compositions. Judges are the canvas, a VideoMAE, and a network that no selector was trained on.
    """
    with exit_codes():
        from autogaze.cli.report import results_console
        from autogaze.evaluation.quality.job import QualityJob, run_job

        job = QualityJob.parse(
            data=data,
            split=split,
            static=static,
            photos=photos,
            clips=clips,
            weights=weights,
            selectors=selectors,
            ratios=ratios,
            judge=judge,
            efficientnet=efficientnet,
            reference=reference,
            stop_losses=stop_losses,
            stop_judge=stop_judge,
            every=every,
            seed=seed,
            batch=batch,
            device=device,
            json=json,
            markdown=markdown,
            plot=plot,
            stop_plot=stop_plot,
        )
        run_job(job, results_console(), by_kind=by_kind)
