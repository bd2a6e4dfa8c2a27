"""Copies of videos into other containers, without encoding them again."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av


def remux(
    source: Path,
    target: Path,
    shift: Fraction | int = 0,
    *,
    container_options: dict[str, str] | None = None,
    keep: Callable[[av.Packet], bool] = lambda packet: True,
) -> Path:
    """Copy the packets of a video, `shift` seconds later; MP4 hides by an edit list what is below 0."""
    options = container_options or {}
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        raw = target.suffix in (".avi", ".ts", ".h264") and stream.codec_context.name in ("h264",)
        needs_start_codes = raw and given.format.name not in ("mpegts", "h264", "avi")
        bits = (
            av.BitStreamFilterContext("h264_mp4toannexb", stream, copy)
            if needs_start_codes
            else None
        )
        offset = round(Fraction(shift) / stream.time_base)
        for packet in given.demux(stream):
            if packet.dts is None or not keep(packet):
                continue
            packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
            for part in [packet] if bits is None else bits.filter(packet):
                part.stream = copy
                made.mux(part)
    return target
