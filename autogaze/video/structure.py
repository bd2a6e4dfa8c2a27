"""Structure of container files, read without FFmpeg: lengths, boxes, elements and transport packets.

FFmpeg reports neither that a file is shorter than its header says, nor whether a gap between two
MPEG-TS packets cost a frame. Everything here reads headers only and skips what lies between.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def missing_bytes(path: Path) -> int:
    """Bytes by which the file is shorter than what it says of itself, at least; 0 if it does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if head[:4] == b"RIFF":
            expected = 8 + int.from_bytes(head[4:8], "little")
        elif head[:4] == b"\x1aE\xdf\xa3":
            expected = _segment(head)[1] or 0
        elif (ends := _ENDS.get(head[:4])) is not None:
            expected = ends(file, size)
        else:
            expected = max((end for _, end in boxes(path)), default=0)
    return max(0, expected - size)


# Formats without a length of the whole: where the last part of the file ends


def _gif_end(file: BinaryIO, size: int) -> int:
    file.seek(10)
    at = 13 + _colour_table(file.read(1))
    while at < size:
        file.seek(at)
        kind = file.read(1)
        if kind == b";":
            return at + 1
        if kind == b",":
            at += 11 + _colour_table(file.read(9)[8:])
        elif kind == b"!":
            at += 2
        else:
            return 0
        length = 1
        while length:
            file.seek(at)
            length = int.from_bytes(file.read(1) or b"\1", "big")
            at += 1 + length
            if at > size:
                return at
    return at  # without the trailer, which some programs leave out


def _colour_table(flags: bytes) -> int:
    """Bytes of a GIF's colour table."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _png_end(file: BinaryIO, size: int) -> int:
    at, kind = 8, b""
    while at < size and kind != b"IEND":
        file.seek(at)
        head = file.read(8)
        kind = head[4:]
        at += 12 + int.from_bytes(head[:4], "big")
    return at if kind == b"IEND" else max(at, size + 12)


def _flv_end(file: BinaryIO, size: int) -> int:
    file.seek(max(0, size - 4))
    last = int.from_bytes(file.read(4), "big")  # behind every tag, its length
    file.seek(max(0, size - 4 - last))
    if last >= _FLV_TAG and int.from_bytes(file.read(4)[1:], "big") + _FLV_TAG == last:
        return size
    file.seek(5)
    at = int.from_bytes(file.read(4), "big") + 4
    while at < size:
        file.seek(at)
        head = file.read(4)
        if head[0] & 0x1F not in (8, 9, 18):
            return 0
        at += _FLV_TAG + int.from_bytes(head[1:], "big") + 4
    return at - 4


_FLV_TAG = 11


def _ogg_end(file: BinaryIO, size: int) -> int:
    start = max(0, size - 2 * _LARGEST_OGG_PAGE)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return 0
    segments = tail[at + 26 : at + 27]
    if not segments:
        return start + at + 27
    lengths = tail[at + 27 : at + 27 + segments[0]]
    return start + at + 27 + segments[0] + sum(lengths)


_LARGEST_OGG_PAGE = 65307


def _ivf_end(file: BinaryIO, size: int) -> int:
    file.seek(6)
    at = int.from_bytes(file.read(2), "little")
    while at < size:
        file.seek(at)
        length = int.from_bytes(file.read(4), "little")
        if length > _LARGEST_FRAME:  # damage
            return 0
        at += 12 + length
    return at


_LARGEST_FRAME = 1 << 28


_ENDS = {
    b"GIF8": _gif_end,
    b"\x89PNG": _png_end,
    b"FLV\1": _flv_end,
    b"OggS": _ogg_end,
    b"DKIF": _ivf_end,
}
"""By the file's first four bytes."""

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")


