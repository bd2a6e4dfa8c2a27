"""Looks of the page: fonts that every system has, and styles that follow the light or dark theme."""

import json
from html import escape
from typing import Any

HEADING = (
    "<div class='ag-head'><h1>AutoGaze</h1><p>The few multi-scale patches that carry a video's "
    "information, chosen before a vision transformer sees it.</p></div>"
)

CSS = """
.gradio-container { max-width: 1500px !important; width: 100% !important; margin: 0 auto !important; }
.ag-guide { padding: 22px 14px; max-width: 46rem; color: var(--body-text-color); }
.ag-guide h2 { font-size: 1.1rem; margin: 0 0 10px; }
.ag-guide dt { font-weight: 600; margin-top: 12px; }
.ag-guide dd { margin: 2px 0 0; color: var(--body-text-color-subdued); line-height: 1.5; }
.ag-note { font-size: 0.85rem; }
#status .html-container, #ask-status .html-container, #guide .html-container,
[id^=numbers-] .html-container, [id^=chart-] .html-container { padding: 0 !important; }
.ag-head h1 { font-size: 1.5rem; margin: 0; }
.ag-head p { margin: 2px 0 0; color: var(--body-text-color-subdued); }
.ag-status { padding: 10px 14px; border-radius: 8px; min-height: 44px; background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); overflow-wrap: anywhere; }
.ag-status[role=alert] { border-color: #c62828; border-left-width: 5px; }
.ag-status[role=alert] b { color: #c62828; }
.dark .ag-status[role=alert] b { color: #ff8a80; }
table.ag-numbers { width: 100%; border-collapse: collapse; font-size: 0.92rem; margin: 0 !important; border: 0 !important; }
.ag-numbers tbody, .ag-numbers tr { border: 0 !important; }
.ag-numbers caption { text-align: left; font-weight: 600; font-size: 1.05rem; padding: 2px 0 8px; }
.ag-numbers th, .ag-numbers td { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important;
  padding: 6px 14px 6px 0 !important; vertical-align: top; color: var(--body-text-color); }
.ag-numbers th { text-align: left; font-weight: 500; white-space: nowrap; width: 1%; padding-right: 22px !important;
  color: var(--body-text-color-subdued); }
.ag-numbers td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.ag-numbers tr:last-child > * { border-bottom: 0 !important; }
.ag-together label[data-testid=block-label] { position: static !important; border: 0 !important; width: fit-content; }
#status .pending .ag-status, #ask-status .pending .ag-status { color: transparent; } /* progress lies over it */
#status .ag-status { min-height: 64px; }
.ag-to-results { display: none; }
.ag-panels { display: grid !important; grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); }
.ag-panel { display: grid !important; grid-row: span 6; grid-template-rows: subgrid; } /* both level */
@media (max-width: 760px) { .ag-to-results { display: inline; } }
.ag-chip { display: inline-flex; align-items: center; gap: 6px; margin-right: 14px; white-space: nowrap; }
.ag-chip i { width: 11px; height: 11px; border-radius: 3px; display: inline-block; }
.ag-chart { margin: 0; color: var(--body-text-color); font-size: 0.85rem; }
.ag-chart figcaption { font-weight: 500; padding: 6px 0 4px 60px; text-align: left; }
.ag-plot { display: grid; grid-template-columns: 52px 1fr; gap: 8px; }
.ag-plot svg { width: 100%; height: 100%; display: block; border-bottom: 1px solid var(--body-text-color-subdued); }
.ag-high { height: 150px; }
.ag-low { height: 60px; }
.ag-scale { display: flex; flex-direction: column; justify-content: space-between; text-align: right;
  line-height: 1; font-variant-numeric: tabular-nums; }
.ag-time { display: flex; justify-content: space-between; padding: 4px 0 0 60px; }
.ag-line { fill: none; stroke: var(--body-text-color); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.ag-live { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 10px; }
.ag-live figure { margin: 0; }
.ag-live img { width: 100%; border-radius: 6px; display: block; }
.ag-live figcaption { font-size: 0.85rem; padding-top: 4px; color: var(--body-text-color-subdued); }
.ag-rate { font-size: 1.05rem; padding-bottom: 8px; font-variant-numeric: tabular-nums; }
.ag-answer h4 { margin: 0 0 6px; }
.ag-answer p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 10px; }
:focus-visible { outline: 3px solid #5c7cfa !important; outline-offset: 2px; }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""

HEAD = """
<script>
// The videos of a page play, pause and jump together, so that they show the same frame.
(() => {
  let leading = false;
  const others = (one) => [...document.querySelectorAll(".ag-together video")].filter((v) => v !== one);
  const follow = (event) => {
    const one = event.target;
    if (leading || !(one instanceof HTMLVideoElement) || !one.closest(".ag-together")) return;
    leading = true;
    for (const other of others(one)) {
      if (Math.abs(other.currentTime - one.currentTime) > 0.05) other.currentTime = one.currentTime;
      other.playbackRate = one.playbackRate;
      if (event.type === "play") other.play().catch(() => {});
      if (event.type === "pause" && !one.ended) other.pause();
    }
    setTimeout(() => { leading = false; }, 120);
  };
  for (const kind of ["play", "pause", "seeked", "ratechange"]) document.addEventListener(kind, follow, true);
  // Named for screen readers by what stands above them.
  const name = ({target: one}) => {
    const label = one instanceof HTMLVideoElement && one.closest(".block")?.querySelector("[data-testid=block-label]");
    if (label) one.setAttribute("aria-label", label.textContent.trim());
  };
  for (const kind of ["loadstart", "loadedmetadata"]) document.addEventListener(kind, name, true);
})();
</script>
"""

GUIDE = """<div class='ag-guide'><h2>What you will see</h2><dl>
<dt>Chosen patches by scale</dt><dd>Where the selector looks, frame by frame: coarse patches cover much at low
resolution, fine ones carry detail.</dd>
<dt>What these patches show</dt><dd>The video put together from them alone, each on top of the frame before.</dd>
<dt>Tokens, error, time</dt><dd>How many patches are kept of all, how far the picture above is from the video, and the
milliseconds of every stage.</dd>
<dt>Savings</dt><dd>Operations that SigLIP2-base and SigLIP2-SO400M need for the kept patches, and for choosing them,
in place of encoding every frame whole.</dd>
<dt>Compare</dt><dd>A second selector, or a control that does not look (random, centre), on the same video.</dd>
</dl></div>"""
"""Shown until there are results."""

TO_RESULTS = "<a class='ag-to-results' href='#panel-a'>To the results</a>"
"""Shown where the results are below the form."""


def make_theme() -> Any:
    """Fonts of the system, and subdued text that can be read (contrast of at least 4.5)."""
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return theme.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def status(text: str) -> str:
    """A status line as HTML; `text` is HTML too."""
    return f"<div class='ag-status' role='status' aria-live='polite'>{text}</div>"


def clearing(text: str) -> str:
    """JavaScript that replaces the status line by `status(text)`."""
    return f"() => {json.dumps(status(text))}"


def problem(text: str) -> str:
    """An error message as HTML; `text` is plain text."""
    return f"<div class='ag-status' role='alert'><b>Not possible:</b> {escape(text)}</div>"
