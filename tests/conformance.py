"""Where the conformance data is, if it is anywhere."""

import os
from pathlib import Path


def conformance_folder() -> Path | None:
    """`$AUTOGAZE_CONFORMANCE`, or `../shared/conformance` beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "conformance"
    folder = Path(os.environ.get("AUTOGAZE_CONFORMANCE", beside))
    return folder if folder.is_dir() else None