def boxes(path: Path) -> Iterator[tuple[str, int]]:
    """Name and end of every top-level box of an MP4, MOV or 3GP file; else nothing."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start < size:
            file.seek(start)
            head = file.read(16)
            kind = head[4:8]
            if len(head) < 8 or not kind.isalnum() or (start == 0 and kind not in _FIRST_BOXES):
                return
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length == 0:  # to the end of the file
                length = size - start
            if length < 8:
                return
            start += length
            yield kind.decode("latin-1"), start


def heif_brand(path: Path) -> bool:
    """Whether a file says that it is an HEIC or HEIF picture."""
    return _brand(path) in (b"heic", b"heix", b"heim", b"heis", b"mif1")


def animated_avif_brand(path: Path) -> bool:
    """Whether a file says that it is an animated AVIF."""
    return _brand(path) == b"avis"


def _brand(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(12)
    return head[8:12] if head[4:8] == b"ftyp" else b""


# Matroska and WebM (RFC 8794 and 9559)

_LEVEL_1 = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0x1C53BB6B, 0x1941A469, 0x1043A770}
_LEVEL_1 |= {0x1254C367, 0xEC, 0xBF}
_CLUSTER = 0x1F43B675
_IN_CLUSTER = {0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, 0x5854, 0xEC, 0xBF}


def matroska_is_whole(path: Path) -> bool:
    """Whether the elements of a Matroska or WebM file follow each other without a gap to its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at, end = _segment(file.read(4096))
        end = size if end is None else end
        if not at or end > size:
            return False
        while at < end:
            kind, length, at = _element(file, at)
            if kind not in _LEVEL_1:
                return False
            if kind != _CLUSTER:
                if length is None:
                    return False
                at += length
                continue
            stop = end if length is None else at + length
            while at < stop:
                kind, length, after = _element(file, at)
                if kind in _LEVEL_1 - _IN_CLUSTER and stop == end:
                    break  # the end of a cluster of unknown length
                if kind not in _IN_CLUSTER or length is None:
                    return False
                at = after + length
        return at == end


def _element(file: BinaryIO, at: int) -> tuple[int, int | None, int]:
    """Id and length (None: unknown) of the element at a position, and where its content begins."""
    file.seek(at)
    head = file.read(12)
    width = 9 - head[0].bit_length() if head and head[0] >> 4 else 0
    if not width or len(head) <= width:
        return 0, None, at
    try:
        length, after = _number(head, width)
    except IndexError:
        return 0, None, at
    return int.from_bytes(head[:width], "big"), length, at + after


def _number(head: bytes, at: int) -> tuple[int | None, int]:
    """An EBML length and what follows it; None for "unknown", as live recordings write."""
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") - (1 << 7 * width)
    return (None if value == (1 << 7 * width) - 1 else value), at + width


def _segment(head: bytes) -> tuple[int, int | None]:
    """Where the content of the segment begins (0 if there is none) and ends (None: unknown)."""
    try:
        length, at = _number(head, 4)
        at += length or 0
        if head[at : at + 4] != b"\x18\x53\x80\x67":
            return 0, None
        length, at = _number(head, at + 4)
    except IndexError:
        return 0, None
    return at, None if length is None else at + length


# MPEG-TS (ISO 13818-1)

_PACKET = 188


def transport_unit_is_whole(path: Path, position: int) -> bool:
    """Whether the unit (one frame, usually) whose MPEG-TS packets begin at a byte is complete.

    Its packets are counted without a gap up to the next unit's. A gap just before the tables with
    which every recording begins is a joint between two recordings, where nothing is missing if the
    unit's last packet is filled up, as only last ones are.
    """
    first, counter, tables, filled = None, 0, False, False
    with path.open("rb") as file:
        file.seek(position)
        while len(packet := file.read(_PACKET)) == _PACKET:
            if packet[0] != 0x47 or packet[1] & 0x80:  # out of step, or marked as damaged
                return False
            stream = int.from_bytes(packet[1:3], "big") & 0x1FFF
            if first is None:
                first = stream
            elif stream != first:
                tables |= stream == 0
                continue
            elif packet[3] & 0x10:
                starts, steady = packet[1] & 0x40, packet[3] & 0x0F == (counter + 1) % 16
                if starts or not steady:
                    return bool(steady or (starts and tables and filled))
            counter, tables, filled = packet[3] & 0x0F, False, _is_filled_up(packet)
    return True


