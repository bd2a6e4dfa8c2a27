"""Jumping into the middle of a file, and knowing which number the frame there has.

Containers seek by time and do not number frames. Where an MP4's own index proves a
constant frame rate the number follows from the time; elsewhere the packets up to
there are counted, which reads the file but decodes nothing.
"""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
from av.video.stream import VideoStream

from autogaze.video.container import Decoded, OpenStream, open_container, video_stream

# These do not date every frame: FFmpeg fills in the rest, differently after a seek.
_UNDATED = ("avi", "mpeg", "mpegvideo", "m4v", "h264", "hevc")

# Their packets may hold no frame to show, so that counting packets says nothing.
_UNCOUNTABLE = ("vp8", "mpeg4", "msmpeg4v2", "msmpeg4v3")


def decode_from(
    opened: OpenStream, start: float, origin: Fraction
) -> tuple[int, Iterable[Decoded]] | None:
    """Decode from a key frame at or before a moment.

    Args:
        opened: the stream, which is moved even if nothing comes of it.
        start: seconds after `origin`.
        origin: seconds of the first frame on the stream's own clock.

    Returns:
        The number of the frame landed at, and what is decoded from there on; None
        where only decoding from the beginning gives the right numbers.
    """
    stream = opened.stream
    if stream.time_base is None or opened.container.format.name in _UNDATED:
        return None
    # A seek may land after its aim (B-frames, coarse indices): step back until it does not.
    back = 0.0
    while back < start:
        aim = round((Fraction(start - back) + origin) / stream.time_base)
        try:
            opened.container.seek(aim, stream=stream, backward=True)
        except av.FFmpegError:
            return None
        opened.decoder.flush_buffers()
        decoded = opened.decode()
        landed = next(decoded, None)
        pts = landed[0].pts if isinstance(landed, tuple) else None
        if landed and pts is not None and pts * stream.time_base - origin <= start:
            number = frame_number(opened.path, stream, pts, origin)
            return None if number is None else (number, chain([landed], decoded))
        back = 2 * back + 1
    return None


def index_is_complete(stream: VideoStream) -> bool:
    """Whether the container's index has an entry for every frame (MP4 and its relatives)."""
    return len(stream.index_entries) == stream.frames > 0 and "mp4" in stream.container.format.name


def constant_step(stream: VideoStream) -> Fraction | None:
    """Seconds between any two frames in a row; None unless the index lists every frame evenly."""
    entries = stream.index_entries
    if stream.time_base is None or len(entries) < 2 or not index_is_complete(stream):
        return None
    times = [entry.timestamp for entry in entries]
    steps = {after - before for before, after in pairwise(times)}
    if len(steps) != 1 or (step := steps.pop()) <= 0:
        return None
    return step * stream.time_base


def frame_number(path: Path, stream: VideoStream, pts: int, origin: Fraction) -> int | None:
    """How many frames are shown before the one at `pts`; None if it cannot be known.

    Args:
        path: the file, read again where packets have to be counted.
        stream: its video stream.
        pts: the frame's timestamp in ticks of the stream.
        origin: seconds of the first frame, on the stream's clock.
    """
    if stream.time_base is None:
        return None
    step = constant_step(stream)
    if step is not None:
        return round((pts * stream.time_base - origin) / step)
    if stream.codec_context.codec.canonical_name in _UNCOUNTABLE:
        return None
    return _count_before(path, pts)


def _count_before(path: Path, pts: int) -> int | None:
    count = 0
    with open_container(path) as container:
        try:
            for packet in container.demux(video_stream(container, path)):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None or packet.dts is None:
                    return None
                if packet.dts > pts:
                    break  # packets come by dts, and pts is never before dts
                count += packet.pts < pts
        except av.FFmpegError:
            return None
    return count
