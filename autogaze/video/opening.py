"""Opening files, and choosing a video stream of them; FFmpeg's errors become messages that name the
file and the cause.
"""

import os
import re
import sys
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from autogaze.checks import as_path, why_absent
from autogaze.errors import VideoError
from autogaze.video.structure import animated_avif_brand, boxes, heif_brand


def local_path(path: str | Path) -> Path:
    """The path of a local file.

    Raises:
        VideoError: a URL, or what is no path.
    """
    if isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise VideoError(f"{path}: is a URL; files of this machine are read, so download it first")
    return as_path(path, VideoError)


def open_container(path: Path) -> InputContainer:
    """Open a file for reading.

    Raises:
        VideoError: missing, a folder, a pipe, unreadable, empty, or nothing FFmpeg knows.
    """
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, expected a video file")
    if not path.exists():
        raise VideoError(f"{path}: {why_absent(path)}")
    if not path.is_file():
        raise VideoError(
            f"{path}: is a pipe or a device, of which one cannot read twice; save it to a file first"
        )
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    try:
        # Absolute, since FFmpeg takes what stands before a colon for a protocol.
        container = av.open(os.path.abspath(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        if "moov" not in (kinds := [kind for kind, _ in boxes(path)]) and "ftyp" in kinds:
            cause = (
                "its index (moov) is missing: the file was cut short, or its recording or "
                "download never finished"
            )
        elif isinstance(error, PermissionError):
            cause = "permission denied"
        else:
            cause = f"not a video that FFmpeg can read ({reason(error)})"
        raise VideoError(f"{path}: {cause}") from error
    if heif_brand(path) and len(container.streams.video) > 1:
        tiles = len(container.streams.video)
        container.close()
        raise VideoError(
            f"{path}: is an HEIC picture of {tiles} parts, which the extra `heif` reads: "
            "pip install 'autogaze[heif]', or convert it to JPEG"
        )
    if animated_avif_brand(path) and not _pillow_reads_avif():
        container.close()
        raise VideoError(
            f"{path}: is an animated AVIF, of which FFmpeg reads the first picture alone; "
            "pip install 'pillow>=11.3', which reads all of it"
        )
    return container


def _pillow_reads_avif() -> bool:
    Image.init()  # registers all formats, once
    if "AVIF" not in Image.OPEN:
        return False
    # It may be registered by a build of Pillow that has no decoder: then its module says so.
    plugin = sys.modules[Image.OPEN["AVIF"][0].__module__]
    return bool(getattr(plugin, "SUPPORTED", True))


def names_other_files(path: Path) -> bool:
    """Whether FFmpeg takes a file for a list of other files, which it would read: HLS, DASH, ffconcat."""
    with open(path, "rb") as file:
        start = file.read(512)
    # FFmpeg wants the first two at the very beginning; of DASH, which is XML, any beginning is refused.
    return (
        start.startswith((b"#EXTM3U", b"ffconcat"))
        or start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<"
    )


def reason(error: Exception) -> str:
    """FFmpeg's or the system's own words for an error, without numbers and paths."""
    return str(getattr(error, "strerror", None) or error).rstrip(":. ")


_NOT_SHOWN = (
    Disposition.attached_pic
    | Disposition.timed_thumbnails
    | Disposition.dependent
    | Disposition.still_image
)


def video_stream(container: InputContainer, path: Path, number: int | None = None) -> VideoStream:
    """A video stream of a file.

    Args:
        path: for messages.
        number: among the video streams, from 0, cover pictures included; None for the default:
            no cover picture, marked as default, the largest one, the first one, in this order.

    Raises:
        VideoError: there is none.
    """
    streams = container.streams.video
    if number is not None:
        if not 0 <= number < len(streams):
            known = f"it has {len(streams)}, numbered from 0" if streams else "it has none"
            raise VideoError(f"{path}: no video stream {number} in it, {known}")
        return streams[number]
    if (found := default_stream(container)) is not None:
        return found
    kinds: list[str] = sorted({one.type for one in container.streams if one.type != "video"})
    kinds += ["a cover picture"] if streams else []
    raise VideoError(f"{path}: no video stream in it, only {' and '.join(kinds) or 'nothing'}")


def default_stream(container: InputContainer) -> VideoStream | None:
    """The video stream that is taken where none is chosen; None if all are cover pictures."""
    streams = container.streams.video
    moving = [one for one in streams if not one.disposition & Disposition.attached_pic]
    shown = [one for one in moving if not one.disposition & _NOT_SHOWN] or moving
    return max(shown, key=_preference, default=None)


def _preference(stream: VideoStream) -> tuple[bool, int, int]:
    context = stream.codec_context
    pixels = 0 if context is None else context.width * context.height
    return bool(stream.disposition & Disposition.default), pixels, -stream.index


def index_is_complete(stream: VideoStream) -> bool:
    """Whether the container's index has an entry for every frame (MP4 and its relatives)."""
    container = stream.container
    if "mp4" not in container.format.name or not len(stream.index_entries) == stream.frames > 0:
        return False
    path = Path(str(container.name))
    return not path.is_file() or all(kind != "moof" for kind, _ in boxes(path))
