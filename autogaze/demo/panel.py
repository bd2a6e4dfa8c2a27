"""Where a job's results are shown: numbers, four videos that play together, the budget, downloads."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from autogaze.demo.figures import budget_chart, numbers_table
from autogaze.demo.work import Run


@dataclass(frozen=True)
class Panel:
    """The components of one job's results."""

    column: gr.Column
    numbers: gr.HTML
    video: gr.Video
    overlay: gr.Video
    reconstruction: gr.Video
    scales: gr.Video
    chart: gr.HTML
    sheet: gr.Image
    gaze_file: gr.DownloadButton
    overlay_file: gr.DownloadButton
    sheet_file: gr.DownloadButton

    @classmethod
    def add(cls, name: str) -> "Panel":
        """Add one to the page that is being made, hidden.

        Args:
            name: of its elements.
        """
        with gr.Column(
            visible=False, min_width=320, elem_id=f"panel-{name}", elem_classes="ag-panel"
        ) as column:
            numbers = gr.HTML(elem_id=f"numbers-{name}", padding=False)
            with gr.Row(elem_classes="ag-together"):
                video = _video("Video", f"video-{name}")
                overlay = _video("Chosen patches by scale", f"overlay-{name}")
            with gr.Row(elem_classes="ag-together"):
                reconstruction = _video("What these patches show", f"reconstruction-{name}")
                scales = _video("Scale by scale", f"scales-{name}")
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
        return cls(column, numbers, video, overlay, reconstruction, scales, chart, sheet, *files)

    @property
    def outputs(self) -> list[Any]:
        """The components that `shown` and `hidden` have values for."""
        return [
            self.column,
            self.numbers,
            self.video,
            self.overlay,
            self.reconstruction,
            self.scales,
            self.chart,
            self.sheet,
            self.gaze_file,
            self.overlay_file,
            self.sheet_file,
        ]

    @staticmethod
    def shown(run: Run, most: int, worst: float) -> list[Any]:
        """Values for a job's results.

        Args:
            most, worst: patches and error at the top of the drawings.
        """
        files = run.files
        return [
            gr.Column(visible=True),
            numbers_table(run),
            str(files.video),
            str(files.overlay),
            str(files.reconstruction),
            str(files.scales),
            budget_chart(run, most, worst),
            str(files.sheet),
            str(files.gaze),
            str(files.overlay),
            str(files.sheet),
        ]

    @staticmethod
    def hidden() -> list[Any]:
        """Values without results."""
        return [gr.Column(visible=False), "", *[None] * 4, "", *[None] * 4]


def _video(label: str, name: str) -> gr.Video:
    return gr.Video(
        label=label,
        interactive=False,
        autoplay=True,
        loop=True,
        min_width=260,
        buttons=[],
        elem_id=name,
    )
