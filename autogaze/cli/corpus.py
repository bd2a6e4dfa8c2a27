"""`autogaze corpus`: gaze at whole collections of videos, in parallel, and go on after any failure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autogaze.cli.command import (
    BAD_INPUT,
    DECODER_HELP,
    DEVICE_HELP,
    SOME_FAILED,
    Command,
    PrintJson,
    log,
)
from autogaze.cli.gaze import Ratio, SelectorDtype, SelectorName, selection_option
from autogaze.errors import SelectorError
from autogaze.video.decoders import DecoderName, check_decoder

if TYPE_CHECKING:  # heavy, so imported where the work begins
    from autogaze.corpus.inputs import Survey
    from autogaze.corpus.manifest import Entry
    from autogaze.corpus.run import Outcome
    from autogaze.corpus.settings import CorpusSettings
    from autogaze.corpus.storage import Input

range_option = partial(typer.Option, rich_help_panel="Which part of the videos")
work_option = partial(typer.Option, rich_help_panel="How to work")

ERRORS_SHOWN = 10
"""Errors that are printed, at most; all are in `errors.parquet`."""

Facts = dict[str, Any]
Words = Callable[[Mapping[str, Any]], Iterator[tuple[str, str]]]
"""What a report holds, by name; and how it is told, as pairs of a name and text."""


@dataclass(frozen=True)
class CorpusCommand(Command):
    """Gaze at whole collections of videos on Ray, into a folder of Parquet files.

    Run it again after any failure: videos that are done are skipped.
    """

    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Videos, folders, patterns, tar files of videos (WebDataset), lists (.txt) or tables "
            "(.parquet, .csv) of paths; here, or wherever fsspec reaches (s3://, gs://, hf://).",
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="The corpus: a new or empty folder, or a corpus to continue."
        ),
    ]
    column: Annotated[str, typer.Option(help="Column of the paths in tables.")] = "path"
    selector: SelectorName = None
    ratio: Ratio = None
    loss: Annotated[
        float | None,
        selection_option(
            help="Stopping threshold, in units of the selector's metric.",
            show_default="the selector's own, if there is no --ratio",
        ),
    ] = None
    seed: Annotated[
        int, selection_option(help="Seed of random choices; every video starts from it.")
    ] = 0
    dtype: SelectorDtype = None
    fps: Annotated[
        float | None, range_option(help="Frames per second to look at.", show_default="all")
    ] = None
    start: Annotated[float | None, range_option(help="From this second on.")] = None
    end: Annotated[float | None, range_option(help="Up to this second.")] = None
    stream: Annotated[
        int | None,
        range_option(
            help="Number of the video stream, from 0.", show_default="the default one", min=0
        ),
    ] = None
    decoder: Annotated[DecoderName, range_option(help=DECODER_HELP)] = "auto"
    tiles: Annotated[
        str,
        range_option(metavar="MODE", help="resize, pad, one or COLUMNSxROWS, as of autogaze gaze."),
    ] = "resize"
    max_tiles: Annotated[
        int | None,
        range_option(
            help="Shrink larger frames to at most this many tiles.", show_default="no bound"
        ),
    ] = None
    skip_corrupt: Annotated[
        bool, range_option("--skip-corrupt", help="Skip frames that cannot be decoded.")
    ] = False
    device: Annotated[str, work_option(help=DEVICE_HELP)] = "auto"
    workers: Annotated[
        int | None,
        work_option(help="Workers, one core each.", show_default="as many as there are", min=1),
    ] = None
    address: Annotated[
        str | None,
        work_option(
            metavar="HOST:PORT",
            help="A Ray cluster to work on; --out and local videos lie on a disk that all share.",
            show_default="this machine alone",
        ),
    ] = None
    shard_size: Annotated[
        int | None,
        work_option(help="Videos per Parquet file.", show_default="by their number", min=1),
    ] = None
    retry_failed: Annotated[
        bool, work_option("--retry-failed", help="Try videos again that could not be read.")
    ] = False
    overwrite: Annotated[
        bool,
        work_option("--overwrite", help="Remove the corpus that --out holds, and start again."),
    ] = False
    dry_run: Annotated[
        bool,
        work_option("--dry-run", help="Only say how many videos there are, how long, how large."),
    ] = False
    json: PrintJson = False

    def run(self) -> int:
        from autogaze.corpus.cluster import check_ray
        from autogaze.corpus.folder import CorpusFolder, check_folder
        from autogaze.corpus.inputs import find_inputs
        from autogaze.corpus.run import Outcome, Workers, gaze_on_ray, run_corpus
        from autogaze.utils.progress import ProgressBar

        check_folder(self.out)
        settings = self._settings()
        inputs = find_inputs(self.inputs, self.column)
        if refused := [each.error for each in inputs if each.error is not None]:
            log.warning(
                "%d of %d inputs cannot be looked up now; those done before stay. The first is %s",
                len(refused), len(inputs), refused[0],
            )  # fmt: skip
        if self.dry_run:
            self._survey(inputs, settings)
            return 0
        check_ray(self.address)
        workers = Workers(self.address, self.workers, self.device, self.shard_size)
        outcome = Outcome()
        with ExitStack() as stack:
            corpus = stack.enter_context(CorpusFolder(self.out, settings, overwrite=self.overwrite))
            # Also when the run is interrupted, if anything was done.
            stack.callback(self._report, outcome, len(inputs))
            bar: ProgressBar | None = None

            def begin(done: int, to_do: int) -> None:
                nonlocal bar
                if done:
                    failed = len(outcome.failed)  # nothing was done now
                    log.info("%d of %d videos were done before", done - failed, len(inputs))
                    if failed:
                        log.info("%d failed before; --retry-failed tries them again", failed)
                bar = stack.enter_context(ProgressBar(to_do, "videos", "gazing", rate=True))

            def advance(entries: "Sequence[Entry]") -> None:
                if bar is not None:
                    bar.advance(len(entries))

            run_corpus(
                inputs,
                corpus,
                partial(gaze_on_ray, workers=workers),
                retry_failed=self.retry_failed,
                begin=begin,
                advance=advance,
                outcome=outcome,
            )
        if not outcome.failed:
            return 0
        return BAD_INPUT if len(outcome.failed) == len(inputs) else SOME_FAILED

    def _settings(self) -> "CorpusSettings":
        """The settings, after checks that would else fail in every video.

        Raises:
            AutoGazeError: a selector, ratio, loss, range, tiling or decoder that is not possible.
        """
        from autogaze.corpus.settings import CorpusSettings, named_selector, version_of
        from autogaze.selectors import registry
        from autogaze.utils.seeding import check_seed
        from autogaze.video.tiling import plan_tiles
        from autogaze.video.timestamps import FrameRange

        FrameRange(self.start, self.end, fps=self.fps)
        check_seed(self.seed)
        name = named_selector(self.selector)
        # On a cluster the device is one of its own: nothing is computed here.
        device = "cpu" if self.address else self.device
        selector = registry.load(name, device=device, dtype=self.dtype)
        selector.settings(self.ratio, self.loss)
        if not self.address:  # on a cluster torchcodec is one of its own, too
            check_decoder(self.decoder)
        if selector.needs_motion and self.decoder == "torchcodec":
            raise SelectorError(
                f"--decoder torchcodec exports no motion vectors, which {name} needs; leave it out"
            )
        side = selector.pyramid.side
        plan_tiles(side, side, side, self.tiles, max_tiles=self.max_tiles)
        return CorpusSettings(
            selector=name,
            version=version_of(name),
            ratio=self.ratio,
            loss=self.loss,
            seed=self.seed,
            dtype=self.dtype,
            fps=self.fps,
            start=self.start,
            end=self.end,
            stream=self.stream,
            tiles=self.tiles,
            max_tiles=self.max_tiles,
            skip_corrupt=self.skip_corrupt,
            decoder=self.decoder,
        )

    def _survey(self, inputs: "Sequence[Input]", settings: "CorpusSettings") -> None:
        """Print how many videos there are, how long and how large, and how many are done."""
        from autogaze.corpus.folder import refuse_other_files
        from autogaze.corpus.inputs import survey
        from autogaze.corpus.manifest import read_manifest, sort_inputs
        from autogaze.corpus.settings import FILE

        done = failed = 0
        if not (self.out / FILE).exists():
            if self.out.exists():
                refuse_other_files(self.out)
        elif not self.overwrite:
            settings.check_same(self.out)
            before = sort_inputs(read_manifest(self.out), inputs, self.retry_failed).done
            failed = sum(entry.failed for entry in before)
            done = len(before) - failed
        to_do = len(inputs) - done - failed
        self._print(survey_facts(survey(inputs), done, failed, to_do, str(self.out)), survey_words)

    def _report(self, outcome: "Outcome", num_inputs: int) -> None:
        if not (outcome.before or outcome.entries):
            return
        failed = outcome.failed
        for entry in failed[:ERRORS_SHOWN]:
            cause = entry.cause.replace("skip_corrupt=True", "--skip-corrupt")
            log.error("error: %s: %s", entry.path, cause)
        if len(failed) > ERRORS_SHOWN:
            log.error(
                "and %d more: see %s", len(failed) - ERRORS_SHOWN, self.out / "errors.parquet"
            )
        self._print(run_facts(outcome, num_inputs, str(self.out)), run_words)

    def _print(self, facts: Facts, words: Words) -> None:
        from autogaze.cli.report import facts_table, print_json, results_console

        if self.json:
            print_json(facts)
        else:
            results_console().print(facts_table(words(facts)))


def run_facts(outcome: "Outcome", num_inputs: int, out: str) -> Facts:
    """What a run did, and what is done in all.

    Of the inputs as many are done before, failed before, done now, failed now or not done, as there
    are. `_in_all` sums over those that are done, before or now.
    """
    failed_before = sum(entry.failed for entry in outcome.before)
    failed_now = sum(entry.failed for entry in outcome.entries)
    new = [entry for entry in outcome.entries if not entry.failed]
    every = [entry for entry in (*outcome.before, *new) if not entry.failed]
    return {
        "videos": num_inputs,
        "done_before": len(outcome.before) - failed_before,
        "failed_before": failed_before,
        "done_now": len(new),
        "failed_now": failed_now,
        "failed": failed_before + failed_now,
        "not_done": num_inputs - len(outcome.before) - len(outcome.entries),
        "clips": sum(entry.rows for entry in new),
        "frames": sum(entry.frames for entry in new),
        "video_seconds": round(sum(entry.duration for entry in new), 3),
        "clips_in_all": sum(entry.rows for entry in every),
        "frames_in_all": sum(entry.frames for entry in every),
        "video_seconds_in_all": round(sum(entry.duration for entry in every), 3),
        "seconds": round(outcome.seconds, 3),
        "gazing_seconds": round(outcome.gazing, 3),
        "videos_per_second": round(len(new) / outcome.seconds, 3) if new else None,
        "out": out,
    }


def survey_facts(found: "Survey", done: int, failed: int, to_do: int, out: str) -> Facts:
    """How many videos there are, how long and how large, and how many are done.

    Args:
        failed: before, because of the file.
    """
    return {
        "videos": done + failed + to_do,
        "missing": found.missing,
        "done": done,
        "failed_before": failed,
        "to_do": to_do,
        "bytes": found.size,
        "seconds": None if found.seconds is None else round(found.seconds, 3),
        "estimated": found.estimated,
        "measured": found.measured,
        "unreadable": found.unreadable,
        "out": out,
    }


def run_words(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a run as rows of a table: name and value."""
    for name in ("videos", "done_before", "failed_before", "done_now", "failed_now", "not_done"):
        yield name.replace("_", " "), f"{facts[name]:,}"
    yield "clips of this run", f"{facts['clips']:,}"
    yield "frames of this run", f"{facts['frames']:,}"
    yield "video of this run", duration(facts["video_seconds"])
    if facts["done_before"]:
        yield "clips in all", f"{facts['clips_in_all']:,}"
        yield "frames in all", f"{facts['frames_in_all']:,}"
        yield "video in all", duration(facts["video_seconds_in_all"])
    yield "time of this run", duration(facts["seconds"])
    if facts["videos_per_second"] is not None:
        yield "of it gazing", duration(facts["gazing_seconds"])
        yield "videos per second", f"{facts['videos_per_second']:,} of the time of this run"
    yield "out", facts["out"]


