"""HEIC pictures made of a grid of tiles, as phones write them, built box by box (ISO 23008-12)."""

import io
import struct
from pathlib import Path

import av
import numpy as np


def box(kind: str, *parts: bytes, version: int | None = None, flags: int = 0) -> bytes:
    content = b"".join(parts)
    if version is not None:
        content = struct.pack(">I", version << 24 | flags) + content
    return struct.pack(">I4s", 8 + len(content), kind.encode()) + content


def encoded(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """The HEVC configuration and the only packet of a picture."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        stream = container.add_stream("libx265", rate=1, options={"x265-params": "log-level=none"})
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    memory.seek(0)
    with av.open(memory) as container:
        stream = container.streams.video[0]
        packet = next(one for one in container.demux(stream) if one.size)
        return bytes(stream.codec_context.extradata), bytes(packet)


def write_grid(path: Path, pixels: np.ndarray, side: int = 128) -> Path:
    """Write a picture as tiles of `side` pixels, of which its size is a multiple."""
    height, width = pixels.shape[:2]
    rows, columns = height // side, width // side
    tiles = [
        encoded(np.ascontiguousarray(pixels[y : y + side, x : x + side]))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    contents = [grid, *(packet for _, packet in tiles)]
    count = len(contents)
    names = ["grid"] + ["hvc1"] * len(tiles)
    infos = [
        box("infe", struct.pack(">HH4s", 1 + k, 0, name.encode()), b"\0", version=2)
        for k, name in enumerate(names)
    ]
    sizes = [box("ispe", struct.pack(">II", *size), version=0) for size in
             ((side, side), (width, height))]  # fmt: skip
    links = [struct.pack(">HBB", 1, 1, 0x03)]  # item, number of properties, their places
    links += [struct.pack(">HBBB", 2 + k, 2, 0x81, 0x02) for k in range(len(tiles))]
    first = struct.pack(">HH", 1, len(tiles)) + struct.pack(f">{len(tiles)}H", *range(2, count + 1))

    def head(start: int) -> bytes:
        places, at = [], start
        for number, content in enumerate(contents):
            places.append(struct.pack(">HHHII", 1 + number, 0, 1, at, len(content)))
            at += len(content)
        meta = box(
            "meta",
            box("hdlr", struct.pack(">I4s12x", 0, b"pict"), b"\0", version=0),
            box("pitm", struct.pack(">H", 1), version=0),
            box("iloc", struct.pack(">BBH", 0x44, 0, count), *places, version=0),
            box("iinf", struct.pack(">H", count), *infos, version=0),
            box("iref", box("dimg", first), version=0),
            box(
                "iprp",
                box("ipco", box("hvcC", tiles[0][0]), *sizes),
                box("ipma", struct.pack(">I", count), *links, version=0),
            ),
            version=0,
        )
        return box("ftyp", b"heic", struct.pack(">I", 0), b"mif1heic") + meta

    path.write_bytes(head(len(head(0)) + 8) + box("mdat", *contents))
    return path
