"""torchcodec as another decoder of video files, on a GPU's own decoder where frames go there.

PyAV opens the file and lists its packets, so that numbers, times and the file's end are those of
`reader`; torchcodec, which comes with no FFmpeg of its own, decodes the frames that are asked for.
What it cannot give as PyAV does (`why_not`) is left to PyAV.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
import torch
from jaxtyping import UInt8

from autogaze.errors import VideoError, first_line
from autogaze.video.container import ListedFrame, OpenStream
from autogaze.video.frames import Layout, VideoInfo
from autogaze.video.structure import missing_bytes
from autogaze.video.timestamps import UNCOUNTABLE

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

CONTAINERS = ("mov,mp4", "matroska")
"""FFmpeg's names of containers with a timestamp in every packet, and an end that is known."""


class TorchcodecError(VideoError):
    """torchcodec cannot decode this file as PyAV does; the message says why."""


def why_not(opened: OpenStream, info: VideoInfo, layout: Layout, motion: bool) -> str | None:
    """Why torchcodec would not give the frames of a stream that PyAV gives; None if it does."""
    pixels = av.VideoFormat(info.pixel_format)
    container = opened.container.format.name
    turned = layout.orientation
    if motion:
        return "it exports no motion vectors"
    if not container.startswith(CONTAINERS):
        return f"timestamps of {container} files are found out by PyAV's decoder"
    if info.codec in UNCOUNTABLE:
        return f"frames of {info.codec} cannot be counted without decoding them"
    if opened.stream.metadata.get("alpha_mode") == "1" or any(
        part.is_alpha for part in pixels.components
    ):
        return "it drops the alpha channel"
    if info.hdr is not None:
        return f"it does not map {info.hdr} to BT.709"
    if layout.interlaced:
        return "it converts the colours of half-frames as one"
    ranged = len(pixels.components) > 1 and not pixels.is_rgb and not pixels.name.startswith("yuvj")
    if layout.full_range and ranged:
        return f"it takes the full range of {info.pixel_format} for the usual one"
    if not _interpolates_colours_alike(pixels, info.codec, layout.height):
        return f"it interpolates the colours of {info.pixel_format} differently"
    if info.aspect != 1:
        return "it leaves pixels as they are stored, which are not square here"
    if turned.transpose == (turned.flip_x == turned.flip_y):
        return "it does not mirror frames"
    if short := missing_bytes(opened.path):
        return f"the file is damaged: {short} bytes are missing at its end"
    return None


def _interpolates_colours_alike(pixels: av.VideoFormat, codec: str, height: int) -> bool:
    """Whether the RGB frames are those of PyAV, where colours are subsampled.

    FFmpeg has a fixed way for 8-bit 4:2:0 and for 4:2:2 of even heights; else it filters as it is told,
    and the two programs tell it different things. So it does for deep 4:2:2 of codecs that tell
    where colours are sampled.
    """
    if codec in ("h264", "hevc", "av1") and any(part.bits > 8 for part in pixels.components):
        return not pixels.components[1:] or pixels.chroma_width(8) == 8
    chroma = pixels.chroma_width(8), pixels.chroma_height(8)  # samples of 8 x 8 pixels
    if chroma == (8, 8):
        return True  # 4:4:4, grey and RGB
    return height % 2 == 0 and (chroma == (4, 8) or pixels.name in ("yuv420p", "yuvj420p"))


class _Packet(NamedTuple):
    """A packet: its frame's time and duration in ticks, and how it is decoded."""

    pts: int
    duration: int
    is_key: bool
    is_hidden: bool


class FrameTable:
    """The displayed frames of a stream, in order, by its packets; and torchcodec's decoder of them.

    Args:
        opened: the stream at its beginning.
        device: where frames are decoded; None for the CPU.

    Raises:
        TorchcodecError: see `why_not`; or packets that do not tell all frames.
    """

    def __init__(
        self,
        opened: OpenStream,
        info: VideoInfo,
        layout: Layout,
        *,
        motion: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.path, self.size = opened.path, (info.height, info.width, 3)
        if (cause := why_not(opened, info, layout, motion)) is not None:
            raise self._error(cause)
        self._tick = opened.stream.time_base
        # Hidden packets too, since frames may be decoded from a hidden key frame on.
        packets = sorted(self._packets(opened))
        if len({pts for pts, *_ in packets}) < len(packets):
            raise self._error("packets share a timestamp")
        self._places = [place for place, packet in enumerate(packets) if not packet.is_hidden]
        self.frames = [
            ListedFrame(number, packets[place].pts, packets[place].duration)
            for number, place in enumerate(self._places)
        ]
        mapping = {
            "frames": [
                {"pts": one.pts, "duration": one.duration, "key_frame": int(one.is_key)}
                for one in packets
            ]
        }
        self._decoder = self._opened(opened.stream.index, json.dumps(mapping), device)

    def _packets(self, opened: OpenStream) -> "Iterator[_Packet]":
        try:
            for packet in opened.container.demux(opened.stream):
                if packet.size == 0:
                    continue
                if packet.is_corrupt:
                    raise self._error("a packet is damaged")
                if packet.pts is None:
                    raise self._error("a packet has no timestamp")
                yield _Packet(
                    packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard
                )
        except av.FFmpegError as error:
            raise self._error(f"its packets cannot be read ({error.strerror})") from error

    def _opened(self, stream: int, mapping: str, device: torch.device | None) -> "VideoDecoder":
        from torchcodec.decoders import VideoDecoder

        try:
            return VideoDecoder(
                str(self.path.absolute()),
                stream_index=stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=0,  # as many as there are cores
                device=device or "cpu",
                custom_frame_mappings=mapping,
            )
        except Exception as error:  # RuntimeError, ValueError and what its operators raise
            raise self._error(first_line(error)) from error

    def decode(self) -> Iterator[tuple[ListedFrame, bool]]:
        """The frames as `OpenStream.decode` gives them, not decoded yet and not damaged."""
        return ((frame, False) for frame in self.frames)

    def pixels(self, frame: ListedFrame) -> UInt8[np.ndarray, "H W 3"]:
        """RGB of a frame, as displayed.

        Raises:
            TorchcodecError: it cannot be decoded, or is another frame.
        """
        number = frame.number
        try:
            found = self._decoder.get_frame_at(self._places[number])
        except Exception as error:  # RuntimeError, IndexError and what its operators raise
            raise self._error(f"frame {number}: {first_line(error)}") from error
        tick = float(self._tick or 0)
        if abs(found.pts_seconds - frame.pts * tick) > tick / 2:
            raise self._error(f"frame {number} was not found")
        if tuple(found.data.shape) != self.size:
            raise self._error(f"frame {number} has the size {tuple(found.data.shape)}")
        return np.ascontiguousarray(found.data.cpu().numpy())

    def _error(self, cause: str) -> TorchcodecError:
        return TorchcodecError(
            f"{self.path}: torchcodec cannot decode it as PyAV does: {cause}; leave decoder at auto, "
            "or take pyav"
        )
