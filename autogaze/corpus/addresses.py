"""Paths and URIs of inputs as text: their parts, and the one spelling that all spellings of a file become."""

import os
import posixpath
import re
from urllib.parse import quote, urlsplit, urlunsplit

from autogaze.checks import without_file_scheme

CHAINED = ("zip", "tar", "libarchive", "filecache", "simplecache", "blockcache")
"""Kinds of file systems whose files lie in another, named behind `::`."""

_ALIASES = {"s3a": "s3", "gcs": "gs"}
"""Other names of kinds of file systems."""

_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def is_uri(path: str) -> bool:
    """Whether a path names its file system, as in `s3://bucket/video.mp4`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def absolute(path: str, folder: str | None = None) -> str:
    """The absolute path of an input; of a URI the one spelling of its file, and no `file://`.

    Args:
        folder: that relative paths start from; None: the current one.
    """
    path = without_file_scheme(path)
    if is_uri(path):
        return one_spelling(path)
    if folder is not None and is_uri(folder) and not os.path.isabs(path):
        kind, _, place = f"{folder}/{path}".partition("://")
        if {".", ".."} & set(place.split("/")):  # object stores take these for names
            place = posixpath.normpath(place)
        return one_spelling(f"{kind}://{place}")
    return os.path.abspath(os.path.join(folder or "", os.path.expanduser(path)))


def parent(path: str) -> str:
    """The folder of a file."""
    return file_name(path).rpartition("/")[0] if is_uri(path) else os.path.dirname(path)


def is_http(path: str) -> bool:
    """Whether a path is a URL of the web, where `?` begins the query and a folder is a page of links."""
    return path.lower().startswith(("http://", "https://"))


def file_name(path: str) -> str:
    """A path without the query and fragment that a URL of the web may end with (signatures, mostly)."""
    return re.split("[?#]", path, maxsplit=1)[0] if is_http(path) else path


def one_spelling(uri: str) -> str:
    """A URI as all its spellings become: `s3a://`, `HTTP://Host:80/./a b.mp4`, a slash at the end of a name."""
    kind, _, place = uri.partition("://")
    kind = kind.lower()
    if kind in CHAINED:
        return uri
    if is_http(uri):
        return _url(uri)
    return f"{_ALIASES.get(kind, kind)}://{place.rstrip('/') or place}"


def _url(url: str) -> str:
    """A URL as it is sent to its server (RFC 3986, 6.2.2); its query, which may be signed, stays."""
    try:
        kind, netloc, path, query, _ = urlsplit(url)
    except ValueError:  # no host can be read from it, which whoever opens it says
        return url
    user, at, host = netloc.rpartition("@")
    host = host.lower().removesuffix(":443" if kind == "https" else ":80")
    # Brackets stay for patterns, and what is escaped stays so, unless it need not be: `%2E%2E` is `..`.
    path = quote(path, safe="/%:@!$&'()*+,;=~[]", errors="surrogateescape")
    path = re.sub("%([0-9A-Fa-f]{2})", lambda escape: _unescaped(escape[1]), path)
    parts: list[str] = []
    for part in path.split("/")[1:]:
        if part == "..":
            parts[-1:] = []
        elif part != ".":
            parts.append(part)
    if path.endswith(("/.", "/..")):
        parts.append("")
    path = "/".join(("", *parts))
    return urlunsplit((kind, f"{user}{at}{host}", path, query, ""))


def _unescaped(digits: str) -> str:
    character = chr(int(digits, 16))
    return character if _UNRESERVED.match(character) else f"%{digits.upper()}"
