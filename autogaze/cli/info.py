"""`autogaze info` and `autogaze selectors`: contents of a file, and the selectors there are.

Gaze files and the list of selectors are read without PyTorch, whose import takes seconds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from autogaze.cli.command import Command, PrintJson
from autogaze.cli.report import facts_table, figures_table, results_console
from autogaze.errors import AutoGazeError

Facts = dict[str, Any]


@dataclass(frozen=True)
class SelectorsCommand(Command):
    """List the selectors that come with the package."""

    json: PrintJson = False

    def run(self) -> None:
        from autogaze.selectors import registry

        known = registry.list_selectors()
        if self.json:
            print(json.dumps(known))
            return
        table = figures_table("selector")
        table.add_column("chooses")
        for name, description in known.items():
            default = " (default)" if name == registry.DEFAULT else ""
            table.add_row(name, Text(description + default))
        table.add_row(
            "FOLDER or HUB-ID", Text("a trained AutoGaze checkpoint, such as nvidia/AutoGaze")
        )
        results_console().print(table)


@dataclass(frozen=True)
class InfoCommand(Command):
    """Describe a file: a gaze, a video, or a checkpoint."""

    file: Annotated[str, typer.Argument(help="A gaze file, a video or a checkpoint folder.")]
    json: PrintJson = False

    def run(self) -> None:
        path = Path(self.file)
        if path.is_dir():
            facts = _checkpoint(path)
        elif path.suffix.lower() == ".safetensors":
            facts = _gaze(path)
        elif path.is_file():
            facts = _video(path)
        else:
            raise AutoGazeError(f"{self.file}: no such file or folder")
        facts = {"file": self.file, **facts}
        if self.json:
            print(json.dumps(facts))
        else:
            facts.pop("judge", None)  # the former name of `metric`, for programs
            rows = ((name.replace("_", " "), _words(name, facts[name])) for name in facts)
            results_console().print(facts_table(rows))


def _words(name: str, value: Any) -> str:
    if name == "ratio":
        return f"{100 * value:.2f} %"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item:,}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _gaze(path: Path) -> Facts:
    """Facts of a gaze file, read as arrays.

    Raises:
        AutoGazeError: not a readable gaze file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            entries = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _gaze_facts(entries, arrays)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError):
        from autogaze.gaze import Gaze

        Gaze.load(path)  # says what is wrong
        raise


def _gaze_facts(entries: Mapping[str, str], arrays: Mapping[str, Any]) -> Facts:
    """Facts of a file's entries and arrays; raises errors of any kind where it is no gaze file."""
    import numpy as np

    from autogaze.source import Source

    pyramid = json.loads(entries["pyramid"])
    scales, patch_size = pyramid["scales"], pyramid["patch_size"]
    cells = [(scale // patch_size) ** 2 for scale in scales]
    ids, lengths, losses = arrays["ids"], arrays["lengths"], arrays.get("losses")
    levels = np.searchsorted(np.cumsum(cells), ids, side="right")
    kept = np.bincount(levels, minlength=len(scales))
    damaged = len(kept) > len(scales) or lengths.sum() != len(ids)
    if damaged or (entries["format"], entries["version"]) != ("autogaze.gaze", "1"):
        raise ValueError("no gaze")
    facts: Facts = {
        "kind": "gaze",
        "clips": lengths.shape[0],
        "frames": lengths.shape[1],
        "pyramid": "+".join(map(str, scales)) + f" / {patch_size}",
        "patches": len(ids),
        "ratio": len(ids) / max(1, lengths.size * sum(cells)),
        "by_scale": {f"{scale} px": int(n) for scale, n in zip(scales, kept, strict=True)},
    }
    if losses is not None and losses.size:
        facts["loss_mean"] = float(losses.mean())
        facts["loss_max"] = float(losses.max())
        facts["metric"] = facts["judge"] = json.loads(entries["judge"])
    if "source" in entries:
        source = Source.from_json(
            entries["source"],
            tuple(arrays["timestamps"].tolist()),
            tuple(arrays["frame_indices"].tolist()),
        )
        tiles = source.tiles
        facts["video"] = source.path
        facts["size"] = f"{tiles.width} x {tiles.height}"
        facts["tiles"] = f"{tiles.columns} x {tiles.rows} of {tiles.side} px"
        if source.timestamps:
            facts["from_second"] = source.timestamps[0]
            facts["to_second"] = source.timestamps[-1]
    return facts


def _checkpoint(path: Path) -> Facts:
    from autogaze.selectors import registry

    selector = registry.load(path)  # says what is missing or unexpected
    return {
        "kind": "checkpoint",
        "selector": selector.name,
        "pyramid": str(selector.pyramid),
        "patches_per_frame": selector.pyramid.num_patches,
        "metric": selector.metric,
        "judge": selector.metric,
        "default_loss": selector.default_loss,
    }


def _video(path: Path) -> Facts:
    from autogaze.geometry import PatchPyramid
    from autogaze.video.reader import Video
    from autogaze.video.tiling import plan_tiles

    info = Video(path).info
    tiles = plan_tiles(info.width, info.height, PatchPyramid().side)
    facts: Facts = {
        "kind": "image" if info.is_image else "video",
        "size": f"{info.width} x {info.height}",
        "frames": info.num_frames,
        "fps": info.fps,
        "duration": info.duration,
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "rotation": info.rotation,
        "tiles": f"{tiles.columns} x {tiles.rows} of {tiles.side} px",
    }
    return {name: value for name, value in facts.items() if value is not None}
