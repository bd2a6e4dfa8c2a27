"""Requests that the page's server refuses, whatever Gradio would do.

The page loads nothing from elsewhere; requests cannot make the server fetch other addresses, and too
large ones are refused.
"""

from typing import Any
from urllib.parse import unquote

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