def _is_filled_up(packet: bytes) -> bool:
    """Whether an MPEG-TS packet holds stuffing before its payload, more than a clock reference."""
    if not packet[3] & 0x20:
        return False
    length, flags = packet[4], packet[5]
    if length == 0 or not flags & 0x1F:
        return True
    return length > 1 + 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)


# MP4: how many frames an edit list shows

_LARGEST_INDEX = 64 << 20


def shown_frames(path: Path) -> int | None:
    """Frames of an MP4's first video track that its edit list shows; None where it does not say."""
    with path.open("rb") as file:
        start = 0
        for kind, end in boxes(path):
            if kind == "moof":
                return None
            if kind == "moov" and end - start <= _LARGEST_INDEX:
                file.seek(start)
                moov = file.read(end - start)
                try:
                    return _shown_in(moov)
                except (struct.error, LookupError, ValueError, ZeroDivisionError):
                    return None
            start = end
    return None


def _children(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of the boxes in a box."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < 8 or start + length > end:
            return
        yield kind, start + 8, start + length
        start += length


def _find(data: bytes, *names: bytes, within: tuple[int, int]) -> tuple[int, int]:
    """Begin and end of the content of the first box of these names, one inside the other."""
    for name in names:
        found = (box[1:] for box in _children(data, *within) if box[0] == name)
        if (inside := next(found, None)) is None:
            raise LookupError(name)
        within = inside
    return within


def _shown_in(moov: bytes) -> int | None:
    inside = 8, len(moov)
    movie, _ = _find(moov, b"mvhd", within=inside)
    movie_scale = _timescale(moov, movie)
    for kind, start, end in _children(moov, *inside):
        if kind != b"trak":
            continue
        handler, _ = _find(moov, b"mdia", b"hdlr", within=(start, end))
        if moov[handler + 8 : handler + 12] != b"vide":
            continue
        header, _ = _find(moov, b"mdia", b"mdhd", within=(start, end))
        table = _find(moov, b"mdia", b"minf", b"stbl", within=(start, end))
        try:
            edits, _ = _find(moov, b"edts", b"elst", within=(start, end))
        except LookupError:
            return None
        times = _display_times(moov, table)
        if times is None:
            return None
        rate = _timescale(moov, header) / movie_scale
        wide = moov[edits] == 1
        shown = 0
        for number in range(struct.unpack_from(">I", moov, edits + 4)[0]):
            form, size = (">Qq", 20) if wide else (">Ii", 12)
            length, media = struct.unpack_from(form, moov, edits + 8 + number * size)
            if media >= 0:
                stop = media + round(length * rate) if length else float("inf")
                shown += sum(media <= time < stop for time in times)
        return shown
    return None


def _timescale(moov: bytes, header: int) -> int:
    at = header + (20 if moov[header] == 1 else 12)
    return int(struct.unpack_from(">I", moov, at)[0])


def _display_times(moov: bytes, table: tuple[int, int]) -> list[int] | None:
    """Display times of all samples; None if the tables say impossibly many."""
    steps, end = _find(moov, b"stts", within=table)
    times: list[int] = []
    now = 0
    for at in range(steps + 8, end - 7, 8):
        count, step = struct.unpack_from(">II", moov, at)
        if len(times) + count > _LARGEST_INDEX // 8:
            return None
        times += range(now, now + count * step, step) if step else [now] * count
        now += count * step
    try:
        shifts, end = _find(moov, b"ctts", within=table)
    except LookupError:
        return times
    number = 0
    for at in range(shifts + 8, end - 7, 8):
        count, shift = struct.unpack_from(">Ii", moov, at)
        stop = min(number + count, len(times))
        times[number:stop] = [time + shift for time in times[number:stop]]
        number = stop
    return times
