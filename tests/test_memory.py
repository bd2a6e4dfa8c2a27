"""Peak memory at 4K, and memory over a long run, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, as Linux has it"),
]

RUN = """
import json, os, sys
# A decoder holds frames for every core: count those of two.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import autogaze
from autogaze.gaze_io import GazeWriter

def memory(what):
    # Not getrusage: its maximum is also that of the process that started this one.
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[what].split()[0]) / 1024

selector, out, *videos = sys.argv[1:]
for video in videos:
    after = []
    with GazeWriter(out) as writer:
        for gaze in autogaze.stream_video(video, selector=selector):
            writer.add(gaze)
            after.append(memory("VmRSS"))
    print(json.dumps([memory("VmHWM"), after]))
"""


FIRST = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import autogaze
from autogaze.pipeline import GazeStream

left = 4

def counted(stream, part, gaze_part=GazeStream._gaze_part):
    global left
    gazed, left = gaze_part(stream, part), left - 1
    if left == 0:
        lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(stream.grid.num_tiles, int(lines["VmHWM"].split()[0]) / 1024, flush=True)
        os._exit(0)
    return gazed

GazeStream._gaze_part = counted
autogaze.gaze_video(sys.argv[1], selector="learned", device="cpu")
"""


def write_video(path: Path, width: int, height: int, num_frames: int) -> Path:
    """Noise that moves, as H.264 with B-frames."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 8 + 8, width // 8 + 8, 3), np.uint8)
    scene = small.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "bf": "2", "g": "30", "threads": "2"}
        for number in range(num_frames):
            shift = 2 * number % 64
            pixels = np.ascontiguousarray(scene[:height, shift : shift + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def memory(folder: Path, *videos: Path) -> list[tuple[float, list[float]]]:
    """Of a process that gazes at videos: its peak memory so far, and that after every chunk, in MiB."""
    out = folder / "gaze.safetensors"
    command = [sys.executable, "-c", RUN, "codec", str(out), *map(str, videos)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-len(videos) :]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("4k") / "4k.mp4", 3840, 2160, 24)


def test_4k_takes_little_more_than_one_chunk(large, tmp_path):
    """A chunk has 413 MiB; two of them, as before, took 1.5 GiB more than a small video."""
    small = write_video(tmp_path / "small.mp4", 64, 64, 4)
    (before, _), (after, _) = memory(tmp_path, small, large)
    assert 413 < after - before < 800


def test_learned_at_4k_takes_about_a_gibibyte(large):
    """All tiles take minutes, but no more memory than the first few of 180."""
    command = [sys.executable, "-c", FIRST, str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tiles, peak = done.stdout.split()
    assert int(tiles) == 180
    assert float(peak) < 1060  # 1005 to 1025 were measured, 1395 before


def test_memory_does_not_grow_with_the_length(tmp_path):
    num_frames = 3000
    video = write_video(tmp_path / "long.mp4", 64, 64, num_frames)
    [(peak, after)] = memory(tmp_path, video)
    assert len(after) == -(-num_frames // 16)
    tenth = len(after) // 10
    assert max(after[-tenth:]) - max(after[:tenth]) < 8
    assert peak - max(after[:tenth]) < 24
