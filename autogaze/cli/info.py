"""`autogaze info` and `autogaze selectors`: contents of a file, and the selectors there are.

Gaze files, checkpoints and the list of selectors are read without PyTorch, whose import takes
seconds.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from autogaze.checks import MAX_PATCHES, MAX_SCALES, MAX_SIDE, as_path, why_absent
from autogaze.cli.checkpoint_facts import checkpoint_facts
from autogaze.cli.command import Command, PrintJson
from autogaze.cli.report import facts_table, figures_table, print_json, results_console
from autogaze.errors import AutoGazeError

if TYPE_CHECKING:
    import numpy as np

    from autogaze.source import Source

Facts = dict[str, Any]

LOSSES = {"losses": "loss", "predicted_losses": "predicted_loss"}
"""The losses that a gaze may have, and what each is called in a report."""


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
    stream: Annotated[
        int | None,
        typer.Option(
            help="Number of a video's stream, from 0.", show_default="the default one", min=0
        ),
    ] = None
    json: PrintJson = False

    def run(self) -> None:
        path = as_path(self.file)
        if os.path.isdir(path):  # unlike Path.is_dir, takes names of any length
            facts = _checkpoint(path)
        elif path.suffix.lower() == ".safetensors":
            facts = _gaze(path)
        elif os.path.exists(path) or "://" in self.file:  # if it is none, the error says why
            facts = _video(self.file, self.stream)
        else:
            raise AutoGazeError(f"{self.file}: {why_absent(path, 'file or folder')}")
        facts = {"file": self.file, **facts}
        if self.json:
            print_json(facts)
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
    """Facts of a gaze file, read as arrays: without PyTorch, unless something is wrong with it.

    Raises:
        AutoGazeError: not a readable gaze file.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as file:
            entries = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _facts_of_arrays(entries, arrays)
    except Exception:  # a damaged file fails in any of many ways
        from autogaze.gaze import Gaze

        gaze = Gaze.load(path)  # says what is wrong
        losses = {
            name: values.double().numpy()
            for name in LOSSES
            if (values := getattr(gaze, name)) is not None
        }
        pyramid = gaze.pyramid
        chosen = gaze.ids.numpy(), gaze.lengths.numpy(), losses
        return _gaze_facts(pyramid.scales, pyramid.patch_size, *chosen, gaze.metric, gaze.source)


