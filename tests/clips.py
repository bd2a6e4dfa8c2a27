"""Little video files, made where a test needs them."""

from pathlib import Path

import av
import numpy as np


def moving_square(num_frames: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """(T, H, W, 3): a bright square wanders over faint noise that stands still."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 90, (height, width, 3), dtype=np.uint8)
    frames = np.repeat(ground[None], num_frames, axis=0)
    side = height // 4
    for index, frame in enumerate(frames):
        x = (5 + 3 * index) % (width - side)
        frame[side : 2 * side, x : x + side] = (240, 200, 40)
    return frames


def make_video(
    path: Path,
    num_frames: int = 20,
    width: int = 96,
    height: int = 64,
    *,
    fps: int = 10,
    preset: str = "medium",
) -> Path:
    """Write an H.264 video of a moving square; a large one in a fifth of the time as `ultrafast`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"crf": "20", "g": "5", "preset": preset}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in moving_square(num_frames, width, height):
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def damage(path: Path, frame: int) -> Path:
    """Overwrite the packet of one frame with noise, past its header."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packet = sorted(packets, key=lambda packet: packet.pts)[frame]
    data = bytearray(path.read_bytes())
    start = data.find(bytes(packet)[:64]) if packet.pos is None else packet.pos
    noise = np.random.default_rng(0).integers(0, 256, packet.size - 8, dtype=np.uint8)
    data[start + 8 : start + packet.size] = noise.tobytes()
    path.write_bytes(bytes(data))
    return path
