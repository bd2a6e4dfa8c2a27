"""Figures as a JSON file."""

import json
from pathlib import Path
from typing import Any

from autogaze.files import check_writable, replacing


def check_json(path: str | Path | None) -> None:
    """Raise OutputError if the figures could not be written there later."""
    if path is not None:
        check_writable(Path(path))


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
