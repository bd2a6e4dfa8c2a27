"""`autogaze gaze`: choose patches of videos, measure the loss, write gaze files and pictures."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autogaze.checks import without_file_scheme
from autogaze.cli.command import (
    BAD_INPUT,
    DECODER_HELP,
    DEVICE_HELP,
    DTYPE_HELP,
    INTERNAL,
    SOME_FAILED,
    Command,
    describe,
    is_users,
    log,
)
from autogaze.cli.report import Failure, Report
from autogaze.errors import OutputError
from autogaze.rendering.summary import Summary, Tally
from autogaze.utils.files import all_or_none, check_writable, make_folder
from autogaze.video.decoders import DecoderName

if TYPE_CHECKING:  # heavy, so imported where the work begins
    from autogaze.pipeline import GazeStream
    from autogaze.rendering import Rendering
    from autogaze.selectors.base import Selector

selection_option = partial(typer.Option, rich_help_panel="What to choose")
range_option = partial(typer.Option, rich_help_panel="Which part of the video")
file_option = partial(
    typer.Option,
    rich_help_panel="Files to write (several videos: a folder, or a path with {name} in it)",
)

SelectorName = Annotated[
    str | None,
    selection_option(
        metavar="NAME|FOLDER|HUB-ID",
        help="A name from `autogaze selectors`, a checkpoint folder, or a hub id.",
        show_default="greedy",
    ),
]
Ratio = Annotated[
    float | None, selection_option(help="Keep at most this share of all patches, in (0, 1].")
]
SelectorDtype = Annotated[
    str | None,
    selection_option(help=DTYPE_HELP, show_default="float32, or as weights of others were saved"),
]

PREVIEW = 1280
"""Longer side of the frames in overlays and sheets, in pixels, whatever the source's size."""

SUFFIXES = {
    "out": ".safetensors",
    "overlay": ".overlay.mp4",
    "sheet": ".sheet.png",
    "reconstruction": ".reconstruction.mp4",
    "plot": ".plot.png",
}
"""Endings of files by kind; in a folder they follow the video's name without its own."""


