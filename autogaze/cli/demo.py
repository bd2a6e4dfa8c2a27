"""`autogaze demo`: a page in the browser, to gaze at one's own videos."""

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autogaze.cli.command import DTYPE_HELP, Command, Decoder, Device, log

serve_option = partial(typer.Option, rich_help_panel="Where it is served")
limit_option = partial(typer.Option, rich_help_panel="What a visitor may ask for")


@dataclass(frozen=True)
class DemoCommand(Command):
    """Serve a page: send a video or use the webcam, and see what a selector chooses.

    Reached from this machine only, unless --host or --share says otherwise.
    """

    selector: Annotated[
        list[str],
        typer.Option(
            metavar="NAME|FOLDER|HUB-ID",
            help="What visitors may choose from; give it several times.",
            show_default="all of `autogaze selectors`",
        ),
    ] = ()  # type: ignore[assignment]
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB-ID",
            help="Of a multimodal LLM, which answers questions dense and gazed.",
        ),
    ] = None
    device: Device = "auto"
    dtype: Annotated[
        str | None,
        typer.Option(help=DTYPE_HELP, show_default="as they were saved; float32 of the package's"),
    ] = None
    decoder: Decoder = "auto"
    host: Annotated[str, serve_option(help="Address to listen at.")] = "127.0.0.1"
    port: Annotated[int, serve_option(help="Port; 0 for any that is free.", min=0, max=65535)] = (
        7860
    )
    share: Annotated[
        bool,
        serve_option("--share", help="Make a public address, through Gradio's servers."),
    ] = False
    folder: Annotated[
        Path | None,
        serve_option(
            metavar="FOLDER",
            help="Where uploads and results lie while they are needed; made where it is missing.",
            show_default="the system's for temporary files",
        ),
    ] = None
    max_mb: Annotated[float, limit_option(help="Megabytes of an upload.")] = 200
    max_seconds: Annotated[float, limit_option(help="Seconds of video per job.")] = 60
    max_frames: Annotated[int, limit_option(help="Frames gazed at per job.")] = 1500
    max_tiles: Annotated[int, limit_option(help="Tiles of a frame; larger ones are shrunk.")] = 16
    jobs: Annotated[int, limit_option(help="Jobs at once.")] = 1
    max_waiting: Annotated[int, limit_option(help="Jobs that may wait for their turn.")] = 32
    webcams: Annotated[int, limit_option(help="Live webcams at once.")] = 4

    def run(self) -> None:
        from autogaze.demo.limits import Limits
        from autogaze.demo.server import ServerOptions, serving

        limits = Limits(
            megabytes=self.max_mb,
            seconds=self.max_seconds,
            frames=self.max_frames,
            tiles=self.max_tiles,
            jobs=self.jobs,
            waiting=self.max_waiting,
            live=self.webcams,
        )
        options = ServerOptions(
            host=self.host,
            port=self.port,
            folder=self.folder,
            share=self.share,
            selectors=self.selector or None,
            model=self.model,
            device=self.device,
            dtype=self.dtype,
            decoder=self.decoder,
            limits=limits,
        )
        with serving(options) as served:
            log.info("the page is at %s (Ctrl-C ends it)", served.url)
            if served.shared_url:
                log.info("and for everybody at %s", served.shared_url)
            wait()


def wait() -> None:
    """Until Ctrl-C or SIGTERM."""
    threading.Event().wait()
