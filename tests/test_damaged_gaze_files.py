"""Gaze files with impossible content are refused by name, also by `autogaze info` and `measure`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autogaze.errors import AutoGazeError
from autogaze.gaze import Gaze
from tests.cli.commands import fails, run

TILES = {
    "width": 64,
    "height": 64,
    "columns": 1,
    "rows": 1,
    "side": 64,
    "content_width": 64,
    "content_height": 64,
}
SOURCE = {"tiles": TILES, "chunk": 2, "path": "a.mp4"}
PYRAMID = {"scales": [32, 64], "patch_size": 16, "crop": False}
ENTRIES = {
    "format": "autogaze.gaze",
    "version": "1",
    "pyramid": json.dumps(PYRAMID),
    "judge": '"canvas"',
    "ordered": "true",
    "source": json.dumps(SOURCE),
}
TENSORS = {
    "ids": torch.tensor([0, 5, 3], dtype=torch.int16),
    "lengths": torch.tensor([[2, 1]], dtype=torch.int32),
    "losses": torch.tensor([[0.25, 0.5]]),
    "timestamps": torch.tensor([0.0, 0.5], dtype=torch.float64),
    "frame_indices": torch.tensor([0, 1]),
}
NAN, INF = float("nan"), float("inf")
DEEP = "[" * 100_000 + "]" * 100_000


def pyramid(**changes: Any) -> dict[str, str]:
    return {"pyramid": json.dumps({**PYRAMID, **changes})}


def source(**changes: Any) -> dict[str, str]:
    return {"source": json.dumps({**SOURCE, **changes})}


def tiles(**changes: Any) -> dict[str, str]:
    return source(tiles={**TILES, **changes})


def long(*values: int) -> Tensor:
    return torch.tensor(values)


WRONG_ENTRIES = [
    *(pyramid(scales=scales) for scales in (["a"], [NAN], [INF], [1e30], [2**63], [32, None])),
    *(pyramid(scales=scales) for scales in ([], [64, 32], [32.5], "64", 64, {}, None, [[32]])),
    pyramid(scales=list(range(16, 16 * 200, 16))),
    pyramid(scales=[65536], patch_size=1),
    *(pyramid(patch_size=size) for size in (0, -1, 1.5, "16", None, True, 2**40)),
    pyramid(crop="yes"),
    {"pyramid": DEEP},
    {"pyramid": "9" * 5000},
    {"pyramid": "[1, 2]"},
    *(source(chunk=chunk) for chunk in (0, -1, 1.5, "16", None, [2])),
    *(source(path=path) for path in (5, ["a"])),
    *(source(stream=stream) for stream in (-1, 1.5, "1", True, [0], 2**63)),
    *(tiles(side=side) for side in (0, -64, 1.5, "64", None, 2**63)),
    *(tiles(width=width) for width in (0, NAN, True, [64])),
    tiles(columns=2**20, rows=2**20),
    source(tiles=None),
    source(tiles={}),
    {"source": DEEP},
    {"source": "null"},
    {"judge": "5"},
    {"judge": "nothing"},
    {"ordered": "3"},
    {"ordered": ""},
]
WRONG_TENSORS: list[dict[str, Tensor]] = [
    {"losses": torch.tensor([[0.25, NAN]])},
    {"losses": torch.tensor([[INF, 0.5]])},
    {"losses": torch.tensor([0.25, 0.5])},
    {"losses": torch.tensor([[1, 2]])},
    {"timestamps": torch.tensor([0.0, NAN], dtype=torch.float64)},
    {"timestamps": torch.tensor([-INF, 0.5], dtype=torch.float64)},
    {"timestamps": torch.tensor([0.0], dtype=torch.float64)},
    {"frame_indices": long(0, -1)},
    {"frame_indices": torch.tensor([0.0, 1.0])},
    {"frame_indices": long(0, 1, 2)},
    {"ids": long(0, 5, 20)},
    {"ids": long(0, -5, 3)},
    {"ids": long(5, 5, 3)},
    {"ids": torch.tensor([0.0, 5.0, 3.0])},
    {"ids": long(0, 5)},
    {"ids": torch.tensor([True, False, True])},
    {"lengths": torch.tensor([[3, -1, 1]])},
    {"lengths": torch.tensor([[2**62, 2**62, 2**62, 2**62 + 3]])},
    {"lengths": long(2, 1)},
    {"lengths": torch.tensor([[2.0, 1.0]])},
    {"lengths": torch.empty(2**40, 0, dtype=torch.int64), "ids": long()},
]


def write(path: Path, entries: dict[str, str], tensors: dict[str, Tensor]) -> Path:
    save_file({**TENSORS, **tensors}, path, {**ENTRIES, **entries})
    return path


def test_the_file_that_is_changed_here_is_right(tmp_path: Path) -> None:
    gaze = Gaze.load(write(tmp_path / "right.safetensors", {}, {}))
    assert gaze.ids.tolist() == [0, 5, 3]
    assert gaze.source is not None
    assert gaze.source.timestamps == (0.0, 0.5)


@pytest.mark.parametrize(
    ("entries", "tensors"),
    [(entries, {}) for entries in WRONG_ENTRIES] + [({}, tensors) for tensors in WRONG_TENSORS],
)
def test_impossible_content_is_refused_by_name(
    entries: dict[str, str], tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = write(tmp_path / "wrong.safetensors", entries, tensors)
    with pytest.raises(AutoGazeError, match=r"wrong\.safetensors"):
        Gaze.load(path)
    assert "wrong.safetensors" in fails("info", path)


@pytest.mark.parametrize("name", [*TENSORS, "pyramid", "judge", "ordered", "format"])
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    if name == "losses":
        return  # may be left out
    path = tmp_path / "wrong.safetensors"
    tensors = {key: value for key, value in TENSORS.items() if key != name}
    save_file(tensors, path, {key: value for key, value in ENTRIES.items() if key != name})
    with pytest.raises(AutoGazeError, match=rf"wrong\.safetensors: .*{name}"):
        Gaze.load(path)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -20])
def test_a_file_that_is_cut_short(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "wrong.safetensors", {}, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(AutoGazeError, match=r"wrong\.safetensors"):
        Gaze.load(path)
    assert "wrong.safetensors" in fails("info", path)


def test_info_has_no_nan_in_its_json(tmp_path: Path) -> None:
    path = write(tmp_path / "right.safetensors", {}, {})
    facts = json.loads(run("info", path, "--json").stdout, parse_constant=pytest.fail)
    assert facts["loss_mean"] == pytest.approx(0.375)


def test_info_of_a_file_in_other_types_than_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {}, {"losses": TENSORS["losses"].bfloat16()})
    facts = json.loads(run("info", path, "--json").stdout)
    assert (facts["patches"], facts["loss_max"]) == (3, 0.5)  # NumPy has no bfloat16


@pytest.mark.parametrize("name", ["a\0b.safetensors", "x" * 300 + ".safetensors", "loop"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(
        AutoGazeError, match=r"null character|no such gaze file|too long|leads back"
    ):
        Gaze.load(tmp_path / name)