@dataclass(frozen=True)
class GazeCommand(Command):
    """Gaze at videos: choose patches, measure the loss, write gaze files and pictures."""

    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO", help="Anything that ffmpeg decodes.")
    ]
    selector: SelectorName = None
    ratio: Ratio = None
    loss: Annotated[
        float | None,
        selection_option(
            help="Stopping threshold: choose patches of a frame until its loss is at most this, in "
            "units of the selector's metric. With --ratio too, whichever comes first.",
            show_default="the selector's own, if there is no --ratio",
        ),
    ] = None
    seed: Annotated[
        int | None,
        selection_option(help="Seed of random choices.", show_default="another one each time"),
    ] = None
    device: Annotated[str, selection_option(help=DEVICE_HELP)] = "auto"
    dtype: SelectorDtype = None
    fps: Annotated[
        float | None,
        range_option(help="Frames per second to look at.", show_default="all"),
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
        range_option(
            metavar="MODE",
            help="How a frame is cut into square tiles: 'resize' to a whole number of them, "
            "'pad' those at the edge, 'one' tile (fast), or COLUMNSxROWS.",
        ),
    ] = "resize"
    max_tiles: Annotated[
        int | None,
        range_option(
            help="Shrink larger frames to at most this many tiles.", show_default="no bound"
        ),
    ] = None
    skip_corrupt: Annotated[
        bool,
        range_option(
            "--skip-corrupt",
            help="Skip frames that cannot be decoded, and report their number.",
        ),
    ] = False
    out: Annotated[
        str | None,
        file_option(metavar="FILE", help="The gaze (.safetensors)."),
    ] = None
    overlay: Annotated[
        str | None,
        file_option(
            metavar="FILE", help="A video: chosen patches outlined by scale, the rest dimmed."
        ),
    ] = None
    sheet: Annotated[
        str | None,
        file_option(metavar="FILE", help="A contact sheet (.png), one row per scale."),
    ] = None
    reconstruction: Annotated[
        str | None,
        file_option(metavar="FILE", help="A video of what the chosen patches alone show."),
    ] = None
    plot: Annotated[
        str | None,
        file_option(metavar="FILE", help="Patches and loss over time (.png); needs matplotlib."),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per video.")] = False

    def __post_init__(self) -> None:
        for kind, value in self._outputs().items():
            check_ending(kind, value, len(self.videos))

    def run(self) -> int:
        from autogaze.selectors import registry
        from autogaze.utils.seeding import generator_of

        selector = registry.load(self.selector, device=self.device, dtype=self.dtype)
        selector.settings(self.ratio, self.loss)
        jobs = plan_jobs(self.videos, self._outputs())
        with Report(len(jobs), self.json) as report:
            return gaze_all(
                jobs,
                selector,
                report.add,
                ratio=self.ratio,
                loss=self.loss,
                tiles=self.tiles,
                max_tiles=self.max_tiles,
                fps=self.fps,
                start=self.start,
                end=self.end,
                stream=self.stream,
                decoder=self.decoder,
                skip_corrupt=self.skip_corrupt,
                generator=None if self.seed is None else generator_of(self.seed),
            )

    def _outputs(self) -> dict[str, str]:
        """The files asked for: kind -> a file, a folder or a path with {name} in it."""
        values = {kind: getattr(self, kind) for kind in SUFFIXES}
        return {
            kind: without_file_scheme(value) for kind, value in values.items() if value is not None
        }


@dataclass(frozen=True)
class Job:
    """One video and the files to write for it: kind -> path."""

    video: str
    files: Mapping[str, Path]


def gaze_all(
    jobs: Sequence[Job],
    selector: "Selector",
    report: Callable[[Summary | Failure], None],
    **options: Any,
) -> int:
    """Run every job, also after failures; returns the exit code.

    Args:
        jobs: one per video.
        report: called with each result as soon as it is known.
        options: of `GazeStream`.
    """
    code, num_failed = 0, 0
    for job in jobs:
        result: Summary | Failure
        try:
            result = gaze_one(job, selector, **options)
        except Exception as error:
            result = Failure(job.video, describe(error))
            log.error("error: %s", result.error)
            code = max(code, SOME_FAILED if is_users(error) else INTERNAL)
            num_failed += 1
        report(result)
    return BAD_INPUT if code == SOME_FAILED and num_failed == len(jobs) else code


def gaze_one(job: Job, selector: "Selector", **options: Any) -> Summary:
    """Gaze at one video and write its files, all of them or none."""
    from autogaze.gaze_io import GazeWriter
    from autogaze.pipeline import GazeStream
    from autogaze.utils.progress import ProgressBar

    files = job.files
    stream = GazeStream(
        job.video,
        selector=selector,
        keep_canvas=not {"sheet", "reconstruction"}.isdisjoint(files),
        preview=PREVIEW if not {"overlay", "sheet"}.isdisjoint(files) else None,
        **options,
    )
    tally, render = Tally(), 0.0
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(all_or_none())
        writer = stack.enter_context(GazeWriter(files["out"])) if "out" in files else None
        renderings = [stack.enter_context(each) for each in _renderings(files, stream)]
        bar = stack.enter_context(ProgressBar(stream.num_frames, "frames", Path(job.video).name))
        for chunk in stream:
            tally.add(chunk)
            if writer is not None:
                writer.add(chunk.gaze)
            start = time.perf_counter()
            for rendering in renderings:
                rendering.add(chunk)
            render += time.perf_counter() - start
            bar.advance(chunk.gaze.num_frames)
            del chunk  # free its memory before the next one is gazed at
        # Leaving the block finishes every file; whatever goes wrong removes them all.
        finishing = time.perf_counter()
    ended = time.perf_counter()
    if (dropped := stream.num_corrupt) > 0:
        frames = "frame was" if dropped == 1 else "frames were"
        log.warning("%s: %d corrupt %s skipped", job.video, dropped, frames)
    written = {kind: str(path) for kind, path in files.items()}
    return tally.summary(stream, render + ended - finishing, ended - began, written)


def _renderings(files: Mapping[str, Path], stream: "GazeStream") -> Iterator["Rendering"]:
    from autogaze.rendering import BudgetPlot, ContactSheet, OverlayVideo, ReconstructionVideo

    if "overlay" in files:
        yield OverlayVideo(files["overlay"], stream.fps)
    if "sheet" in files:
        yield ContactSheet(files["sheet"], num_frames=stream.num_frames)
    if "reconstruction" in files:
        yield ReconstructionVideo(files["reconstruction"], stream.fps)
    if "plot" in files:
        yield BudgetPlot(files["plot"], target=stream.target)


def plan_jobs(videos: Sequence[str], outputs: Mapping[str, str]) -> list[Job]:
    """The files of every video; checks that all of them can be written.

    Args:
        outputs: kind -> a file; a folder, for files called as `SUFFIXES` says; or a path in
            which `{name}` stands for each video's name.

    Raises:
        OutputError: not writable, or two files would get the same path.
    """
    jobs, owners = [], dict[Path, tuple[str, str]]()
    for video in videos:
        files = {kind: _path(kind, value, video, len(videos)) for kind, value in outputs.items()}
        for kind, path in files.items():
            if len(videos) == 1 or len(os.fsencode(path.name)) <= 255:
                check_writable(path)  # one name that is too long fails alone, when its turn comes
            real = Path(os.path.realpath(path))  # unlike Path.resolve, takes loops of links
            if real == Path(os.path.realpath(without_file_scheme(video))):
                raise OutputError(f"{path}: is the input video itself, choose another file")
            if real in owners:
                first_kind, first_video = owners[real]
                raise OutputError(
                    f"{path}: would be written twice, as --{first_kind} of {first_video} and as "
                    f"--{kind} of {video}; give every video once, and every file its own name"
                )
            owners[real] = kind, video
        jobs.append(Job(video, files))
    return jobs


def check_ending(kind: str, value: str, num_videos: int) -> None:
    """Raise `OutputError` if a file's name does not say what will be in it; folders are fine."""
    if not value:
        raise OutputError(f"--{kind}: the name is empty; give a file or a folder")
    ending = Path(f"NAME{SUFFIXES[kind]}").suffix
    fits, template = Path(value).suffix.lower() == ending, "{name}" in value
    if num_videos > 1 and fits and not template and not Path(value).is_dir():
        raise OutputError(
            f"--{kind} {value}: is one file for {num_videos} videos; give a folder, or a path "
            f"with {{name}} in it, such as {{name}}{SUFFIXES[kind]}"
        )
    if not fits and (template or not _is_folder(value, num_videos)):
        raise OutputError(
            f"--{kind} {value}: the name must end in {ending}, or be a folder that exists (or "
            f"ends in {os.sep})"
        )


def _is_folder(value: str, num_videos: int) -> bool:
    return num_videos > 1 or Path(value).is_dir() or value.endswith(os.sep)


def _path(kind: str, value: str, video: str, num_videos: int) -> Path:
    name = Path(video).stem
    if "{name}" in value:
        return Path(value.replace("{name}", name))
    path = Path(value)
    if not _is_folder(value, num_videos):
        return path
    make_folder(path)
    return path / f"{name}{SUFFIXES[kind]}"