def _facts_of_arrays(entries: Mapping[str, str], arrays: "Mapping[str, np.ndarray]") -> Facts:
    """Facts of a file's content; raises errors of any kind where it is no gaze file."""
    import numpy as np

    from autogaze.source import Source

    pyramid, metric = json.loads(entries["pyramid"]), json.loads(entries["judge"])
    scales, patch_size = pyramid["scales"], pyramid["patch_size"]
    ids, lengths = arrays["ids"], arrays["lengths"]
    losses = {name: arrays[name] for name in LOSSES if name in arrays}
    num_patches = sum((scale // patch_size) ** 2 for scale in scales)
    # The same in every respect that `Gaze` checks, so that other files are left to it.
    if int(lengths.max(initial=0)) > len(ids) or sum(lengths.ravel().tolist()) != len(ids):
        raise ValueError("no gaze file, or a damaged one")
    frames = np.repeat(np.arange(lengths.size), lengths.ravel())
    slots = np.sort(frames * num_patches + ids)
    sound = (
        (entries["format"], entries["version"]) == ("autogaze.gaze", "1")
        and all(type(side) is int and 0 < side <= MAX_SIDE for side in (patch_size, *scales))
        and list(scales) == sorted(set(scales))
        and all(scale >= patch_size for scale in scales)
        and type(pyramid["crop"]) is bool
        and (pyramid["crop"] or not any(scale % patch_size for scale in scales))
        and num_patches <= MAX_PATCHES
        and len(scales) <= MAX_SCALES
        and type(json.loads(entries["ordered"])) is bool
        and (metric is None or isinstance(metric, str))
        and (ids.ndim, ids.dtype.kind in "iu") == (1, True)
        and (lengths.ndim, lengths.dtype.kind in "iu") == (2, True)
        and (not lengths.size or int(lengths.min()) >= 0)
        and (lengths.size > 0 or max(lengths.shape) <= 2**20)
        and (not ids.size or 0 <= int(ids.min()) <= int(ids.max()) < num_patches)
        and not (slots[1:] == slots[:-1]).any()
        and all(
            (values.shape, values.dtype.kind) == (lengths.shape, "f") and np.isfinite(values).all()
            for values in losses.values()
        )
    )
    source = None
    if "source" in entries:
        source = Source.from_json(
            entries["source"],
            tuple(arrays["timestamps"].tolist()),
            tuple(arrays["frame_indices"].tolist()),
        )
        kinds = arrays["timestamps"].dtype.str, arrays["frame_indices"].dtype.str
        sound = sound and kinds == ("<f8", "<i8")
        sound = sound and lengths.shape == (source.tiles.num_tiles, source.num_frames)
    if not sound:
        raise ValueError("no gaze file, or a damaged one")
    return _gaze_facts(scales, patch_size, ids, lengths, losses, metric, source)


def _gaze_facts(
    scales: Sequence[int],
    patch_size: int,
    ids: "np.ndarray",
    lengths: "np.ndarray",
    losses: "Mapping[str, np.ndarray]",
    metric: str | None,
    source: "Source | None",
) -> Facts:
    import numpy as np

    cells = [(scale // patch_size) ** 2 for scale in scales]
    levels = np.searchsorted(np.cumsum(cells), ids, side="right")
    kept = np.bincount(levels, minlength=len(scales))
    facts: Facts = {
        "kind": "gaze",
        "clips": lengths.shape[0],
        "frames": lengths.shape[1],
        "pyramid": "+".join(map(str, scales)) + f" / {patch_size}",
        "patches": len(ids),
        "ratio": len(ids) / max(1, lengths.size * sum(cells)),
        "by_scale": {f"{scale} px": int(n) for scale, n in zip(scales, kept, strict=True)},
    }
    for name, short in LOSSES.items():
        if name in losses and losses[name].size:
            facts[f"{short}_mean"] = float(losses[name].mean())
            facts[f"{short}_max"] = float(losses[name].max())
            if name == "losses":
                facts["metric"] = facts["judge"] = metric
    if source is not None:
        tiles = source.tiles
        facts["video"] = source.path
        if source.stream is not None:
            facts["stream"] = source.stream
        facts["size"] = f"{tiles.width} x {tiles.height}"
        facts["tiles"] = f"{tiles.columns} x {tiles.rows} of {tiles.side} px"
        if source.timestamps:
            facts["from_second"] = source.timestamps[0]
            facts["to_second"] = source.timestamps[-1] if source.end is None else source.end
    return facts


def _checkpoint(path: Path) -> Facts:
    if (facts := checkpoint_facts(path)) is not None:
        return facts
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


def _video(path: str, stream: int | None) -> Facts:
    from autogaze.geometry import PatchPyramid
    from autogaze.video.reader import Video
    from autogaze.video.tiling import plan_tiles

    video = Video(path, stream=stream)
    info = video.info
    tiles = plan_tiles(info.width, info.height, PatchPyramid().side)
    facts: Facts = {
        "kind": "image" if info.is_image else "video",
        "size": f"{info.width} x {info.height}",
        "frames": video.count_frames(),
        "fps": info.fps,
        "duration": info.duration,
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "rotation": info.rotation,
        "pixel_aspect": None if info.aspect == 1 else str(info.aspect),
        "hdr": info.hdr and f"{info.hdr}, tone-mapped to BT.709",
        "stream": f"{info.stream} of {info.num_streams}" if info.num_streams > 1 else None,
        "tiles": f"{tiles.columns} x {tiles.rows} of {tiles.side} px",
    }
    return {name: value for name, value in facts.items() if value is not None}
