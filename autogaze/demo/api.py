"""Endpoints of the page for programs, as `gradio_client` calls them: numbers as JSON, and files."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from autogaze.demo.ask import answer_numbers
from autogaze.demo.controls import settings
from autogaze.demo.figures import numbers
from autogaze.demo.jobs import Jobs
from autogaze.demo.work import Cancelled, Settings
from autogaze.errors import AutoGazeError

SETTINGS = tuple(
    one.replace(default=None, annotation=str | None) if one.name == "selector" else one
    for one in inspect.signature(settings).parameters.values()
)
"""Parameters of endpoints after those of their own. The default selector is the page's first."""

TEXTS = ("selector", "tiles")
"""Of these, those that are text."""

Values = dict[str, Any]
"""Settings by their names, as clients send them."""

FILES = ("gaze", "overlay", "scales", "reconstruction", "sheet")


def _with_settings(endpoint: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """The function that Gradio calls, and whose signature it shows: one parameter per setting, not `values`."""
    own = inspect.signature(endpoint)
    parameters: list[inspect.Parameter] = []
    for one in own.parameters.values():
        parameters += SETTINGS if one.name == "values" else (one,)
    signature = own.replace(parameters=parameters)

    @wraps(endpoint)
    def call(*given: Any) -> list[Any]:
        bound = signature.bind(*given)
        bound.apply_defaults()
        values = {one.name: bound.arguments.pop(one.name) for one in SETTINGS}
        return endpoint(**bound.arguments, values=values)

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


class Endpoints:
    """Functions behind the endpoints; parameters are called as in `Settings`."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def add(self, video: gr.Video) -> None:
        """Add the endpoints to the page that is being made, with invisible components."""
        chosen = [_unseen(one.name, one.default) for one in SETTINGS]
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

    @_with_settings
    def gaze(
        self,
        request: gr.Request,
        video: str,
        values: Values,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio passes it
    ) -> list[Any]:
        """Gaze at a video: numbers, and the gaze, overlay, scales, reconstruction and sheet as files."""
        with self._errors(request, video) as session:
            (run,) = self.jobs.gaze(session, video, self._settings(values), None, progress)
        return [numbers(run), *(str(getattr(run.files, kind)) for kind in FILES)]

    @_with_settings
    def compare(
        self,
        request: gr.Request,
        video: str,
        other: str | None,
        values: Values,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        """Gaze at a video with two selectors: the numbers of both."""
        with self._errors(request, video) as session:
            chosen = self._settings(values)
            if not other:
                raise AutoGazeError("there is no other selector to compare with: name it")
            runs = self.jobs.gaze(session, video, chosen, other, progress)
        return [numbers(run) for run in runs]

    @_with_settings
    def ask(
        self,
        request: gr.Request,
        video: str,
        question: str,
        values: Values,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        """Ask about a video: the answers and their costs, gazed and dense."""
        with self._errors(request, video) as session:
            chosen = self._settings(values)
            answers = self.jobs.answer(session, video, question, chosen, progress)
        return [answer_numbers(answers.gazed), answer_numbers(answers.dense)]

    def cancel(self, request: gr.Request) -> dict[str, int]:
        """Stop this client's jobs; how many were running."""
        return {"cancelled": self.jobs.visitors.cancel(session_of(request))}

    def selectors(self) -> list[str]:
        """Names of the selectors that there are."""
        return list(self.jobs.pool.names)

    def _settings(self, values: Values) -> Settings:
        selector = values["selector"]
        return settings(
            **{**values, "selector": self.jobs.pool.names[0] if selector is None else selector}
        )

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
