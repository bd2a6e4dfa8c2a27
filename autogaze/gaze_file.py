"""Gaze files: one safetensors file with the ids, counts, losses and their meaning."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from autogaze.errors import AutoGazeError, OutputError
from autogaze.files import replacing
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.source import Source

FORMAT = "autogaze.gaze"
VERSION = "1"


def save_gaze(gaze: Gaze, path: str | Path) -> None:
    """Write `gaze` to `path`: ids as int16 where they fit, everything else beside them."""
    small = gaze.pyramid.num_patches <= torch.iinfo(torch.int16).max
    tensors = {
        "ids": gaze.ids.cpu().to(torch.int16 if small else torch.int32).contiguous(),
        "lengths": gaze.lengths.to(torch.int32).contiguous(),
    }
    if gaze.losses is not None:
        tensors["losses"] = gaze.losses.cpu().float().contiguous()
    if gaze.source is not None:
        tensors["timestamps"] = torch.tensor(gaze.source.timestamps, dtype=torch.float64)
        tensors["frame_indices"] = torch.tensor(gaze.source.frame_indices, dtype=torch.int64)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata(gaze))
        except SafetensorError as error:  # how a full disk shows
            raise OutputError(f"{path}: cannot be written: {error}") from error


def metadata(gaze: Gaze) -> dict[str, str]:
    """Everything about a gaze that is no tensor, as its file holds it."""
    entries = {
        "format": FORMAT,
        "version": VERSION,
        "pyramid": json.dumps(
            {
                "scales": gaze.pyramid.scales,
                "patch_size": gaze.pyramid.patch_size,
                "crop": gaze.pyramid.crop,
            }
        ),
        "ordered": json.dumps(gaze.ordered),
        "judge": json.dumps(gaze.judge),
    }
    if gaze.source is not None:
        entries["source"] = gaze.source.to_json()
    return entries


def load_gaze(path: str | Path) -> Gaze:
    """Read a gaze file.

    Raises:
        AutoGazeError: missing, not a safetensors file, or not a gaze of this version.
    """
    if not Path(path).is_file():
        raise AutoGazeError(f"{path}: no such gaze file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AutoGazeError(f"{path}: not a readable gaze file: {error}") from error
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise AutoGazeError(
            f"{path}: expected a file of format {FORMAT} version {VERSION}, found "
            f"{metadata.get('format', 'no format')} version {metadata.get('version', 'none')}"
        )
    try:
        source = None
        if "source" in metadata:
            source = Source.from_json(
                metadata["source"],
                tuple(tensors["timestamps"].tolist()),
                tuple(tensors["frame_indices"].tolist()),
            )
        pyramid = json.loads(metadata["pyramid"])
        return Gaze(
            PatchPyramid(tuple(pyramid["scales"]), pyramid["patch_size"], pyramid["crop"]),
            tensors["ids"].long(),
            tensors["lengths"].long(),
            ordered=json.loads(metadata["ordered"]),
            losses=tensors.get("losses"),
            judge=json.loads(metadata["judge"]),
            source=source,
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise AutoGazeError(f"{path}: damaged gaze file: {error!r}") from error
