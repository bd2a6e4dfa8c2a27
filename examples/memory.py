"""Peak memory of gazing at 10 seconds and at 10 minutes of 1080p, which must be about the same.

    python examples/memory.py [--tiles one] [--fps 10] [--ratio 0.02] [--seconds 10 600]
        [--pictures no|yes|both]

Makes a video of a moving texture, gazes at its beginning and at all of it, each in a process of
its own, and prints their peak memory: once with the gaze file alone, once with all pictures
too. Ends with exit code 1 if the longer one took more than 1.5 times as much. Takes about 0.1 s
per frame with all pictures on two free cores, so 10 minutes by default.

Heavy imports wait until a process has started: the peak of a new process includes its parent's.
"""

import argparse
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

WIDTH, HEIGHT, FPS = 1920, 1080, 30
PERIOD = 10
"""Seconds after which the video repeats."""
LIMIT = 1.5


def write_texture(path: Path) -> None:
    """A smooth texture with finer grain in it, panning for `PERIOD` seconds."""
    import numpy as np
    from PIL import Image

    from autogaze.video.writer import VideoWriter

    num_frames = PERIOD * FPS
    size = WIDTH + 2 * num_frames, HEIGHT + num_frames
    rng = np.random.default_rng(0)
    texture = np.zeros((size[1], size[0], 3))
    for cell, weight in ((240, 0.7), (24, 0.3)):
        noise = rng.integers(0, 256, (size[1] // cell, size[0] // cell, 3), dtype=np.uint8)
        texture += weight * np.asarray(
            Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        )
    pixels = texture.round().astype(np.uint8)
    with VideoWriter(path, FPS, WIDTH, HEIGHT) as writer:
        for number in range(num_frames):
            left, top = 2 * number, number
            writer.write(np.ascontiguousarray(pixels[top : top + HEIGHT, left : left + WIDTH]))


def repeat(path: Path, seconds: int, target: Path) -> None:
    """Repeat a video up to a length in seconds, without encoding it again."""
    import av

    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        if stream.time_base is None:
            raise SystemExit(f"{path}: has no clock")
        period = round(PERIOD / stream.time_base)
        for turn in range(-(-seconds // PERIOD)):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is None or packet.pts is None:
                    continue
                packet.pts += turn * period
                packet.dts += turn * period
                if packet.pts * stream.time_base < seconds:
                    packet.stream = copy
                    output.mux(packet)


def gaze(arguments: list[str]) -> tuple[float, float]:
    """Run `autogaze gaze`; returns this process's peak memory in MB, and the seconds it took."""
    import io
    from contextlib import redirect_stdout

    from autogaze.cli.app import app

    began = time.perf_counter()
    with redirect_stdout(io.StringIO()) as printed:
        code = app(["gaze", *arguments], standalone_mode=False)
    if code:
        raise RuntimeError(f"autogaze gaze {' '.join(arguments)} ended with {code}:\n{printed}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", default="one", help="see `autogaze gaze --help`")
    parser.add_argument("--fps", type=float, default=10, help="frames per second to gaze at")
    parser.add_argument("--ratio", type=float, default=0.02, help="cap per frame")
    parser.add_argument("--seconds", type=int, nargs=2, default=(10, 600), metavar="N")
    parser.add_argument("--pictures", choices=("no", "yes", "both"), default="both")
    options = parser.parse_args()
    runs = {"no": (False,), "yes": (True,), "both": (False, True)}[options.pictures]

    growths = []
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh,
    ):
        folder = Path(name)
        texture = folder / "texture.mp4"
        fresh.submit(write_texture, texture).result()
        videos = {seconds: folder / f"{seconds}.mp4" for seconds in options.seconds}
        for seconds, video in videos.items():
            fresh.submit(repeat, texture, seconds, video).result()
        for pictures in runs:
            kinds = ["out", *(("overlay", "sheet", "reconstruction", "plot") if pictures else ())]
            peaks = []
            for seconds, video in videos.items():
                arguments = [str(video), f"--tiles={options.tiles}", f"--fps={options.fps}"]
                arguments += [f"--ratio={options.ratio}", *(f"--{kind}={folder}" for kind in kinds)]
                peak, took = fresh.submit(gaze, arguments).result()
                what = "with all pictures" if pictures else "without pictures"
                print(
                    f"{seconds} s of {WIDTH} x {HEIGHT} at {options.fps:g} frames per second, tiles "
                    f"{options.tiles}, {what}: {peak:.0f} MB, {took:.0f} s",
                    flush=True,
                )
                peaks.append(peak)
            growths.append(peaks[1] / peaks[0])
            print(f"{growths[-1]:.2f} times as much", flush=True)
    if max(growths) > LIMIT:
        raise SystemExit(f"more than {LIMIT} times: memory grows with the video's length")


if __name__ == "__main__":
    main()
