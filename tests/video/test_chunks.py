"""Chunks: one pass over a video, in pieces, with a thread that cleans up after itself."""

import threading
import time

import numpy as np
import pytest
import torch

from autogaze.errors import CorruptVideoError, GeometryError, VideoError
from autogaze.source import Source
from autogaze.video.chunks import ChunkReader, _first_frames, ahead
from autogaze.video.motion import motion_map
from autogaze.video.reader import Video
from autogaze.video.tiling import cut_frame, cut_tiles, empty_tiles


@pytest.mark.parametrize("chunk", [1, 7, 10, 16, 64])
@pytest.mark.parametrize("tiles", ["resize", "pad", "one"])
def test_chunks_equal_one_pass(plain, chunk, tiles):
    reader = ChunkReader(plain, side=32, tiles=tiles, chunk=chunk)
    frames = list(Video(plain).frames())
    whole = cut_tiles([frame.pixels for frame in frames], reader.tiles)
    chunks = list(reader)
    assert len(chunks) == -(-20 // chunk)
    assert all(piece.clips.num_frames == chunk for piece in chunks[:-1])
    assert torch.equal(torch.cat([piece.clips.frames for piece in chunks], dim=1), whole)
    source = chunks[0].source
    for piece in chunks[1:]:
        source = Source.joined([source, piece.source])
    assert source == Source.joined([piece.source for piece in chunks])
    assert source.frame_indices == tuple(range(20))
    assert source.timestamps == tuple(frame.timestamp for frame in frames)
    assert (source.tiles, source.chunk, source.path) == (reader.tiles, chunk, str(plain))
    assert reader.seconds_decode > 0
    assert reader.seconds_tile > 0
    assert reader.num_corrupt == 0


def test_sampling_and_ranges(plain):
    reader = ChunkReader(plain, side=32, fps=5.0, start=0.4, end=1.6, chunk=4)
    indices = [piece.source.frame_indices for piece in reader]
    assert indices == [(4, 6, 8, 10), (12, 14)]
    with pytest.raises(VideoError, match="no frame lies in"):
        list(ChunkReader(plain, side=32, start=50.0))


def test_motion_and_preview(plain):
    reader = ChunkReader(plain, side=32, tiles="2x1", chunk=8, motion_grid=4, preview=30)
    frames = list(Video(plain).frames(motion=True))
    expected = torch.stack([motion_map(f.motion, reader.tiles, 4) for f in frames], dim=1)
    chunks = list(reader)
    assert torch.equal(torch.cat([piece.clips.motion for piece in chunks], dim=1), expected)
    assert expected.shape == (2, 20, 4, 4)
    assert chunks[0].pixels.shape == (8, 22, 30, 3)
    assert next(iter(ChunkReader(plain, side=32))).pixels is None


def test_arguments_are_checked_before_anything_is_read(plain, folder, encode):
    with pytest.raises(VideoError, match=r"^chunk .*\b1\b.*\b0$"):
        ChunkReader(plain, chunk=0)
    with pytest.raises(VideoError, match="fps"):
        ChunkReader(plain, fps=-1.0)
    with pytest.raises(GeometryError, match="tiles"):
        ChunkReader(plain, tiles="many")
    other = encode(folder / "other.mkv", codec="ffv1")
    with pytest.raises(VideoError, match="another selector"):
        ChunkReader(other, motion_grid=14)


def test_skipped_frames_are_counted(plain, folder):
    data = plain.read_bytes()
    path = folder / "shortened.mp4"
    path.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(CorruptVideoError):
        list(ChunkReader(path, side=32, chunk=4))
    reader = ChunkReader(path, side=32, chunk=4, skip_corrupt=True)
    seen = sum(piece.source.num_frames for piece in reader)
    assert 0 < seen < 20
    assert seen + reader.num_corrupt == 20


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "autogaze-prefetch"]


