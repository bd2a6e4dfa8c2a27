"""`autogaze download`: published models and data that users know by name, fetched from the Hugging Face hub."""

import fnmatch
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from autogaze.cli.command import Command, PrintJson, log
from autogaze.cli.report import figures_table, print_json, results_console
from autogaze.errors import DownloadError, OutputError, first_line
from autogaze.utils.hub import is_hub_id


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


Kind = Literal["model", "dataset"]
UNKNOWN = "not stated"
TRANSPORTS = ("requests", "httpx", "httpx2")
"""Libraries that versions of the hub's client fetch with, whose errors it does not always wrap."""


@dataclass(frozen=True)
class Offer:
    """Something that can be fetched.

    Attributes:
        name: on the command line.
        size, licence: as far as known without asking; the hub's own are said before anything is fetched.
    """

    name: str
    hub_id: str
    kind: Kind
    what: str
    size: str = ""
    licence: str = ""


NVIDIA = "NVIDIA licence: non-commercial research"
OFFERS = (
    Offer("autogaze", "nvidia/AutoGaze", "model", "the published selector", "13 MB", NVIDIA),
    Offer("video-mae", "bfshi/VideoMAE_AutoGaze", "model", "the VideoMAE it was trained with", "", NVIDIA),
    Offer("nvila", "nvidia/NVILA-8B-HD-Video", "model", "NVILA-HD-Video, the MLLM", "16 GB", "CC BY-NC 4.0"),
    Offer("training-data", "bfshi/AutoGaze-Training-Data", "dataset", "its training videos and labels"),
    Offer("hlvid", "bfshi/HLVid", "dataset", "268 questions about 77 videos", "152 GB"),
)  # fmt: skip


def find_offer(name: str) -> Offer:
    """What a name, or a hub id, stands for.

    Args:
        name: of one of `OFFERS`, in any case; a hub id ("owner/name"); of a data set
            "datasets/owner/name".

    Raises:
        DownloadError: neither.
    """
    for offer in OFFERS:
        if name.lower() in (offer.name, offer.hub_id.lower(), f"datasets/{offer.hub_id}".lower()):
            return offer
    hub_id = name.removeprefix("datasets/")
    if not is_hub_id(hub_id):
        raise DownloadError(
            f"{name}: unknown; there are {', '.join(offer.name for offer in OFFERS)}, and hub ids "
            "(owner/name, or datasets/owner/name)"
        )
    kind: Kind = "model" if hub_id == name else "dataset"
    return Offer(hub_id, hub_id, kind, f"a {kind} of the hub")


@dataclass(frozen=True)
class Plan:
    """What fetching an offer means.

    Attributes:
        licence: as its card says.
        files: path -> bytes.
        present: bytes that are here already, from a fetch that was stopped.
        folder: where files go; None for the hub's cache, in which `autogaze.load` finds them.
    """

    offer: Offer
    licence: str
    files: dict[str, int]
    present: int
    patterns: tuple[str, ...]
    folder: Path | None

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def __str__(self) -> str:
        left = f", {show_size(self.present)} of it here already" if self.present else ""
        count = f"{len(self.files)} file{'s' * (len(self.files) != 1)}"
        return (
            f"{self.offer.hub_id}: {self.offer.what}, {count}, {show_size(self.size)}{left}; licence: "
            f"{self.licence}; to {self.folder or 'the cache of the Hugging Face hub'}"
        )


def plan_download(offer: Offer, patterns: Sequence[str] = (), folder: Path | None = None) -> Plan:
    """Ask the hub for files, sizes and licence; fetches nothing.

    Args:
        patterns: only files of these names, such as "data/*"; all by default.

    Raises:
        DownloadError: there is no such repository or file, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    info = _asking(
        offer, lambda: HfApi().repo_info(offer.hub_id, repo_type=offer.kind, files_metadata=True)
    )
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = {
        name: size
        for name, size in files.items()
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }
    if not wanted:
        raise DownloadError(
            f"{offer.hub_id}: none of its {len(files)} files is named {', '.join(patterns) or 'anything'}"
        )
    present = sum(
        size for name, size in wanted.items() if _is_here(offer, name, size, info.sha, folder)
    )
    return Plan(offer, _licence(info, offer), wanted, present, tuple(patterns), folder)


def fetch(plan: Plan) -> Path:
    """Fetch the files that are not here yet; those that an earlier fetch got whole are kept.

    Returns:
        The folder with the files.

    Raises:
        OutputError: the disk has too little room.
        DownloadError: the hub cannot be reached.
    """
    from huggingface_hub import constants, snapshot_download

    place = plan.folder or Path(constants.HF_HUB_CACHE)
    there = next(
        parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists()
    )
    left, free = plan.size - plan.present, shutil.disk_usage(there).free
    if left > free:
        raise OutputError(
            f"{place}: {show_size(left)} are still to be fetched, and {show_size(free)} are free there; "
            "name another folder (--out), or only some files (--include)"
        )
    return Path(
        _asking(
            plan.offer,
            lambda: snapshot_download(
                plan.offer.hub_id,
                repo_type=plan.offer.kind,
                allow_patterns=list(plan.patterns) or None,
                local_dir=plan.folder,
            ),
        )
    )


def show_size(count: int) -> str:
    """Bytes, in powers of 1,000, as the hub shows them."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _asking(offer: Offer, ask: Any) -> Any:
    """What the hub answers, its errors as ours."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"https://huggingface.co/{'datasets/' * (offer.kind == 'dataset')}{offer.hub_id}"
    try:
        return ask()
    except GatedRepoError as error:
        raise DownloadError(
            f"{offer.hub_id}: its terms have to be accepted first, at {page}; then log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{offer.hub_id}: the hub has no such {offer.kind}, or it is private (log in with `hf auth login`); "
            "data sets are named datasets/owner/name"
        ) from error
    except Exception as error:
        if not isinstance(error, OSError | ValueError) and _library(error) not in TRANSPORTS:
            raise
        raise DownloadError(
            f"{offer.hub_id}: cannot be fetched from the Hugging Face hub ({first_line(error)}); files "
            "that have arrived are kept, the same command goes on"
        ) from error


def _library(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _licence(info: Any, offer: Offer) -> str:
    card = info.card_data
    stated = [card.get(key) for key in ("license", "license_name")] if card else []
    named = " ".join(str(value) for value in stated if value and value != "other")
    return named or offer.licence or UNKNOWN


def _is_here(offer: Offer, name: str, size: int, sha: str | None, folder: Path | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if folder is not None:
        return os.path.isfile(folder / name) and os.path.getsize(folder / name) == size
    found = try_to_load_from_cache(offer.hub_id, name, revision=sha, repo_type=offer.kind)
    return isinstance(found, str)
