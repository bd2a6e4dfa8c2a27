from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autogaze.errors import CorruptVideoError, MLLMError, VideoError
from autogaze.mllm.nvila.frames import (
    cut_frame,
    frame_numbers,
    plan_grid,
    thumbnail_places,
)
from autogaze.mllm.prompt_text import as_list
from autogaze.video.reader import Video
from tests.clips import damage, make_video
from tests.mllm.nvila.tiny import make_frames, sample


@pytest.mark.parametrize(
    ("size", "max_tiles", "columns", "rows"),
    [
        ((1920, 1080), 48, 9, 5),
        ((3840, 2160), 48, 9, 5),
        ((1080, 1920), 48, 5, 9),
        ((1920, 1080), 8, 4, 2),  # 2 x 1 is as far off, and the frame is large
        ((392, 392), 48, 1, 1),
        ((3584, 3584), 48, 6, 6),
        ((5000, 10), 4, 4, 1),
        ((640, 480), 1, 1, 1),
    ],
)
def test_grids_of_tiles(size, max_tiles, columns, rows):
    grid = plan_grid(*size, 392, max_tiles)
    assert (grid.columns, grid.rows) == (columns, rows)
    assert (grid.content_width, grid.content_height) == (392 * columns, 392 * rows)


def test_equal_ratios_go_by_the_frames_size():
    """2 x 2 has as good a ratio as 1 x 1: taken where the frame has over half of its pixels."""
    assert plan_grid(100, 100, 56, 4).num_tiles == 4
    assert plan_grid(79, 79, 56, 4).num_tiles == 1


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 60), st.sampled_from([14, 56, 392])
)
def test_no_grid_is_nearer_in_aspect(width, height, most, side):
    grid = plan_grid(width, height, side, most)
    assert grid.num_tiles <= most
    distance = abs(width / height - grid.columns / grid.rows)
    assert all(
        distance <= abs(width / height - columns / rows)
        for columns in range(1, most + 1)
        for rows in range(1, most // columns + 1)
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 200))
def test_frames_are_sampled_evenly(num_frames, wanted):
    numbers = frame_numbers(num_frames, wanted)
    assert len(numbers) == wanted
    assert list(numbers) == sorted(numbers)
    assert numbers[0] == 0
    assert numbers[-1] == (num_frames - 1 if wanted > 1 else 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.data())
def test_thumbnails_are_every_nth_frame(num_frames, data):
    wanted = data.draw(st.integers(0, num_frames))
    places = list(thumbnail_places(num_frames, wanted))
    assert len(places) == wanted
    assert places == [number * (num_frames // max(1, wanted)) for number in range(wanted)]
    assert all(place < num_frames for place in places)


def test_tiles_are_cut_row_by_row():
    pixels = torch.from_numpy(make_frames(1, height=112, width=168)[0]).movedim(-1, 0)
    grid = plan_grid(168, 112, 56, 6)
    tiles = cut_frame(pixels, grid)
    assert tiles.shape == (6, 3, 56, 56)
    for number, tile in enumerate(tiles):
        left, top = grid.origin(number)
        assert tile.equal(pixels[:, top : top + 56, left : left + 56])


def test_resizing_is_bicubic_and_antialiased():
    pixels = make_frames(1, height=100, width=90)[0]
    tile = cut_frame(torch.from_numpy(pixels).movedim(-1, 0), plan_grid(90, 100, 56, 1))[0]
    expected = Image.fromarray(pixels).resize((56, 56), Image.Resampling.BICUBIC)
    difference = tile.permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()
    assert difference.abs().max() <= 1


def test_a_file_gives_the_readers_frames(tmp_path):
    path = make_video(tmp_path / "video.mp4", num_frames=11)
    every = {frame.index: frame for frame in Video(path).frames()}
    frames = sample(path, 4)
    assert frames[0].pixels.shape == (3, 64, 96)
    assert [frame.number for frame in frames] == [0, 3, 7, 10]
    for frame in frames:
        assert frame.seconds == pytest.approx(every[frame.number].timestamp, abs=1e-3)
        assert np.array_equal(frame.pixels.movedim(0, -1), every[frame.number].pixels)


def test_a_short_file_repeats_frames(tmp_path):
    path = make_video(tmp_path / "video.mp4", num_frames=3)
    frames = sample(path, 8, motion=True)
    assert [frame.number for frame in frames] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert frames[0].motion.lengths.min() > 0  # all new
    # Nothing has moved since the same frame.
    assert all(frames[place].motion.lengths.max() == 0 for place in (1, 3, 4, 5, 7))


def test_motion_adds_up_between_sampled_frames(tmp_path):
    path = make_video(tmp_path / "video.mp4", num_frames=9)
    every = [frame.motion.lengths for frame in Video(path).frames(motion=True)]
    last = sample(path, 3, motion=True)[1].motion.lengths
    assert np.allclose(last, np.minimum(sum(every[1:5]), 1e4))


def test_a_damaged_file_is_an_error_or_repeats_the_frame_before(tmp_path):
    path = damage(make_video(tmp_path / "video.mp4", num_frames=20), 12)
    with pytest.raises(CorruptVideoError):
        sample(path, 20)
    frames = sample(path, 20, skip_corrupt=True)
    assert [frame.number for frame in frames] == list(range(20))
    good = {f.index: f.pixels for f in Video(path).frames(skip_corrupt=True)}
    assert 12 not in good
    for frame in frames:
        shown = max(index for index in good if index <= frame.number)
        assert np.array_equal(frame.pixels.movedim(0, -1), good[shown])


@pytest.mark.parametrize("form", ["last", "first", "floats", "tensor", "images", "clip"])
def test_frames_in_any_form(form):
    frames = make_frames(5)
    given = {
        "last": frames,
        "first": np.ascontiguousarray(frames.transpose(0, 3, 1, 2)),
        "floats": frames.astype(np.float32) / 255,
        "tensor": torch.from_numpy(frames),
        "images": [Image.fromarray(frame) for frame in frames],
        "clip": frames[None],
    }[form]
    sampled = sample(given, 3)
    assert len(sampled) == 3
    assert [frame.number for frame in sampled] == [0, 2, 4]
    assert all(
        np.array_equal(frame.pixels.movedim(0, -1), frames[frame.number]) for frame in sampled
    )


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 3, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 2.0), [], 3, ""]
)
def test_no_frames_of_one_video(frames):
    with pytest.raises((MLLMError, VideoError)):
        sample(frames, 2)


def test_normalised_frames_are_refused():
    with pytest.raises(MLLMError, match="-1"):
        sample(np.full((2, 8, 8, 3), -1.0, np.float32), 2)


def test_one_video_or_several():
    videos_of = partial(as_list, kind="video")
    frames = make_frames(3)
    images = [Image.fromarray(frame) for frame in frames]
    assert videos_of(None) == []
    assert videos_of("a.mp4") == ["a.mp4"]
    assert videos_of(["a.mp4", "b.mp4"]) == ["a.mp4", "b.mp4"]
    assert len(videos_of(frames)) == 1
    assert len(videos_of(list(frames))) == 1
    assert len(videos_of(images)) == 1
    assert len(videos_of(images[0])) == 1
    assert len(videos_of([images, images])) == 2
    assert len(videos_of([frames, "a.mp4"])) == 2
    assert len(videos_of(np.stack([frames, frames]))) == 2
