"""The main job: gaze at each video, write what was asked for, and report."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

from autogaze.cli.errors import BAD_INPUT, INTERNAL, SOME_FAILED, USER_ERRORS, describe, log
from autogaze.cli.outputs import Job
from autogaze.cli.progress import progress_bar
from autogaze.cli.report import Failure
from autogaze.cli.summary import Summary, Tally
from autogaze.gaze_io import GazeWriter
from autogaze.pipeline import GazedChunk, GazeOptions, GazeStream
from autogaze.rendering import (
    BudgetPlot,
    ContactSheet,
    OverlayVideo,
    ReconstructionVideo,
    Rendering,
)
from autogaze.selectors.base import Selector
from autogaze.utils.device import give_back
from autogaze.utils.files import all_or_none

PREVIEW = 1280
"""Longer side of the frames that pictures are made of, however large the source is."""


def gaze_all(
    jobs: Sequence[Job],
    selector: Selector,
    report: Callable[[Summary | Failure], None],
    **options: Unpack[GazeOptions],
) -> int:
    """Run every job, however the others went; the exit code.

    `report` is told each result at once, so that what is done is known even if a
    later job is interrupted.
    """
    code, num_failed = 0, 0
    for job in jobs:
        result: Summary | Failure
        try:
            result = gaze_one(job, selector, **options)
        except Exception as error:
            expected = isinstance(error, USER_ERRORS)
            message = describe(error)
            log.error("error: %s", message)
            result = Failure(job.video, message)
            code = max(code, SOME_FAILED if expected else INTERNAL)
            num_failed += 1
        report(result)
    return BAD_INPUT if code == SOME_FAILED and num_failed == len(jobs) else code


def gaze_one(job: Job, selector: Selector, **options: Unpack[GazeOptions]) -> Summary:
    """Gaze at one video and write its files, all of them or none."""
    stream = GazeStream(
        job.video,
        selector,
        keep_canvas=not {"sheet", "reconstruction"}.isdisjoint(job.files),
        preview=PREVIEW if not {"overlay", "sheet"}.isdisjoint(job.files) else None,
        **options,
    )
    tally, render = Tally(), 0.0
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(all_or_none())
        out = job.files.get("out")
        writer = None if out is None else stack.enter_context(GazeWriter(out))
        renderings = [stack.enter_context(picture) for picture in _renderings(job, stream)]
        bar = progress_bar(Path(stream.path).name, stream.num_frames, "frames")
        advance = stack.enter_context(bar)
        for chunk in stream:
            tally.add(chunk)
            if writer is not None:
                writer.add(chunk.gaze)
            render += _show(renderings, chunk)
            if renderings:
                give_back()
            advance(chunk.gaze.num_frames)
        # Leaving the block finishes every file; whatever goes wrong removes them all.
        finishing = time.perf_counter()
    ended = time.perf_counter()
    render += ended - finishing
    if stream.num_corrupt:
        lost = stream.num_corrupt
        frames = "frame was" if lost == 1 else "frames were"
        log.warning("%s: %d corrupt %s skipped", job.video, lost, frames)
    written = {kind: str(path) for kind, path in job.files.items()}
    return tally.summary(stream, render, ended - began, written)


def _renderings(job: Job, stream: GazeStream) -> Iterator[Rendering]:
    files = job.files
    if "overlay" in files:
        yield OverlayVideo(files["overlay"], stream.fps)
    if "sheet" in files:
        yield ContactSheet(files["sheet"], num_frames=stream.num_frames)
    if "reconstruction" in files:
        yield ReconstructionVideo(files["reconstruction"], stream.fps)
    if "plot" in files:
        yield BudgetPlot(files["plot"], target=stream.target)


def _show(renderings: Sequence[Rendering], chunk: GazedChunk) -> float:
    began = time.perf_counter()
    for rendering in renderings:
        rendering.add(chunk)
    return time.perf_counter() - began
