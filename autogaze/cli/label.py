"""`autogaze label`: gaze labels for next-token pre-training, by greedy search."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autogaze.cli.command import DEVICE_HELP, SOME_FAILED, Command, PrintJson, Renamed, log
from autogaze.cli.report import print_json
from autogaze.errors import OutputError, TrainingError, VideoError
from autogaze.utils.files import check_writable

if TYPE_CHECKING:  # heavy, so imported where the work begins
    from autogaze.labelling.label import ClipToLabel, GazeBudget, LabelSettings
    from autogaze.labelling.search import Searcher
    from autogaze.labelling.shards import Shard

metric_option = partial(typer.Option, rich_help_panel="Metric whose loss is lowered")
clip_option = partial(typer.Option, rich_help_panel="Clips to label")
work_option = partial(typer.Option, rich_help_panel="Division of the work")

CANVAS = "canvas"


@dataclass(frozen=True)
class LabelCommand(Command):
    """Label clips with the patches that a greedy search chooses, as targets of pre-training."""

    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Videos, folders of videos (searched recursively), files of decoded clips.",
            show_default=False,
        ),
    ] = None
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The label file (.json, or .json.gz).")
    ] = Path("gazing_labels.json")
    metric: Annotated[
        str,
        metric_option(
            metavar="canvas|FOLDER|HUB-ID", help="The canvas, or a VideoMAE's checkpoint."
        ),
        Renamed("--judge", "--metric"),
    ] = CANVAS
    loss_type: Annotated[
        str | None,
        metric_option(
            help="Terms of a VideoMAE's loss, e.g. l1+dinov2_reg+siglip2.",
            show_default="what its config.json says, else l1",
        ),
    ] = None
    loss_weights: Annotated[
        str | None, metric_option(help="One weight per term, e.g. 1+0.3+0.3.")
    ] = None
    scales: Annotated[
        str | None,
        metric_option(
            help="Scales of patches.", show_default="the VideoMAE's own, else 32+64+112+224"
        ),
    ] = None
    device: Annotated[str, metric_option(help=DEVICE_HELP)] = "auto"
    dtype: Annotated[str, metric_option(help="Of a VideoMAE: float32, float16 or bfloat16.")] = (
        "float32"
    )
    batch: Annotated[
        int | None,
        metric_option(
            min=1,
            help="Candidates that a VideoMAE reconstructs together.",
            show_default="8 on a CPU, 128 on a GPU",
        ),
    ] = None
    clip_len: Annotated[
        int | None, clip_option(min=1, help="Frames per clip.", show_default="16")
    ] = None
    stride: Annotated[
        int | None,
        clip_option(min=1, help="Distance of a clip's frames, in frames.", show_default="1"),
    ] = None
    windows: Annotated[
        Literal["first", "all"] | None,
        clip_option(
            help="The first clip of every video, or all consecutive ones.", show_default="first"
        ),
    ] = None
    decoder: Annotated[
        Literal["auto", "pyav", "torchcodec", "opencv"] | None,
        clip_option(
            help="What decodes; auto is pyav where it is installed, else opencv.",
            show_default="auto",
        ),
    ] = None
    dataset: Annotated[
        Path | None,
        clip_option(
            metavar="FILE",
            help="Instead of PATHs: a training's options of the group `dataset` (.yaml, .json), or "
            "all of its options (config.json).",
            show_default=False,
        ),
    ] = None
    split: Annotated[
        Literal["train", "val"],
        clip_option(help="Which clips of --dataset."),
    ] = "train"
    min_ratio: Annotated[float, clip_option(help="Least mean ratio of a clip.")] = 0.02
    max_ratio: Annotated[float, clip_option(help="Largest mean ratio of a clip.")] = 0.2
    seed: Annotated[
        int | None,
        clip_option(
            help="Seed of the ratios, and of --dataset where it names none.",
            show_default="0, or trainer.seed of a config.json",
        ),
    ] = None
    shard: Annotated[
        str,
        work_option(
            metavar="I/N",
            help="Label only part I of N, for N processes or machines that share a disk.",
        ),
    ] = "1/1"
    merge: Annotated[bool, work_option("--merge", help="Put finished shards together.")] = False
    json: PrintJson = False

    def __post_init__(self) -> None:
        if not self.out.name.endswith((".json", ".json.gz")):
            raise OutputError(f"--out {self.out}: the name must end in .json or .json.gz")
        check_writable(self.out)
        of_video_mae = (self.loss_type, self.loss_weights, self.dtype, self.batch)
        if self.metric == CANVAS and of_video_mae != (None, None, "float32", None):
            raise TrainingError(
                "--loss-type, --loss-weights, --dtype and --batch are for a VideoMAE; the metric is the "
                "canvas"
            )
        of_paths = {
            "PATHs": self.paths,
            "--clip-len": self.clip_len,
            "--stride": self.stride,
            "--windows": self.windows,
            "--decoder": self.decoder,
        }
        for option, value in of_paths.items():
            if self.dataset is not None and value:
                raise TrainingError(f"{option} and --dataset: {self.dataset} says what is labelled")

    def run(self) -> int:
        from autogaze.labelling.label import GazeBudget
        from autogaze.labelling.shards import Shard, check_new, merge

        if self.merge:
            labels = merge(self.out)
            self._print({"clips": len(labels), "out": str(labels.path)})
            return 0
        check_new(self.out)
        shard, budget = Shard.parse(self.shard), GazeBudget(self.min_ratio, self.max_ratio)
        searcher, clips, settings = self._find_clips(budget)
        return self._label(searcher, clips[shard.number - 1 :: shard.total], settings, shard)

    def _find_clips(
        self, budget: "GazeBudget"
    ) -> "tuple[Searcher, list[ClipToLabel], LabelSettings]":
        """The search, the clips of all shards, and the settings that their labels depend on.

        Raises:
            TrainingError: no clips, or options that do not fit them.
            CheckpointError: no VideoMAE.
        """
        from autogaze.datasets.video_windows import Window
        from autogaze.labelling.label import LabelSettings, clips_of, find_clips
        from autogaze.training.mixture import DatasetFile

        cut: Mapping[str, Any]
        if self.dataset is None:
            window = Window(self.clip_len or 16, self.stride or 1, every=self.windows == "all")
            searcher = self._searcher(window.clip_len)
            side = searcher.pyramid.side
            clips = find_clips(self.paths or [], window, side, self.decoder or "auto")
            cut = {
                "clip_len": window.clip_len,
                "stride": window.stride,
                "windows": self.windows or "first",
            }
            return searcher, clips, LabelSettings(cut, budget, self.seed or 0)
        dataset, options, its_seed = DatasetFile.load(self.dataset)
        seed = (its_seed if self.seed is None else self.seed) or 0
        searcher = self._searcher(dataset.clip_len)
        members = [each.to_label(self.split, searcher.pyramid, seed) for each in dataset.members()]
        cut = {"dataset": options, "split": self.split}
        return searcher, clips_of(members), LabelSettings(cut, budget, seed)

    def _searcher(self, clip_len: int) -> "Searcher":
        from autogaze.labelling.search import searcher_of
        from autogaze.tasks import load_metric
        from autogaze.tasks.video_mae import VideoMAETask
        from autogaze.utils.device import DeviceOptions

        options = DeviceOptions.parse(self.device, self.dtype)
        task = load_metric(
            self.metric,
            scales=self.scales,
            loss_type=self.loss_type,
            loss_weights=self.loss_weights,
        ).to(options.device)
        if isinstance(task, VideoMAETask) and clip_len > task.mae.config.max_num_frames:
            raise TrainingError(
                f"--clip-len {clip_len}: {self.metric} knows {task.mae.config.max_num_frames} "
                "frames, not more"
            )
        return searcher_of(task, self.batch, options.dtype, options.device)

    def _label(
        self,
        searcher: "Searcher",
        clips: "list[ClipToLabel]",
        settings: "LabelSettings",
        shard: "Shard",
    ) -> int:
        """Label the clips of one shard and report; returns the exit code.

        Raises:
            OutputError: the shard or the file cannot be written.
            VideoError: not one clip can be read.
        """
        from autogaze.labelling.label import label_clips
        from autogaze.labelling.shards import ShardWriter, merge
        from autogaze.utils.progress import ProgressBar

        with ShardWriter(self.out, shard, settings.identity(searcher)) as writer:
            before, began = len(writer.done), time.perf_counter()
            if writer.finished:  # clips that could not be read then are not tried again
                clips = []
            with ProgressBar(len(clips), "clips", "labelling") as bar:
                failed = label_clips(
                    clips,
                    searcher,
                    settings,
                    writer,
                    bar.advance,
                    lambda clip: log.error("error: %s", clip.cause),
                )
            seconds = time.perf_counter() - began
            if clips and len(failed) == len(clips):
                raise VideoError(f"none of the {len(clips)} clips could be read")
            if not writer.finished:
                writer.finish()
        new = len(writer.done) - before
        whole = shard.total == 1
        self._print(
            {
                "clips": new,
                "labelled_before": before,
                "unreadable": len(failed),
                "seconds": round(seconds, 3),
                "clips_per_second": round(new / seconds, 3) if new else None,
                "clips_per_hour": round(new / seconds * 3600) if new else None,
                **({"out": str(merge(self.out).path)} if whole else {"shard": str(writer.path)}),
            }
        )
        return SOME_FAILED if failed else 0

    def _print(self, report: Mapping[str, Any]) -> None:
        if self.json:
            print_json(report)
            return
        width = max(map(len, report))
        for name, value in report.items():
            if value is not None:
                print(f"{name.replace('_', ' '):{width}}  {value}")
