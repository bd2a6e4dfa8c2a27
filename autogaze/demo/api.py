"""Endpoints of the page for programs, as `gradio_client` calls them: numbers as JSON, and files."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import gradio as gr

from autogaze.demo.ask import answer_numbers
from autogaze.demo.controls import settings
from autogaze.demo.figures import numbers
from autogaze.demo.jobs import Jobs
from autogaze.demo.stopping import Cancelled
from autogaze.demo.work import Settings
from autogaze.errors import AutoGazeError

DEFAULTS: dict[str, Any] = {
    "selector": None,
    "ratio": 0.1,
    "loss": None,
    "tiles": "resize",
    "fps": None,
    "max_tiles": None,
    "start": None,
    "end": None,
    "seed": 0,
    "skip_corrupt": False,
}
"""Parameters of endpoints and their defaults. The default selector is the page's first."""

TEXTS = ("selector", "tiles")
"""Of these, those that are text."""

FILES = ("gaze", "overlay", "scales", "reconstruction", "sheet")


class Endpoints:
    """Functions behind the endpoints; parameters are called as in `Settings`."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def add(self, video: gr.Video) -> None:
        """Add the endpoints to the page that is being made, with invisible components."""
        chosen = [_unseen(name, value) for name, value in DEFAULTS.items()]
        other, question = (gr.Textbox(visible=False, label=name) for name in ("other", "question"))
        waits: dict[str, Any] = {
            "concurrency_limit": self.jobs.limits.jobs,
            "concurrency_id": "jobs",
        }
        files = [gr.File(visible=False, label=kind) for kind in FILES]
        figures = gr.JSON(visible=False, label="numbers")
        others = gr.JSON(visible=False, label="numbers of the other")
        button = gr.Button(visible=False)
        inputs = [video, *chosen]
        button.click(self.gaze, inputs, [figures, *files], api_name="gaze", **waits)
        button.click(
            self.compare, [video, other, *chosen], [figures, others], api_name="compare", **waits
        )
        button.click(self.cancel, None, figures, api_name="cancel", queue=False)
        button.click(self.selectors, None, figures, api_name="selectors", queue=False)
        if self.jobs.model is not None:
            button.click(
                self.ask, [video, question, *chosen], [figures, others], api_name="ask", **waits
            )

    def gaze(
        self,
        request: gr.Request,
        video: str,
        selector: str | None = None,
        ratio: float | None = 0.1,
        loss: float | None = None,
        tiles: str = "resize",
        fps: float | None = None,
        max_tiles: float | None = None,
        start: float | None = None,
        end: float | None = None,
        seed: float | None = 0,
        skip_corrupt: bool = False,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio passes it
    ) -> list[Any]:
        """Gaze at a video: numbers, and the gaze, overlay, scales, reconstruction and sheet as files."""
        with self._errors(request, video) as session:
            chosen = self._settings(
                selector, ratio, loss, tiles, fps, max_tiles, start, end, seed, skip_corrupt
            )
            (run,) = self.jobs.gaze(session, video, chosen, None, progress)
        return [numbers(run), *(str(getattr(run.files, kind)) for kind in FILES)]

    def compare(
        self,
        request: gr.Request,
        video: str,
        other: str | None,
        selector: str | None = None,
        ratio: float | None = 0.1,
        loss: float | None = None,
        tiles: str = "resize",
        fps: float | None = None,
        max_tiles: float | None = None,
        start: float | None = None,
        end: float | None = None,
        seed: float | None = 0,
        skip_corrupt: bool = False,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        """Gaze at a video with two selectors: the numbers of both."""
        with self._errors(request, video) as session:
            chosen = self._settings(
                selector, ratio, loss, tiles, fps, max_tiles, start, end, seed, skip_corrupt
            )
            if not other:
                raise AutoGazeError("there is no other selector to compare with: name it")
            runs = self.jobs.gaze(session, video, chosen, other, progress)
        return [numbers(run) for run in runs]

    def ask(
        self,
        request: gr.Request,
        video: str,
        question: str,
        selector: str | None = None,
        ratio: float | None = 0.1,
        loss: float | None = None,
        tiles: str = "resize",
        fps: float | None = None,
        max_tiles: float | None = None,
        start: float | None = None,
        end: float | None = None,
        seed: float | None = 0,
        skip_corrupt: bool = False,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        """Ask about a video: the answers and their costs, gazed and dense."""
        with self._errors(request, video) as session:
            chosen = self._settings(
                selector, ratio, loss, tiles, fps, max_tiles, start, end, seed, skip_corrupt
            )
            answers = self.jobs.answer(session, video, question, chosen, progress)
        return [answer_numbers(answers.gazed), answer_numbers(answers.dense)]

    def cancel(self, request: gr.Request) -> dict[str, int]:
        """Stop this client's jobs; how many were running."""
        return {"cancelled": self.jobs.visitors.cancel(session_of(request))}

    def selectors(self) -> list[str]:
        """Names of the selectors that there are."""
        return list(self.jobs.pool.names)

    def _settings(self, selector: str | None, *values: Any) -> Settings:
        return settings(self.jobs.pool.names[0] if selector is None else selector, *values)

    @contextmanager
    def _errors(self, request: gr.Request, video: str | None) -> Iterator[str]:
        """The client's session, to which the video is attributed first; errors become those of clients."""
        try:
            session = session_of(request)
            with self.jobs.reading(session, video):
                yield session
        except Cancelled:
            raise gr.Error("cancelled", print_exception=False) from None
        except Exception as error:
            message = escape(self.jobs.message(error, video), quote=False)
            raise gr.Error(message, print_exception=False) from None


def _unseen(name: str, value: Any) -> Any:
    """An invisible component with the type and default of a parameter."""
    kind: type[Any] = gr.Checkbox if isinstance(value, bool) else gr.Number
    return (gr.Textbox if name in TEXTS else kind)(value, visible=False, label=name)


def session_of(request: gr.Request) -> str:
    """The visitor's session."""
    return request.session_hash or ""
