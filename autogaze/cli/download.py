"""`autogaze download`: published models and data, fetched when they are asked for."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from autogaze.cli.command import Command, PrintJson
from autogaze.cli.errors import log
from autogaze.cli.report import figures_table, print_json, results_console
from autogaze.errors import DownloadError, OutputError


@dataclass(frozen=True)
class DownloadCommand(Command):
    """Download published models and data from the Hugging Face hub.

    Size and licence are shown first. An interrupted download resumes: complete files are not
    downloaded again.
    """

    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|HUB-ID", help="One of --list, or any hub id.", show_default=False
        ),
    ] = None
    show_list: Annotated[bool, typer.Option("--list", help="List names; needs no network.")] = False
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where files go.",
            show_default="the hub's cache, where models are found by their hub id",
        ),
    ] = None
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="PATTERN",
            help="Only files of this name, such as 'data/*'; repeat for more.",
            show_default="all",
        ),
    ] = None
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False
    json: PrintJson = False

    def __post_init__(self) -> None:
        if (self.name is None) != self.show_list:
            raise DownloadError("give the name of what is to be fetched, or --list")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise OutputError(f"--out {self.out}: is a file, expected a folder")

    def run(self) -> None:
        from autogaze.utils.downloads import fetch, find_offer, plan_download

        if self.name is None:
            self._list()
            return
        plan = plan_download(find_offer(self.name), self.include or (), self.out)
        log.info("%s", plan)
        if not self.yes:
            if not on_a_terminal():
                raise DownloadError("nothing was fetched: without a terminal, agree by --yes")
            typer.confirm("Fetch it?", abort=True, err=True)
        folder = fetch(plan)
        if self.json:
            print_json(
                {
                    "hub_id": plan.offer.hub_id,
                    "licence": plan.licence,
                    "bytes": plan.size,
                    "files": len(plan.files),
                    "folder": str(folder),
                }
            )
        else:
            print(folder)

    def _list(self) -> None:
        from autogaze.utils.downloads import OFFERS

        if self.json:
            for offer in OFFERS:
                print_json(asdict(offer))
            return
        table = figures_table("name", "hub id", "what", "size", "licence")
        for column in table.columns:
            column.justify = "left"
        for offer in OFFERS:
            table.add_row(offer.name, offer.hub_id, offer.what, offer.size, offer.licence)
        results_console().print(table)


def on_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()
