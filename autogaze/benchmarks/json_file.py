"""Figures as a JSON file."""

import json
from pathlib import Path
from typing import Any

from autogaze.errors import OutputError
from autogaze.files import check_writable, replacing


def check_json(path: str | Path | None) -> None:
    """Raise OutputError if the figures could not be written there later, or not as JSON."""
    if path is None:
        return
    if Path(path).suffix.lower() != ".json":
        raise OutputError(f"--json {path}: the name must end in .json")
    check_writable(Path(path))


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
