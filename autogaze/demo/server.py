"""Serving the page: its folder, its address, its end, and the requests that are refused.

The page loads nothing from elsewhere; requests cannot make the server fetch other addresses, and too
large ones are refused, whatever Gradio would do.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from autogaze.demo.limits import Limits
from autogaze.errors import AutoGazeError, MissingExtraError, OutputError, SelectorError
from autogaze.video.decoders import DecoderName, check_decoder

LOOPBACK = "127.0.0.1"

QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_HEARTBEAT_INTERVAL": "2",
}
"""Nothing is sent anywhere, whatever Gradio's defaults are; a visitor who leaves is noticed within seconds."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of serving the page.

    Args:
        host: address to listen at; the loopback address is reached from this machine only.
        port: 0 for any that is free.
        folder: in which the page makes its own folder of uploads and results; created if it is
            missing. None for the system's folder of temporary files.
        share: make a public address through Gradio's servers.
        selectors: that visitors may choose from; None for all of the package.
        model: folder or hub id of a multimodal LLM.
        device: where patches are chosen, and the model runs.
        dtype: precision of models; None: the multimodal LLM's as it was saved, selectors' as of
            `autogaze.load`.
        decoder: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`.
    """

    host: str = LOOPBACK
    port: int = 7860
    folder: Path | None = None
    share: bool = False
    selectors: Sequence[str] | None = None
    model: str | None = None
    device: str = "auto"
    dtype: str | None = None
    decoder: DecoderName = "auto"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Served:
    """A page that is being served: its address, and the one made public by `share`."""

    url: str
    shared_url: str | None
    page: Any


@contextmanager
def serving(options: ServerOptions) -> Iterator[Served]:
    """Serve the page inside the block; at its end visitors' jobs stop and their files are removed.

    One page at a time per process: Gradio reads its folder from the environment.

    Raises:
        MissingExtraError: gradio is not installed.
        OutputError: the folder is not writable.
        AutoGazeError: the port is in use, or no such host; a selector or model that cannot be loaded;
            no such device, precision or decoder here, or a precision without a model.
    """
    if find_spec("gradio") is None:
        raise MissingExtraError("gradio", "demo", "autogaze demo")
    port = free_port(options.host, options.port)
    check_decoder(options.decoder)
    check_models(options)
    with page_folder(options.folder) as root, _environment(root):
        from starlette.middleware import Middleware

        from autogaze.demo.page import Page
        from autogaze.demo.selectors import SelectorPool
        from autogaze.demo.style import CSS, HEAD, make_theme

        pool = SelectorPool(options.selectors, options.device, options.dtype)
        model = None
        if options.model is not None:
            from autogaze.mllm.answering import VideoMLLM

            dtype = options.dtype or "auto"
            model = VideoMLLM.load(options.model, device=options.device, dtype=dtype)
        page = Page(root, pool, options.limits, model, options.decoder)

        _, url, shared_url = page.blocks.launch(
            server_name=options.host,
            server_port=port,
            share=options.share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            inbrowser=False,
            allowed_paths=[],
            max_file_size=options.limits.bytes,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=["api"],
            app_kwargs={"middleware": [Middleware(Guard, max_bytes=options.limits.bytes)]},
            theme=make_theme(),
            css=CSS,
            head=HEAD,
        )
        try:
            yield Served(url, shared_url, page)
        finally:
            page.jobs.visitors.leave_all()
            page.blocks.close(verbose=False)


def check_models(options: ServerOptions) -> None:
    """Raise `AutoGazeError` for a device or precision that is not here, or without a model to have it.

    A visitor, at whose first job selectors are loaded, cannot help it.
    """
    from autogaze.selectors.registry import LEARNED, list_selectors
    from autogaze.utils.device import DeviceOptions

    DeviceOptions.parse(options.device, options.dtype or "float32")
    without = list_selectors().keys() - {LEARNED}
    names = options.selectors or list_selectors()
    if options.dtype not in (None, "float32") and not options.model and without >= set(names):
        raise SelectorError(
            f"--dtype {options.dtype}: {', '.join(names)} have no model, and compute in float32; leave it out"
        )


def free_port(host: str, port: int) -> int:
    """The port, or one that is free for 0.

    Raises:
        AutoGazeError: in use, not allowed, or no such host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AutoGazeError(
                f"cannot listen at {host}, port {port}: {error.strerror or error}; choose another "
                "with --port (0 for any that is free) or --host"
            ) from error
        return probe.getsockname()[1]


@contextmanager
def page_folder(parent: Path | None) -> Iterator[Path]:
    """A new folder that is removed at the end; `parent` is made where it is missing, and stays.

    Raises:
        OutputError: `parent` is no folder, or not writable.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix="autogaze-demo-", dir=parent)).resolve()
    except OSError as error:
        raise OutputError(
            f"--folder {parent}: no folder can be made there: {error.strerror or error}"
        ) from error
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _environment(root: Path) -> Iterator[None]:
    """Gradio's environment variables, restored at the end."""
    wanted = {**QUIET, "GRADIO_TEMP_DIR": str(root)}
    former = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


Scope = dict[str, Any]

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""Content-Security-Policy: the browser asks this server only."""

FETCHES = ("/file=http:", "/file=https:", "/file/http:", "/file/https:", "/proxy=")
"""Routes that make the server fetch an address that the visitor gives."""

OVERHEAD = 2**20
"""Bytes of a request beside the file in it."""


class Guard:
    """ASGI middleware.

    Args:
        app: the ASGI application behind it.
        max_bytes: of a request's body.
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes + OVERHEAD

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = unquote(scope["path"]).lower()
        if any(fetch in path for fetch in FETCHES):
            await _refuse(send, 403, "this page serves its own files only")
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_bytes:
            await _refuse(send, 413, f"at most {self.max_bytes - OVERHEAD:,} bytes are taken")
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, receive, guarded)


async def _refuse(send: Any, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
