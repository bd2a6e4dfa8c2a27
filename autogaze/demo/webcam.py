"""The webcam's tab of the page: frames arrive one by one, and each is shown with its gaze."""

import base64
import io
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from autogaze.demo.controls import loss_field, parsed
from autogaze.demo.limits import Limits
from autogaze.demo.live import LiveFrame, LiveGaze, LiveSettings
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.style import problem
from autogaze.demo.visitors import Visitors
from autogaze.errors import AutoGazeError
from autogaze.rendering.painter import percent

EVERY = 0.1
"""Seconds between two frames that a browser sends."""

LONGEST = 4096
"""Longer side of a webcam's frame that is taken, in pixels."""

CAMERA = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}}
"""Requested from browsers: more pixels would only take longer to send."""

NOT_LIVE = ("codec", "change")
"""One needs motion vectors, which webcams have none of; one ranks the frames of a whole chunk."""

WAITING = "<div class='ag-rate'>Start the camera, then press Record: every frame is gazed at as it comes.</div>"


def add_webcam(pool: SelectorPool, visitors: Visitors, limits: Limits) -> None:
    """Add the webcam to the page that is being made."""
    names = [name for name in pool.names if name not in NOT_LIVE]
    if not names:
        gr.Markdown("None of this page's selectors decides on frames as they come.")
        return
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            camera = gr.Image(
                label="Webcam",
                sources=["webcam"],
                streaming=True,
                type="numpy",
                webcam_options=gr.WebcamOptions(mirror=False, constraints=CAMERA),
                elem_id="camera",
            )
            selector = gr.Dropdown(names, value=names[0], label="Selector", elem_id="live-selector")
            ratio = gr.Slider(0.005, 1, 0.1, step=0.005, label="Ratio", elem_id="live-ratio")
            loss = loss_field(selector, pool, elem_id="live-loss")
        with gr.Column(scale=2, min_width=320):
            seen = gr.HTML(WAITING, elem_id="live")

    def look(
        frame: np.ndarray | None,
        selector: str,
        ratio: float | None,
        loss: str | None,
        request: gr.Request,
    ) -> Any:
        if frame is None:
            return gr.skip()
        if max(frame.shape[:2]) > LONGEST:
            return problem(
                f"frames of at most {LONGEST} pixels are taken, got {frame.shape[1]} x {frame.shape[0]}"
            )
        try:
            live = visitors.live(
                request.session_hash or "",
                LiveSettings(selector, ratio, parsed("loss", loss)),
                pool,
            )
            shown = live.look(np.array(frame[..., :3]))  # a copy that may be written to
        except AutoGazeError as error:
            return problem(str(error))
        return gr.skip() if shown is None else as_html(shown, live)

    camera.stream(
        look,
        [camera, selector, ratio, loss],
        seen,
        stream_every=EVERY,
        time_limit=limits.live_seconds,
        concurrency_limit=limits.live,
        concurrency_id="live",
        show_progress="hidden",
        api_visibility="private",
    )
    camera.clear(lambda: WAITING, None, seen, queue=False, api_visibility="private")


def as_html(shown: LiveFrame, live: LiveGaze) -> str:
    """Pictures in the page itself: a file per frame would be left behind."""
    rate = (
        f"<b>{shown.rate:.1f}</b> frames per second, <b>{shown.milliseconds:.1f}</b> ms to choose; "
        f"<b>{sum(shown.kept)}</b> of {shown.total} patches ({percent(sum(shown.kept) / shown.total)}), "
        f"error <b>{shown.loss:.3f}</b>; frame {shown.number}"
    )
    pictures = "".join(
        f"<figure><img src='{_data(pixels)}' alt='{label}'><figcaption>{label}</figcaption></figure>"
        for pixels, label in (
            (shown.overlay, "Chosen patches by scale"),
            (shown.canvas, "What these patches show"),
        )
    )
    return f"<div class='ag-rate'>{rate}</div><div class='ag-live'>{pictures}</div>"


def _data(pixels: np.ndarray) -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
