"""Options that several commands share: their names, types, help and panels."""

from typing import Annotated, Any, Literal

import typer

WHAT = "What to measure"
HOW = "How to measure"
FILES = "Files to write"


def device_option(where: str = "Where models run", panel: str | None = None) -> Any:
    """`--device`, for a `str`; `where` begins its help."""
    return typer.Option("--device", help=f"{where}: cpu or cuda.", rich_help_panel=panel)


def dtype_option(of: str = "In", panel: str | None = None) -> Any:
    """`--dtype`, for a `str`; `of` begins its help, such as "A VideoMAE's:"."""
    return typer.Option("--dtype", help=f"{of} float32 or bfloat16.", rich_help_panel=panel)


def selectors_option(default: str) -> Any:
    """`--selector`, for a list; `default` says which are taken otherwise."""
    return typer.Option(
        "--selector",
        metavar="NAME|FOLDER|HUB-ID",
        help="Any of `autogaze selectors`, or a checkpoint; repeat for more. random and centre "
        "are always there.",
        show_default=default,
        rich_help_panel=WHAT,
    )


def fps_option(default: str, more: str = "") -> Any:
    """`--fps`; `default` says what is taken otherwise."""
    return typer.Option(
        "--fps", help=f"Frames a second{more}.", show_default=default, rich_help_panel=WHAT
    )


def plot_option(shows: str) -> Any:
    """`--plot`, for a path; `shows` says what of."""
    return typer.Option(
        "--plot",
        metavar="FILE",
        help=f"{shows} (.png); needs matplotlib.",
        rich_help_panel=FILES,
    )


Device = Annotated[str, device_option(panel=HOW)]
Dtype = Annotated[str, dtype_option(panel=HOW)]
JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="All figures (.json).", rich_help_panel=FILES),
]
PrintJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="A Python file that registers an encoder family of your own; repeat for more.",
        show_default=False,
        rich_help_panel=WHAT,
    ),
]
AttentionName = Literal["block_causal", "causal", "bidirectional", "frame_independent"]
