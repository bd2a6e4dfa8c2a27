"""`autogaze bench`: measurements that anybody can repeat."""

from typing import Annotated

import typer

from autogaze.cli.bench_encode import encode
from autogaze.cli.bench_fidelity import fidelity
from autogaze.cli.bench_quality import quality
from autogaze.cli.errors import EXIT_CODES, exit_codes
from autogaze.cli.options import PrintJson, device_option, dtype_option

bench = typer.Typer(no_args_is_help=True, help="Measure speed and quality on this machine.")


@bench.callback()
def root() -> None:
    """Measure speed and quality on this machine."""


@bench.command(epilog=EXIT_CODES)
def select(
    selectors: Annotated[
        list[str] | None,
        typer.Option("--selector", help="Only this one (repeat for more).", show_default="all"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB-ID",
            help="The learned selector's checkpoint; how long it takes does not depend on it.",
            show_default="those of the package",
        ),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(help="Where clips come from.", show_default="moving textures, made here"),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs; the median is shown.")] = 7,
    device: Annotated[str, device_option("Where the learned selector runs")] = "cpu",
    dtype: Annotated[str, dtype_option()] = "float32",
    json: PrintJson = False,
) -> None:
    """Time selectors, beside the arithmetic they need and the rate of this machine."""
    with exit_codes():
        from autogaze.cli.report import results_console
        from autogaze.errors import SelectorError
        from autogaze.evaluation.select import bench_select, print_report
        from autogaze.selectors import registry
        from autogaze.utils.device import Place

        known = list(registry.list_selectors())
        for name in selectors or ():
            if name not in known:
                raise SelectorError(f"unknown selector {name!r}; known are {', '.join(known)}")
        place = Place.parse(device, dtype)
        report = bench_select(
            selectors or known, weights, video, repeats, place.device, place.dtype
        )
        if json:
            print(report.to_json())
        else:
            print_report(report, results_console())


bench.command(epilog=EXIT_CODES)(encode)
bench.command(epilog=EXIT_CODES)(fidelity)
bench.command(epilog=EXIT_CODES)(quality)
