"""`autogaze info` and `autogaze selectors`."""

import json
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from autogaze.cli.report import results_console
from autogaze.errors import AutoGazeError
from autogaze.gaze import Gaze
from autogaze.selectors import registry

Facts = dict[str, Any]


def print_selectors(as_json: bool) -> None:
    """Names, and how each chooses."""
    known = registry.list_selectors()
    if as_json:
        print(json.dumps(known))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("selector", no_wrap=True)
    table.add_column("chooses")
    for name, description in known.items():
        default = " (default)" if name == registry.DEFAULT else ""
        table.add_row(name, Text(description + default))
    table.add_row(
        "FOLDER or HUB-ID", Text("a trained AutoGaze checkpoint, such as nvidia/AutoGaze")
    )
    results_console().print(table)


def print_info(file: str, as_json: bool) -> None:
    """What a gaze file, a video or a checkpoint folder holds.

    Raises:
        AutoGazeError: there is no such file, or it is none of the three.
    """
    path = Path(file)
    if path.is_dir():
        facts = _checkpoint(path)
    elif path.suffix.lower() == ".safetensors":
        facts = _gaze(path)
    elif path.is_file():
        facts = _video(path)
    else:
        raise AutoGazeError(f"{file}: no such file or folder")
    if as_json:
        print(json.dumps({"file": file, **facts}))
        return
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in {"file": file, **facts}.items():
        words = f"{100 * value:.2f} %" if name == "ratio" else _words(value)
        table.add_row(name.replace("_", " "), Text(words))
    results_console().print(table)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item:,}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _gaze(path: Path) -> Facts:
    gaze = Gaze.load(path)
    scales = gaze.pyramid.scales
    counts = torch.bincount(gaze.pyramid.levels[gaze.ids], minlength=len(scales)).tolist()
    facts: Facts = {
        "kind": "gaze",
        "clips": gaze.num_clips,
        "frames": gaze.num_frames,
        "pyramid": str(gaze.pyramid),
        "patches": gaze.num_patches,
        "ratio": gaze.ratio,
        "by_scale": {f"{scale} px": n for scale, n in zip(scales, counts, strict=True)},
    }
    if gaze.losses is not None and gaze.losses.numel():
        facts["loss_mean"] = float(gaze.losses.mean())
        facts["loss_max"] = float(gaze.losses.max())
        facts["judge"] = gaze.metric
    if gaze.source is not None:
        tiles = gaze.source.tiles
        facts["video"] = gaze.source.path
        facts["size"] = f"{tiles.width} x {tiles.height}"
        facts["tiles"] = f"{tiles.columns} x {tiles.rows} of {tiles.side} px"
        if gaze.num_frames:
            facts["from_second"] = gaze.source.timestamps[0]
            facts["to_second"] = gaze.source.timestamps[-1]
    return facts


def _checkpoint(path: Path) -> Facts:
    selector = registry.load(path)  # says what is missing or unexpected
    return {
        "kind": "checkpoint",
        "selector": selector.name,
        "pyramid": str(selector.pyramid),
        "patches_a_frame": selector.pyramid.num_patches,
        "judge": selector.metric,
        "default_loss": selector.default_loss,
    }


def _video(path: Path) -> Facts:
    from autogaze.geometry import PatchPyramid
    from autogaze.video import open_video, plan_tiles

    info = open_video(path).info
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
