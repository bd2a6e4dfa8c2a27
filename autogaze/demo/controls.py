"""The components of the form, and how their values become settings."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from autogaze.checks import describe_value, whole
from autogaze.demo.limits import Limits
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.work import Settings
from autogaze.errors import AutoGazeError
from autogaze.selectors import registry
from autogaze.utils.seeding import check_seed

NOTHING = "Nothing"
"""Of the choices to compare with."""

TILES = ("resize", "pad", "one", "1x1", "2x1", "2x2")

ABOUT_TILES = (
    "How a frame is cut into squares: resized to a whole number of them, padded at the edge, one in "
    "all, or COLUMNSxROWS."
)


@dataclass(frozen=True)
class Controls:
    """The components of the form.

    Args:
        of_one: those whose values `settings` takes, in its order.
        other: the selector to compare with.
    """

    of_one: list[Any]
    other: gr.Dropdown

    @classmethod
    def add(cls, pool: SelectorPool, limits: Limits) -> "Controls":
        """Add them to the page that is being made."""
        names = list(pool.names)
        selector = gr.Dropdown(
            names, value=names[0], label="Selector", info=about(names[0]), elem_id="selector"
        )
        other = gr.Dropdown(
            [NOTHING, *names],
            value=NOTHING,
            label="Compare with",
            info="Another selector, or a control (random, centre), on the same video.",
            elem_id="other",
        )
        selector.change(
            lambda name: gr.Dropdown(info=about(name)),
            selector,
            selector,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        ratio = gr.Slider(
            0.005,
            1,
            0.1,
            step=0.005,
            label="Ratio",
            info="At most this share of all patches per frame.",
            elem_id="ratio",
        )
        loss = loss_field(
            selector,
            pool,
            info="A frame ends as soon as its error is at most this, say 0.02. Empty: no such stop.",
            elem_id="loss",
        )
        with gr.Row():
            tiles = gr.Dropdown(
                list(TILES),
                value="resize",
                label="Tiling",
                allow_custom_value=True,
                min_width=120,
                elem_id="tiles",
            )
            fps = optional_number(
                label="Frames per second",
                placeholder="all",
                min_width=120,
                elem_id="fps",
            )
        with gr.Accordion("More settings", open=False):
            with gr.Row():
                start = optional_number(
                    label="Start (s)",
                    placeholder="0",
                    min_width=90,
                    elem_id="start",
                )
                end = optional_number(
                    label="End (s)", placeholder="end", min_width=90, elem_id="end"
                )
            with gr.Row():
                max_tiles = gr.Number(
                    limits.tiles,
                    label="Most tiles",
                    minimum=1,
                    maximum=limits.tiles,
                    precision=0,
                    min_width=90,
                    elem_id="max_tiles",
                )
                seed = gr.Number(0, label="Seed", precision=0, min_width=90, elem_id="seed")
            skip_corrupt = gr.Checkbox(False, label="Skip corrupt frames", elem_id="skip_corrupt")
            gr.Markdown(ABOUT_TILES, elem_classes="ag-note")
        return cls(
            [selector, ratio, loss, tiles, fps, max_tiles, start, end, seed, skip_corrupt], other
        )


def optional_number(**options: Any) -> gr.Textbox:
    """A field that may stay empty: a `gr.Number` without a value is sent as 0."""
    return gr.Textbox(max_lines=1, **options)


def loss_field(selector: gr.Dropdown, pool: SelectorPool, **options: Any) -> gr.Textbox:
    """A field for a loss, disabled for selectors that cannot stop at one."""

    def state(name: str) -> dict[str, Any]:
        if pool.stops_by_loss(name):
            return {"interactive": True, "placeholder": "no stop"}
        return {"interactive": False, "placeholder": f"not for {name}", "value": ""}

    loss = optional_number(label="Loss", **options, **state(selector.value))
    selector.change(
        lambda name: gr.Textbox(**state(name)),
        selector,
        loss,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return loss


def parsed(name: str, value: float | str | None) -> float | None:
    """The number in a field, None where it is empty; a decimal comma is taken too.

    Raises:
        AutoGazeError: no number.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            return float(value.strip().replace(",", "."))
        except ValueError:
            raise AutoGazeError(f"{name} must be a number, got {describe_value(value)}") from None
    return value


def about(name: str) -> str:
    """How a selector chooses, in a line."""
    text = registry.list_selectors().get(name, "weights of this page's own")
    return f"{text[0].upper()}{text[1:]}."


def settings(
    selector: str,
    ratio: float | None = 0.1,
    loss: float | str | None = None,
    tiles: str = "resize",
    fps: float | str | None = None,
    max_tiles: float | None = None,
    start: float | str | None = None,
    end: float | str | None = None,
    seed: float | None = 0,
    skip_corrupt: bool = False,
) -> Settings:
    """The settings of values as a form or a client sends them.

    Raises:
        AutoGazeError: no number, or not a whole one; all else is checked where it is used.
    """
    if max_tiles is not None and whole(max_tiles) is None:
        raise AutoGazeError(f"max_tiles must be a whole number, got {describe_value(max_tiles)}")
    return Settings(
        selector=selector,
        ratio=ratio,
        loss=parsed("loss", loss),
        tiles=tiles,
        max_tiles=whole(max_tiles),
        fps=parsed("fps", fps),
        start=parsed("start", start),
        end=parsed("end", end),
        seed=None if seed is None else check_seed(seed),
        skip_corrupt=bool(skip_corrupt),
    )
