"""The work of `autogaze label`: clips and judge found, labels written, a report."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autogaze.cli.errors import SOME_FAILED, log
from autogaze.cli.progress import progress_bar
from autogaze.datasets.video_folder import Window
from autogaze.errors import OutputError, TrainingError, VideoError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import (
    ClipToLabel,
    GazeBudget,
    LabelSettings,
    clips_of,
    find_clips,
    label_clips,
    searcher_of,
)
from autogaze.labelling.search import Searcher
from autogaze.labelling.shards import Shard, ShardWriter, check_new, merge
from autogaze.tasks.metrics import CANVAS, load_metric
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.training.clip_sources import SourceFile
from autogaze.utils.device import Place
from autogaze.utils.files import check_writable


@dataclass(frozen=True)
class MetricOptions:
    """Options of `autogaze label` that say whose loss is lowered, and where that is computed."""

    metric: str = CANVAS
    scales: str | None = None
    loss_type: str | None = None
    loss_weights: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch: int | None = None

    def searcher(self, clip_len: int) -> Searcher:
        """The search.

        Raises:
            TrainingError: options that do not go together, or clips that are too long.
            CheckpointError: no VideoMAE there.
        """
        place = Place.parse(self.device, self.dtype)
        if self.metric == CANVAS and self != MetricOptions(scales=self.scales):
            raise TrainingError(
                "--loss-type, --loss-weights, --device, --dtype and --batch are for a VideoMAE; "
                "the metric is the canvas"
            )
        task = load_metric(
            self.metric,
            scales=self.scales,
            loss_type=self.loss_type,
            loss_weights=self.loss_weights,
        ).to(place.device)
        if isinstance(task, VideoMAEReconstruction) and clip_len > task.mae.config.max_num_frames:
            raise TrainingError(
                f"--clip-len {clip_len}: {self.metric} knows {task.mae.config.max_num_frames} "
                "frames, not more"
            )
        return searcher_of(task, self.batch, place.dtype)


@dataclass(frozen=True)
class Labelling:
    """Which clips are labelled, with which judge.

    Attributes:
        clips: all of them, of every shard.
        searcher: of their labels.
        settings: what labels depend on besides.
    """

    clips: Sequence[ClipToLabel]
    searcher: Searcher
    settings: LabelSettings

    @classmethod
    def parse(
        cls,
        *,
        paths: Sequence[str],
        metric: MetricOptions,
        budget: GazeBudget,
        clip_len: int | None,
        stride: int | None,
        windows: str | None,
        decoder: str | None,
        dataset: Path | None,
        split: str,
        seed: int | None,
    ) -> "Labelling":
        """From what the command line says; None is what it does not say.

        Raises:
            TrainingError: options that do not go together, or no clips.
            CheckpointError: no judge.
        """
        if dataset is None:
            window = Window(clip_len or 16, stride or 1, every=windows == "all")
            searcher = metric.searcher(window.clip_len)
            side = searcher.pyramid.side
            clips = find_clips(paths, window, side, decoder or "auto")
            cut: Mapping[str, Any] = {
                "clip_len": window.clip_len,
                "stride": window.stride,
                "windows": windows or "first",
            }
        else:
            given = {
                "PATHs": paths,
                "--clip-len": clip_len,
                "--stride": stride,
                "--windows": windows,
                "--decoder": decoder,
            }
            for option, value in given.items():
                if value:
                    raise TrainingError(f"{option} and --dataset: {dataset} says what is labelled")
            source, options, its_seed = SourceFile.load(dataset)
            seed = its_seed if seed is None else seed
            searcher = metric.searcher(source.clip_len)
            pyramid: PatchPyramid = searcher.pyramid
            clips = clips_of([one.to_label(split, pyramid, seed or 0) for one in source.members()])
            cut = {"dataset": options, "split": split}
        return cls(clips, searcher, LabelSettings(cut, budget, seed or 0))

    def run(self, out: Path, part: Shard) -> tuple[dict[str, Any], int]:
        """Label a shard; the report and the exit code.

        Raises:
            OutputError: the shard or the file cannot be written.
            VideoError: not one clip can be read.
        """
        mine = self.clips[part.number - 1 :: part.total]
        settings = self.settings.identity(self.searcher)
        with ShardWriter(out, part, settings) as shard:
            before = len(shard.done)
            began = time.perf_counter()
            # What a finished shard could not read, it is not asked for again.
            mine = [] if shard.finished else mine
            with progress_bar("labelling", len(mine), "clips") as advance:
                failed = label_clips(
                    mine,
                    self.searcher,
                    self.settings,
                    shard,
                    advance,
                    lambda clip: log.error("error: %s", clip.cause),
                )
            seconds = time.perf_counter() - began
            if mine and len(failed) == len(mine):
                raise VideoError(f"none of the {len(mine)} clips could be read")
            if not shard.finished:
                shard.finish()
        new = len(shard.done) - before
        report: dict[str, Any] = {
            "clips": new,
            "labelled_before": before,
            "unreadable": len(failed),
            "seconds": round(seconds, 3),
            "clips_a_second": round(new / seconds, 3) if new else None,
            "clips_an_hour": round(new / seconds * 3600) if new else None,
        }
        if part.total == 1:
            report["out"] = str(merge(out).path)
        else:
            report["shard"] = str(shard.path)
        return report, SOME_FAILED if failed else 0


def merge_shards(out: Path) -> dict[str, Any]:
    """Put finished shards together; the report."""
    labels = merge(out)
    return {"clips": len(labels), "out": str(labels.path)}


def print_report(report: Mapping[str, Any], as_json: bool) -> None:
    """Print it on stdout."""
    if as_json:
        print(json.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        if value is not None:
            print(f"{name.replace('_', ' '):{width}}  {value}")


def check_out(out: Path, shard: str) -> Shard:
    """The shard of that text.

    Raises:
        OutputError: the file cannot be written, or is there already.
        TrainingError: no shard.
    """
    if not out.name.endswith((".json", ".json.gz")):
        raise OutputError(f"--out {out}: the name must end in .json or .json.gz")
    check_writable(out)
    check_new(out)
    return Shard.parse(shard)
