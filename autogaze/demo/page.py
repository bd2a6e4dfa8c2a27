"""The page: the form's buttons, the panels of results, and what happens when a visitor uses them."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from autogaze.demo.api import Endpoints, session_of
from autogaze.demo.ask import answer_card
from autogaze.demo.controls import NOTHING, Controls, settings
from autogaze.demo.examples import EXAMPLES, draw_examples
from autogaze.demo.figures import budget_chart, largest_error, numbers_table, peak, title
from autogaze.demo.jobs import Jobs
from autogaze.demo.limits import Limits
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.style import GUIDE, HEADING, TO_RESULTS, clearing, problem, status
from autogaze.demo.webcam import add_webcam
from autogaze.demo.work import Cancelled, Run
from autogaze.video.decoders import DecoderName

if TYPE_CHECKING:
    from autogaze.mllm.answering import VideoMLLM

READY = "Choose an example or send a video, then press <b>Gaze</b>."
CANCELLED = "Cancelled."


class Page:
    """The page and its visitors.

    Args:
        root: its folder: uploads, examples and results.
        model: a multimodal LLM that answers questions, if there is one.
        decoder: of visitors' videos.

    Attributes:
        blocks: the Gradio application.
        jobs: of the visitors.
    """

    def __init__(
        self,
        root: Path,
        pool: SelectorPool,
        limits: Limits,
        model: "VideoMLLM | None" = None,
        decoder: DecoderName = "auto",
    ) -> None:
        self.limits = limits
        examples = root / "examples"
        examples.mkdir()
        self.jobs = Jobs(root, examples, pool, limits, model, decoder)
        drawn = draw_examples(examples)
        every, age = 60, round(60 * limits.minutes)  # seconds
        with gr.Blocks(
            title="AutoGaze", analytics_enabled=False, delete_cache=(every, age)
        ) as self.blocks:
            gr.HTML(HEADING)
            with gr.Tab("Video"):
                self._add_video(drawn)
            with gr.Tab("Webcam, live"):
                add_webcam(pool, self.jobs.visitors, limits)
            self.blocks.unload(self._leave)
        self.blocks.queue(max_size=limits.waiting, default_concurrency_limit=limits.jobs)

    def _add_video(self, drawn: list[Path]) -> None:
        """Form and status line on the left, results on the right."""
        limits = self.limits
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                video = gr.Video(
                    label=f"Video: at most {limits.seconds:g} s and {limits.megabytes:g} MB",
                    sources=["upload", "webcam"],
                    include_audio=True,  # left alone: taking it out needs a program of its own
                    height=280,
                    elem_id="video",
                )
                without_addresses(video)
                gr.Examples(
                    [[str(path)] for path in drawn],
                    [video],
                    label="Examples, drawn by this program",
                    example_labels=[example.text for example in EXAMPLES],
                    elem_id="examples",
                    api_visibility="private",
                )
                with gr.Row():
                    start = gr.Button("Gaze", variant="primary", elem_id="gaze", min_width=120)
                    cancel = gr.Button("Cancel", elem_id="cancel", min_width=120)
                line = gr.HTML(status(READY), elem_id="status", padding=False)
                controls = Controls.add(self.jobs.pool, limits)
            with gr.Column(scale=3, min_width=320):
                guide = gr.HTML(GUIDE, elem_id="guide", padding=False)
                with gr.Row(elem_classes="ag-panels"):
                    panels = [*add_panel("a"), *add_panel("b")]
                asking = [self._add_question(video, controls)] if self.jobs.model else []
        # Set by the browser, so that it cannot overwrite a later message of the job.
        start.click(None, None, line, js=clearing("Starting."), api_visibility="private")
        running = start.click(
            self._gaze,
            [video, controls.other, *controls.of_one],
            [line, guide, *panels],
            concurrency_limit=limits.jobs,
            concurrency_id="jobs",
            show_progress_on=[line],
            api_visibility="private",
        )
        cancel.click(
            self._cancel,
            None,
            [line, *(below for _, below in asking)],
            cancels=[running, *(asked for asked, _ in asking)],
            queue=False,
            api_visibility="private",
        )
        for sent in (video.upload, video.stop_recording):
            sent(self._uploaded, video, None, queue=False, api_visibility="private")
        Endpoints(self.jobs).add(video)

    def _add_question(self, video: gr.Video, controls: Controls) -> tuple[Any, gr.HTML]:
        """The question to a multimodal LLM and both answers; returns the event and its status line."""
        question = gr.Textbox(
            label="Ask about the video", placeholder="What happens?", elem_id="question"
        )
        ask = gr.Button("Ask, gazed and dense", elem_id="ask")
        line = gr.HTML(elem_id="ask-status", padding=False)
        with gr.Row():
            gazed, dense = gr.HTML(elem_id="gazed"), gr.HTML(elem_id="dense")
        ways = [ask.click, question.submit]
        gr.on(ways, None, None, line, js=clearing("Starting."), api_visibility="private")
        asked = gr.on(
            ways,
            self._ask,
            [video, question, *controls.of_one],
            [line, gazed, dense],
            concurrency_limit=self.limits.jobs,
            concurrency_id="jobs",
            show_progress_on=[line],
            api_visibility="private",
        )
        return asked, line

    # Gradio passes requests and progress by position, before what components hold.

    def _gaze(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio passes it
        video: str | None = None,
        other: str = NOTHING,
        *values: Any,
    ) -> list[Any]:
        """Run one selector or two, and show the results."""
        nothing = [gr.HTML(visible=True), *hidden_panel(), *hidden_panel()]
        session = session_of(request)
        self.jobs.visitors.forget_results(session)
        try:
            also = None if other == NOTHING else other
            runs = self.jobs.gaze(session, video, settings(*values), also, progress)
        except Cancelled:
            return [status(CANCELLED), *nothing]
        except Exception as error:
            return [problem(self.jobs.message(error, video)), *nothing]
        tops = max(map(peak, runs)), max(map(largest_error, runs))
        second = shown_panel(runs[1], *tops) if len(runs) > 1 else hidden_panel()
        names = " and ".join(escape(title(run)) for run in runs)
        done = f"Done in {sum(run.summary.wall for run in runs):.1f} s: {names}. {TO_RESULTS}"
        return [status(done), gr.HTML(visible=False), *shown_panel(runs[0], *tops), *second]

    def _ask(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
        video: str | None = None,
        question: str = "",
        *values: Any,
    ) -> list[Any]:
        """Answer a question gazed and dense."""
        session = session_of(request)
        try:
            answers = self.jobs.answer(session, video, question, settings(*values), progress)
        except Cancelled:
            return [status(CANCELLED), "", ""]
        except Exception as error:
            return [problem(self.jobs.message(error, video)), "", ""]
        return [
            status("Answered, gazed and dense."),
            answer_card(answers.gazed, "Gazed"),
            answer_card(answers.dense, "Dense"),
        ]

    def _cancel(self, request: gr.Request) -> Any:
        self.jobs.visitors.cancel(session_of(request))
        line = status(CANCELLED)
        return line if self.jobs.model is None else (line, "")

    def _leave(self, request: gr.Request) -> None:
        self.jobs.visitors.leave(session_of(request))

    def _uploaded(self, video: str | None, request: gr.Request) -> None:
        if video:
            self.jobs.uploaded(session_of(request), video)


def add_panel(name: str) -> list[Any]:
    """Add a panel of one job's results to the page that is being made, hidden.

    Args:
        name: of its elements.

    Returns:
        The components that `shown_panel` and `hidden_panel` have values for.
    """
    with gr.Column(
        visible=False, min_width=320, elem_id=f"panel-{name}", elem_classes="ag-panel"
    ) as column:
        numbers = gr.HTML(elem_id=f"numbers-{name}", padding=False)
        with gr.Row(elem_classes="ag-together"):
            video = _result_video("Video", f"video-{name}")
            overlay = _result_video("Chosen patches by scale", f"overlay-{name}")
        with gr.Row(elem_classes="ag-together"):
            reconstruction = _result_video("What these patches show", f"reconstruction-{name}")
            scales = _result_video("Scale by scale", f"scales-{name}")
        chart = gr.HTML(elem_id=f"chart-{name}", padding=False)
        with gr.Accordion("Contact sheet", open=False):
            sheet = gr.Image(
                label="Contact sheet",
                show_label=False,
                interactive=False,
                buttons=["fullscreen"],
                elem_id=f"sheet-{name}",
            )
        with gr.Row():
            files = [
                gr.DownloadButton(f"Download {what}", size="sm", elem_id=f"save-{kind}-{name}")
                for kind, what in (
                    ("gaze", "gaze (.safetensors)"),
                    ("overlay", "overlay (.mp4)"),
                    ("sheet", "sheet (.png)"),
                )
            ]
    return [column, numbers, video, overlay, reconstruction, scales, chart, sheet, *files]


def _result_video(label: str, name: str) -> gr.Video:
    return gr.Video(
        label=label,
        interactive=False,
        autoplay=True,
        loop=True,
        min_width=260,
        buttons=[],
        elem_id=name,
    )


def shown_panel(run: Run, most: int, worst: float) -> list[Any]:
    """Values of a panel for a job's results.

    Args:
        most, worst: patches and error at the top of the drawings.
    """
    files = run.files
    videos = files.video, files.overlay, files.reconstruction, files.scales
    return [
        gr.Column(visible=True),
        numbers_table(run),
        *map(str, videos),
        budget_chart(run, most, worst),
        *map(str, (files.sheet, files.gaze, files.overlay, files.sheet)),
    ]


def hidden_panel() -> list[Any]:
    """Values of a panel without results."""
    return [gr.Column(visible=False), "", *[None] * 4, "", *[None] * 4]


def without_addresses(component: Any) -> None:
    """Keep a component from fetching the address that a client gives in place of a file.

    Set on the object: a class of its own would make the library write a file beside this one.
    """
    moved = component.async_move_resource_to_block_cache

    async def move(place: str | Path | None) -> str | None:
        if str(place).lower().startswith(("http:", "https:")):
            raise gr.Error("addresses are not fetched: send the file", print_exception=False)
        return await moved(place)

    component.async_move_resource_to_block_cache = move