def survey_words(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a dry run as rows of a table; unknown ones are left out."""
    yield "videos", f"{facts['videos']:,}"
    yield "missing", f"{facts['missing']:,}"
    yield "done before", f"{facts['done']:,}"
    yield "failed before", f"{facts['failed_before']:,}"
    yield "to do", f"{facts['to_do']:,}"
    yield "size", f"{facts['bytes']:,} bytes ({facts['bytes'] / 2**30:.2f} GiB)"
    if facts["seconds"] is not None:
        about = "about " if facts["estimated"] else ""
        yield "length of videos", f"{about}{duration(facts['seconds'])}, played; not the run's time"
    there = facts["videos"] - facts["missing"]
    yield "measured", f"{facts['measured']:,} of {there:,}"
    if facts["unreadable"]:
        yield "cannot be read", f"{facts['unreadable']:,}, of no length"
    if left := there - facts["measured"] - facts["unreadable"]:
        like = ", taken to be like those that were" if facts["measured"] else ""
        yield "not measured", f"{left:,}{like}"
    yield "out", facts["out"]


def duration(seconds: float) -> str:
    """A time in seconds; from a minute on also in hours, minutes and seconds, rounded alike."""
    seconds = round(seconds, 1)
    text = f"{seconds:,.1f} s"
    if seconds < 60:
        return text
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{text} ({hours}:{minutes:02}:{left:02} h)"