def test_a_consumer_that_stops_early_leaves_no_thread(plain):
    chunks = iter(ChunkReader(plain, side=32, chunk=2))
    next(chunks)
    assert len(threads()) == 1
    chunks.close()
    assert not threads()
    with pytest.raises(RuntimeError, match="enough"):  # noqa: PT012
        for _ in ChunkReader(plain, side=32, chunk=2):
            raise RuntimeError("enough")
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_ahead_by_one_and_errors_come_through():
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number + 1
        raise KeyError("broken")

    iterator = ahead(items())
    assert next(iterator) == 1
    deadline = time.monotonic() + 5
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert made == [0, 1]  # the next one is made already, the one after it not yet
    assert [next(iterator) for _ in range(4)] == [2, 3, 4, 5]
    with pytest.raises(KeyError, match="broken"):
        next(iterator)
    assert not threads()


def test_of_a_large_chunk_only_a_few_frames_are_made_ahead(plain, monkeypatch):
    reader = ChunkReader(plain, side=32, chunk=8)
    tiles = reader.tiles.num_tiles * 3 * 32 * 32
    monkeypatch.setattr("autogaze.video.chunks.MAX_TILES_MADE", (8 + 3) * tiles)
    cut = []

    def counted(pixels, plan, out):
        cut.append(pixels.shape)
        cut_frame(pixels, plan, out)

    monkeypatch.setattr("autogaze.video.chunks.cut_frame", counted)
    chunks = iter(reader)
    assert next(chunks).clips.num_frames == 8
    deadline = time.monotonic() + 5
    while len(cut) < 11 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(cut) == 11
    assert sum(chunk.clips.num_frames for chunk in chunks) == 12
    assert not threads()


@pytest.mark.parametrize("num_frames", [1, 2, 5, 7, 8])
def test_frames_of_a_chunk_that_is_not_full_are_moved_in_place(num_frames):
    whole = torch.randint(0, 256, (5, 8, 3, 4, 4), dtype=torch.uint8)
    expected = whole[:, :num_frames].clone()
    found = _first_frames(whole, num_frames)
    assert found.equal(expected)
    assert found.is_contiguous()
    assert found.data_ptr() == whole.data_ptr()


@pytest.mark.parametrize("made", [0, 5 * 3 * 32 * 32 * 6])
def test_a_chunk_made_in_part_is_given_up_early(plain, monkeypatch, made):
    monkeypatch.setattr("autogaze.video.chunks.MAX_TILES_MADE", made)
    chunks = iter(ChunkReader(plain, side=32, chunk=4))
    next(chunks)
    chunks.close()
    assert not threads()


def test_preview_never_enlarges(plain):
    (pixels,) = {piece.pixels.shape for piece in ChunkReader(plain, side=32, chunk=20, preview=999)}
    assert pixels == (20, 48, 64, 3)
    assert np.prod(pixels) > 0


@pytest.mark.parametrize(("chunk", "is_pinned"), [(7, True), (10**6, False)])
def test_chunks_for_a_gpu_are_pinned_unless_they_are_large(plain, monkeypatch, chunk, is_pinned):
    """Page-locked memory is taken at once, of a chunk of a million frames as well."""
    asked = []

    def made(tiles, num_frames, *, pinned):
        asked.append(pinned)
        return empty_tiles(tiles, num_frames)

    monkeypatch.setattr("autogaze.video.chunks.empty_tiles", made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = torch.device("cuda")
    reader = ChunkReader(plain, side=32, chunk=chunk, device=gpu, decoder="pyav", tiles="one")
    assert sum(piece.clips.num_frames for piece in reader) == 20
    assert {*asked} == {is_pinned}


def test_for_a_gpu_frames_are_decoded_while_others_are_cut(plain, folder):
    """The same chunks, by two threads, which end with the reader."""
    gpu, expected = torch.device("cuda"), list(ChunkReader(plain, side=32, chunk=7))
    reader = ChunkReader(plain, side=32, chunk=7, device=gpu, decoder="pyav")
    for piece, other in zip(reader, expected, strict=True):
        assert torch.equal(piece.clips.frames, other.clips.frames)
        assert piece.source == other.source
    assert reader.seconds_decode > 0
    pieces = iter(reader)
    next(pieces)
    assert threads()
    pieces.close()
    assert not threads()
    data = plain.read_bytes()
    path = folder / "shortened_for_a_gpu.mp4"
    path.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(CorruptVideoError):
        list(ChunkReader(path, side=32, device=gpu, decoder="pyav"))
    assert not threads()
