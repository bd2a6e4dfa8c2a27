"""A hub on this machine: the few requests that fetching a repository takes, and lines that break."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves repositories.

    Attributes:
        repositories: "models/owner/name" or "datasets/owner/name" -> path -> content.
        break_after: bytes of content after which a connection breaks; None: never.
        num_breaks: how many of them.
        sent: (path, first byte) of every answer with content.
        status: of the answers about repositories, instead of the right one.
    """

    daemon_threads = True

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.break_after: int | None = None
        self.num_breaks = 1
        self.sent: list[tuple[str, int]] = []
        self.status: int | None = None
        self.card: dict[str, Any] = {"license": "other", "license_name": "nvidia"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/(\w+/[\w.-]+/[\w.-]+)(/revision/\w+|/tree/\w+)?", path):
            self._api(match[1], tree="/tree/" in (match[2] or ""))
        elif match := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path):
            kind = "datasets" if match[1] else "models"
            self._file(
                self.server.repositories.get(f"{kind}/{match[2]}", {}).get(match[3]), match[3]
            )
        else:
            self._answer(404, b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _api(self, name: str, *, tree: bool) -> None:
        files = self.server.repositories.get(name)
        if files is None or self.server.status is not None:
            code = {403: "GatedRepo", 404: "RepoNotFound"}.get(self.server.status or 404, "")
            self._answer(self.server.status or 404, b"{}", {"X-Error-Code": code})
            return
        listed = [
            {
                "type": "file", "path": path, "rfilename": path, "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(), "blobId": hashlib.sha1(content).hexdigest(),
            }
            for path, content in files.items()
        ]  # fmt: skip
        repository_id = name.partition("/")[2]
        about = {"id": repository_id, "modelId": repository_id, "sha": SHA, "siblings": listed, "cardData": self.server.card}  # fmt: skip
        body = json.dumps(listed if tree else about).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, content: bytes | None, path: str) -> None:
        if content is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}  # fmt: skip
        first = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(asked[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            self.server.sent.append((path, first))
        self._answer(206 if first else 200, content[first:], headers, content=True)

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        content: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "GET":
            return
        if content and (left := self.server.break_after) is not None:
            self.close_connection = len(body) > left
            body = body[:left]
            self.server.num_breaks -= self.close_connection
            if self.server.num_breaks == 0:
                self.server.break_after = None
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
