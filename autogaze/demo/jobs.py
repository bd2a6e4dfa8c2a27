"""Jobs of visitors: checked, run, stopped and cleaned up after. Nothing here depends on Gradio."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autogaze.demo.ask import BothAnswers, ask_both
from autogaze.demo.limits import Limits
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.visitors import Visitors
from autogaze.demo.work import Run, Settings, Stop, gaze_at
from autogaze.errors import AutoGazeError, VideoError, first_line
from autogaze.video.decoders import DecoderName

if TYPE_CHECKING:
    from autogaze.mllm.answering import VideoMLLM

log = logging.getLogger("autogaze")

ReportProgress = Callable[[float, str], None]
"""Called with the share of the work done, in [0, 1], and a description of the current step."""

DEFECT = "this is a defect of the program; its log says more"
NO_MEMORY = (
    "the GPU has no memory left for this: take a shorter or smaller video, or try again later"
)


class Jobs:
    """Runs the jobs of visitors.

    Args:
        root: the page's folder.
        examples: a folder in it, whose videos stay.
        model: a multimodal LLM that answers questions, if there is one.
        decoder: of visitors' videos.
    """

    def __init__(
        self,
        root: Path,
        examples: Path,
        pool: SelectorPool,
        limits: Limits,
        model: "VideoMLLM | None" = None,
        decoder: DecoderName = "auto",
    ) -> None:
        self.examples, self.pool, self.limits, self.model = examples, pool, limits, model
        self.decoder = decoder
        self.visitors = Visitors(root)
        self._asking = threading.Lock()  # the model is one, and answers one question at a time

    def gaze(
        self,
        session: str,
        video: str | None,
        first: Settings,
        other: str | None,
        report: ReportProgress,
    ) -> list[Run]:
        """Gaze at a video, with another selector too if one is named.

        Raises:
            Cancelled: the visitor stopped it, or left.
            AutoGazeError: a bad video or setting.
        """
        wanted = [first] if other is None else [first, replace(first, selector=other)]
        runs = []
        with (
            self.reading(session, video) as path,
            self.visitors.job(session) as (stop, folder),
        ):
            for number, chosen in enumerate(wanted):
                place = folder / str(number)
                place.mkdir()
                share = number / len(wanted), 1 / len(wanted)
                runs.append(self._gaze_once(path, chosen, place, stop, report, share))
        return runs

    def _gaze_once(
        self,
        path: Path,
        chosen: Settings,
        folder: Path,
        stop: Stop,
        report: ReportProgress,
        share: tuple[float, float],
    ) -> Run:
        """Run one selector.

        Args:
            share: of the whole job that is done before, and that this selector is.
        """

        def progress(done: int, total: int | None) -> None:
            part = 0.5 if total is None else min(1.0, done / max(1, total))
            report(
                share[0] + share[1] * part, f"{chosen.selector}: {done} of {total or '?'} frames"
            )

        report(share[0], f"{chosen.selector}: reading the video")
        with self.pool.borrow(chosen.selector) as selector:
            return gaze_at(
                path,
                chosen,
                selector,
                folder,
                limits=self.limits,
                stop=stop,
                progress=progress,
                decoder=self.decoder,
            )

    def answer(
        self,
        session: str,
        video: str | None,
        question: str,
        chosen: Settings,
        report: ReportProgress,
    ) -> BothAnswers:
        """Answer a question about a video, gazed and dense; errors as of `gaze`."""
        if self.model is None:
            raise AutoGazeError("this page has no multimodal LLM; start it with --model")
        with self.reading(session, video) as path:
            self.limits.check_file(path)
            with (
                self.visitors.job(session) as (stop, _),
                self.pool.borrow(chosen.selector) as selector,
                self._asking,
            ):
                return ask_both(
                    self.model,
                    path,
                    question,
                    chosen,
                    selector,
                    stop,
                    lambda which: report(0.1 if which == "gazed" else 0.5, f"answering, {which}"),
                    self.decoder,
                )

    @contextmanager
    def reading(self, session: str, video: str | None) -> Iterator[Path]:
        """The path of a visitor's video, which is remembered as theirs and stays inside the block.

        Raises:
            VideoError: there is none, or a list of other files (a playlist).
        """
        path = existing(video)
        if path.is_relative_to(self.examples):
            yield path
        else:
            with self.visitors.reading(session, path):
                if path.is_file() and names_other_files(path):
                    raise VideoError(f"{path}: is a list of other files, which no visitor may read")
                yield path

    def uploaded(self, session: str, video: str | None) -> None:
        """Remember a video as a visitor's; errors as of `reading`."""
        path = existing(video)
        if not path.is_relative_to(self.examples):
            self.visitors.uploaded(session, path)

    def message(self, error: Exception, video: str | None) -> str:
        """The message of an error for the visitor, without paths of this machine."""
        if isinstance(error, torch.OutOfMemoryError):
            log.error("%s", first_line(error))
            return NO_MEMORY
        if not isinstance(error, AutoGazeError):
            log.error("the page failed", exc_info=error)
            return DEFECT
        text = str(error).replace(
            "skip_corrupt=True", "“Skip corrupt frames” under “More settings”"
        )
        if video:
            text = text.replace(str(video), Path(video).name)
        return text.replace(f"{self.visitors.root}/", "")


def existing(video: str | None) -> Path:
    """The path of a video; `VideoError` if there is none."""
    if not video:
        raise VideoError("there is no video: choose an example or send one")
    path = Path(video)
    if not path.exists():
        raise VideoError(f"{path}: is no longer here; send it again")
    return path


def names_other_files(path: Path) -> bool:
    """Whether FFmpeg takes a file for a list of other files, which it would read: HLS, DASH, ffconcat."""
    with open(path, "rb") as file:
        start = file.read(512)
    # FFmpeg wants the first two at the very beginning; of DASH, which is XML, any beginning is refused.
    return (
        start.startswith((b"#EXTM3U", b"ffconcat"))
        or start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<"
    )
