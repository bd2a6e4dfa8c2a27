"""`autogaze bench quality`: loss against share of patches, by every selector and the controls."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from autogaze.cli.bench import (
    Device,
    Dtype,
    JsonFile,
    check_files,
    file_option,
    method_option,
    repeated,
    subject_option,
)
from autogaze.cli.command import DECODER_HELP, Command, Renamed
from autogaze.errors import SelectorError, VideoError
from autogaze.video.decoders import DecoderName, check_decoder

if TYPE_CHECKING:
    from autogaze.evaluation.quality.clips import ClipFiles

clip_option = partial(typer.Option, rich_help_panel="Clips to measure on")


@dataclass(frozen=True)
class BenchQuality(Command):
    """Measure loss against share of patches, by every selector and four controls.

    Clips are real videos (mostly static cameras), photographs filmed by a moving camera, and
    compositions. Metrics are the canvas, a VideoMAE, and features of a network that no selector
    was trained with.
    """

    data: Annotated[
        str | None, clip_option(metavar="ROOT", help="Videos and photographs in ROOT/*/val.")
    ] = None
    split: Annotated[str, clip_option(help="Another folder than val of --data.")] = "val"
    static: Annotated[
        list[str],
        clip_option(
            metavar="FOLDER|FILE",
            help="Instead of --data: videos, or files of decoded clips; repeat for more.",
            show_default=False,
        ),
    ] = repeated()
    photos: Annotated[
        list[str],
        clip_option(
            metavar="FOLDER|FILE",
            help="And photographs, to be filmed by a moving camera and composed; repeat for more.",
            show_default=False,
        ),
    ] = repeated()
    clips: Annotated[int, clip_option(min=2, help="Clips of 16 frames of each kind.")] = 24
    weights: Annotated[
        list[str],
        subject_option(
            metavar="NAME=FOLDER|HUB-ID",
            help="Learned weights, and their name in figures; repeat for more.",
            show_default=False,
        ),
    ] = repeated()
    selectors: Annotated[
        list[str],
        subject_option(
            "--selector",
            metavar="NAME",
            help="Any of `autogaze selectors` but codec; repeat for more. random and centre are "
            "always there, and gazes at other clips (shuffled); with greedy also its content-blind "
            "prior from other clips.",
            show_default="learned (without --weights), greedy, run-length, change",
        ),
    ] = repeated()
    ratios: Annotated[
        list[float],
        subject_option("--ratio", help="Share of all patches, in (0, 1]; repeat for more."),
    ] = repeated(0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
    metric: Annotated[
        str | None,
        subject_option(
            metavar="FOLDER|HUB-ID", help="A VideoMAE, to be a metric too.", show_default="none"
        ),
        Renamed("--judge", "--metric"),
    ] = None
    features: Annotated[
        bool,
        subject_option(help="Features of EfficientNet-Lite1 are a metric too; needs its weights."),
        Renamed("--efficientnet/--no-efficientnet", "--features/--no-features"),
    ] = True
    reference: Annotated[
        str | None,
        subject_option(
            metavar="NAME",
            help="With which the others are compared, clip by clip.",
            show_default="the first weights, else the first selector",
        ),
    ] = None
    stop_losses: Annotated[
        list[float],
        subject_option(
            "--stop-loss",
            help="Also: let weights stop at this predicted loss (greedy at the measured one), and "
            "measure the actual one; repeat for more.",
            show_default="none",
        ),
    ] = repeated()
    stop_metric: Annotated[
        Literal["canvas", "video-mae"],
        subject_option(help="The metric that the weights were trained with."),
        Renamed("--stop-judge", "--stop-metric"),
    ] = "canvas"
    every: Annotated[
        int,
        method_option(
            min=1, help="Networks measure every N-th frame, from another one on in every clip."
        ),
    ] = 1
    seed: Annotated[int, method_option(help="Of clips, random gazes and intervals.")] = 0
    batch: Annotated[int, method_option(min=1, help="Clips at a time.")] = 4
    decoder: Annotated[
        DecoderName, clip_option(help=f"{DECODER_HELP} Photographs are read by Pillow.")
    ] = "auto"
    device: Device = "auto"
    dtype: Dtype = "float32"
    by_kind: Annotated[bool, method_option("--by-kind", help="Print tables of every kind.")] = False
    json: JsonFile = None
    markdown: Annotated[str | None, file_option(metavar="FILE", help="All tables (.md).")] = None
    plot: Annotated[
        str | None,
        file_option(metavar="FILE", help="Loss against share of patches (.png); needs matplotlib."),
    ] = None
    stop_plot: Annotated[
        str | None,
        file_option(metavar="FILE", help="Predicted against actual loss (.png); needs matplotlib."),
    ] = None

    def __post_init__(self) -> None:
        from autogaze.clips import check_ratio
        from autogaze.evaluation.quality.clips import CLIP_LEN
        from autogaze.evaluation.quality.metrics import check_metrics
        from autogaze.evaluation.quality.selectors import check_selectors
        from autogaze.rendering.plot_style import check_plot
        from autogaze.selectors.registry import LEARNED
        from autogaze.utils.device import DeviceOptions
        from autogaze.utils.files import check_output

        names = self._names()
        check_selectors(self.selectors)
        if self.reference is not None and self.reference not in names:
            raise SelectorError(
                f"--reference {self.reference!r} is not compared; there are {', '.join(names)}"
            )
        for ratio in self.ratios:
            check_ratio(ratio)
        check_metrics(self.metric, self.features)
        if CLIP_LEN % self.every:
            raise SelectorError(
                f"--every must divide the {CLIP_LEN} frames of a clip, got {self.every}"
            )
        self._check_thresholds()
        check_files(self.json, self.plot)
        if self.stop_plot is not None:
            check_plot(self.stop_plot, "--stop-plot")
        if self.markdown is not None:
            check_output(self.markdown, ".md", "--markdown")
        DeviceOptions.parse(self.device, self.dtype)
        check_decoder(self.decoder)
        if self.dtype != "float32" and not self.weights and LEARNED not in self._selectors():
            raise SelectorError(
                f"--dtype {self.dtype}: none of the selectors has a model, they compute in float32; leave "
                f"it out, or compare --weights or --selector {LEARNED}"
            )
        self._files()

    def _check_thresholds(self) -> None:
        from autogaze.clips import check_loss
        from autogaze.selectors.registry import LEARNED

        if not self.stop_losses:
            if self.stop_plot is not None:
                raise SelectorError("--stop-plot needs thresholds: give --stop-loss")
            return
        for threshold in self.stop_losses:
            check_loss(threshold)
            if threshold == 0:
                raise SelectorError("--stop-loss must be above 0: actual losses are divided by it")
        if not self.weights and LEARNED not in self._selectors():
            raise SelectorError(
                "--stop-loss is about losses that weights predict (greedy stands beside them): give "
                f"--weights NAME=PATH, or --selector {LEARNED}"
            )
        if self.stop_metric == "video-mae" and self.metric is None:
            raise SelectorError(
                "--stop-metric video-mae needs that metric: give --metric FOLDER, or --stop-metric "
                "canvas for weights that were trained with the canvas"
            )

    def _selectors(self) -> list[str]:
        """Names of selectors, the learned one first, as weights stand before the others."""
        from autogaze.selectors.registry import LEARNED

        usual = ["greedy", "run-length", "change"]
        names = self.selectors or (usual if self.weights else [LEARNED, *usual])
        return sorted(dict.fromkeys(names), key=lambda name: name != LEARNED)

    def _names(self) -> list[str]:
        """All that is compared, under its name in figures."""
        from autogaze.evaluation.quality.selectors import parse_weights
        from autogaze.evaluation.selectors import with_controls

        return with_controls([*parse_weights(self.weights), *self._selectors()])

    def _files(self) -> "ClipFiles":
        from autogaze.evaluation.quality.clips import ClipFiles

        if self.data is not None and (self.static or self.photos):
            raise VideoError("give either --data ROOT or --static and --photos, not both")
        if self.data is not None:
            return ClipFiles.of_root(self.data, self.split)
        if not (self.static or self.photos):
            raise VideoError(
                "no clips to measure on: give --data ROOT, whose folders */val hold videos and "
                "pictures, or --static FOLDER of videos and --photos FOLDER of pictures"
            )
        return ClipFiles.of_paths(self.static, self.photos)

    def run(self) -> None:
        from autogaze.cli.report import results_console
        from autogaze.evaluation.quality.plots import plot_curves, plot_thresholds
        from autogaze.evaluation.quality.report import bench_quality
        from autogaze.evaluation.quality.selectors import parse_weights
        from autogaze.evaluation.quality.tables import print_report, to_markdown
        from autogaze.utils.device import DeviceOptions
        from autogaze.utils.files import all_or_none, write_json, write_text

        report = bench_quality(
            self._files(),
            self._selectors(),
            parse_weights(self.weights),
            self.ratios,
            clips=self.clips,
            reference=self.reference or self._names()[0],
            video_mae=self.metric,
            features=self.features,
            thresholds=sorted(set(self.stop_losses)),
            threshold_metric=self.stop_metric,
            every=self.every,
            seed=self.seed,
            batch=self.batch,
            decoder=self.decoder,
            device_options=DeviceOptions.parse(self.device, self.dtype),
        )
        print_report(report, results_console(), by_kind=self.by_kind)
        with all_or_none():
            if self.plot is not None:
                plot_curves(report, self.plot)
            if self.stop_plot is not None:
                plot_thresholds(report, self.stop_plot)
            if self.markdown is not None:
                write_text(self.markdown, to_markdown(report))
            if self.json is not None:
                write_json(self.json, report.to_json())
