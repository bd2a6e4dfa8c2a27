"""Gaze files written chunk by chunk are the files that `Gaze.save` writes."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autogaze.errors import AutoGazeError, OutputError
from autogaze.gaze import Gaze
from autogaze.gaze_io import GazeWriter
from autogaze.geometry import PatchPyramid
from autogaze.source import Source, TileGrid
from tests.disks import small_disk

GRID = TileGrid(130, 64, 2, 1, 64, 128, 64)


def some_gaze(num_frames: int, scales: tuple[int, ...] = (32, 64), seed: int = 0) -> Gaze:
    pyramid = PatchPyramid(scales, 16)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, num_frames, pyramid.num_patches, generator=generator) < 0.3
    numbers = tuple(range(num_frames))
    source = Source(GRID, tuple(number / 7 for number in numbers), numbers, 4, "a/b.mp4")
    losses = torch.rand(2, num_frames, generator=generator)
    return Gaze.from_mask(pyramid, mask, losses=losses, metric="canvas", source=source)


def pieces(gaze: Gaze, size: int) -> list[Gaze]:
    return [
        gaze.frames(start, min(start + size, gaze.num_frames))
        for start in range(0, gaze.num_frames, size)
    ]


def write(path: Path, gazes: list[Gaze]) -> None:
    with GazeWriter(path) as writer:
        for gaze in gazes:
            writer.add(gaze)


@pytest.mark.parametrize("size", [1, 4, 11])
@pytest.mark.parametrize("scales", [(32, 64), (32, 64, 112, 224, 2912)])
def test_same_as_saving_all_at_once(tmp_path: Path, size: int, scales: tuple[int, ...]) -> None:
    gaze = some_gaze(11, scales)  # the larger pyramid has more ids than fit in 16 bits
    gaze.save(tmp_path / "whole.safetensors")
    write(tmp_path / "chunks.safetensors", pieces(gaze, size))
    whole, chunks = (Gaze.load(tmp_path / f"{name}.safetensors") for name in ("whole", "chunks"))
    assert chunks.ids.equal(whole.ids)
    assert chunks.lengths.equal(whole.lengths)
    assert chunks.losses is not None
    assert chunks.losses.equal(gaze.losses)
    assert (chunks.source, chunks.pyramid, chunks.metric, chunks.ordered) == (
        (whole.source, whole.pyramid, whole.metric, whole.ordered)
    )
    sizes = {(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "chunks")}
    assert max(sizes) - min(sizes) < 64


def test_losses_and_source_are_optional(tmp_path: Path) -> None:
    gaze = replace(some_gaze(3), losses=None, source=None, metric=None)
    write(tmp_path / "gaze.safetensors", [gaze])
    loaded = Gaze.load(tmp_path / "gaze.safetensors")
    assert loaded.losses is None
    assert loaded.source is None
    assert loaded.ids.equal(gaze.ids)


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    old = tmp_path / "gaze.safetensors"
    old.write_bytes(b"as it was")
    with pytest.raises(
        AutoGazeError, match=r"32\+64.*same video.*16\+64|16\+64.*same video.*32\+64"
    ):
        write(old, [some_gaze(3), some_gaze(3, (16, 64))])
    with pytest.raises(AutoGazeError, match="no gaze to write"):
        write(old, [])
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == b"as it was"


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    pieces = [some_gaze(500)] * 40
    with pytest.raises(OutputError, match=r"gaze.safetensors: cannot be written"), small_disk():
        write(tmp_path / "gaze.safetensors", pieces)
    assert list(tmp_path.iterdir()) == []


def test_saving_all_at_once_on_a_full_disk(tmp_path: Path) -> None:
    gaze = some_gaze(9000)
    with pytest.raises(OutputError, match="cannot be written"), small_disk():
        gaze.save(tmp_path / "gaze.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**where: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OutputError, match=r"gaze\.safetensors: .*No space left"):
        write(tmp_path / "gaze.safetensors", [some_gaze(3)])
    assert list(tmp_path.iterdir()) == []
