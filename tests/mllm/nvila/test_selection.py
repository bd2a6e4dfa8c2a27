from dataclasses import replace

import pytest
import torch

import autogaze
from autogaze import Gaze, PatchPyramid
from autogaze.clips import frame_caps
from autogaze.errors import MLLMError, SelectorError
from autogaze.mllm.nvila.frames import cut_frame, plan_grid
from autogaze.mllm.nvila.selection import CHUNK, gaze_at
from autogaze.mllm.nvila.video_settings import ClipBudget, VideoSettings
from autogaze.selectors.controls import Centre
from autogaze.utils.normalization import SIGLIP
from autogaze.vision_encoders.patches import gazed_patches
from tests.clips import make_video
from tests.mllm.nvila.tiny import PYRAMID, make_frames, sample

SETTINGS = VideoSettings(
    num_video_frames=20,
    num_video_frames_thumbnail=3,
    max_tiles_video=4,
    gazing_ratio_tile=0.3,
    task_loss_requirement_tile=None,
    gazing_ratio_thumbnail=None,
    task_loss_requirement_thumbnail=None,
    max_batch_size_autogaze=32,
    max_vision_tokens=None,
    pyramid=PYRAMID,
    statistics=SIGLIP,
)


class Untouchable(Centre):
    """A selector that must not run."""

    def select(self, clips, **options):
        raise AssertionError


def test_chunks_of_tiles_then_thumbnails():
    frames = make_frames(20, height=64, width=128)
    video = gaze_at(frames, SETTINGS, Centre(PYRAMID))
    assert [tuple(chunk.gaze.lengths.shape) for chunk in video.tiles] == [(2, CHUNK), (2, 4)]
    assert video.gaze.lengths.shape == (2, 20)
    assert video.thumbnails.gaze.lengths.tolist() == [[20]] * 3
    assert (video.gaze.lengths == 6).all()  # 0.3 of 20


def test_pixels_are_those_of_the_normalised_tiles():
    frames = make_frames(20, height=64, width=128)
    video = gaze_at(frames, SETTINGS, Centre(PYRAMID))
    grid = plan_grid(128, 64, 56, 4)
    sampled = sample(frames, 20)
    tiles = torch.stack([cut_frame(frame.pixels, grid) for frame in sampled], dim=1)
    normalised = tiles.float() / 127.5 - 1
    for chunk, start in zip(video.tiles, (0, 16), strict=True):
        here = normalised[:, start : start + CHUNK].flatten(0, 1)
        expected = gazed_patches(here, chunk.gaze.ids, chunk.gaze.frame_of_patch, PYRAMID)
        torch.testing.assert_close(chunk.pixels, expected, rtol=0, atol=1e-6)
    whole = [cut_frame(sampled[at].pixels, plan_grid(128, 64, 56, 1)) for at in (0, 6, 12)]
    small = video.thumbnails
    expected = gazed_patches(
        torch.cat(whole).float() / 127.5 - 1, small.gaze.ids, small.gaze.frame_of_patch, PYRAMID
    )
    torch.testing.assert_close(small.pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["centre", "random", "change", "greedy", "run-length", "codec"], ids=str
)
def test_every_selector(name, tmp_path):
    """The gaze is the selector's own at the tiles of each chunk, in ascending order."""
    path = make_video(tmp_path / "video.mp4", num_frames=20, width=112, height=56)
    selector = autogaze.load(name, pyramid=PYRAMID)
    generator = torch.Generator().manual_seed(1)
    video = gaze_at(path, SETTINGS, selector, generator=generator)
    assert (video.gaze.lengths <= 6).all()
    assert video.gaze.num_patches
    for chunk in video.tiles:
        for clip in chunk.gaze:
            for frame in range(clip.num_frames):
                ids = clip.frame(0, frame).tolist()
                assert ids == sorted(ids)
    if name in ("random", "codec"):  # drawn anew, or in need of more than pixels
        return
    grid = plan_grid(112, 56, 56, 4)
    frames = [cut_frame(frame.pixels, grid) for frame in sample(path, 20)]
    tiles = torch.stack(frames, dim=1)
    for chunk, start in zip(video.tiles, (0, 16), strict=True):
        own = selector.select(tiles[:, start : start + CHUNK], ratio=0.3)
        assert own.mask.equal(chunk.gaze.mask)


def test_batches_of_the_selector_change_nothing():
    frames, selector = make_frames(3), autogaze.load("greedy", pyramid=PYRAMID)
    settings = replace(SETTINGS, num_video_frames=3, gazing_ratio_tile=0.1)
    whole = gaze_at(frames, settings, selector)
    parts = gaze_at(frames, replace(settings, max_batch_size_autogaze=1), selector)
    assert whole.gaze.ids.equal(parts.gaze.ids)
    for one, other in zip(whole.parts, parts.parts, strict=True):
        assert one.pixels.equal(other.pixels)


def test_the_gaze_knows_its_source(tmp_path):
    path = make_video(tmp_path / "video.mp4", num_frames=40, width=112, height=56)
    gaze = gaze_at(path, SETTINGS, Centre(PYRAMID)).gaze
    assert gaze.source.path == str(path)
    assert gaze.source.frame_indices == tuple(frame.number for frame in sample(path, 20))
    assert gaze.source.timestamps[1] == pytest.approx(0.2)
    assert gaze.source.chunk_starts == (0, 16)
    assert gaze.rectangles()[:, 2].max() <= 112


@pytest.mark.parametrize("ratio", [None, 1, 1.0, [1] * CHUNK])
def test_everything_takes_no_selector(ratio):
    settings = replace(SETTINGS, gazing_ratio_tile=ratio)
    assert not settings.runs_selector
    for selector in (None, Untouchable(PYRAMID)):
        video = gaze_at(make_frames(4), settings, selector)
        assert video.gaze.mask.all()
        assert video.thumbnails.gaze.mask.all()


def test_a_threshold_runs_the_selector_even_at_ratio_1():
    settings = replace(SETTINGS, gazing_ratio_tile=1, task_loss_requirement_tile=0.02)
    assert settings.runs_selector
    video = gaze_at(make_frames(4), settings, autogaze.load("greedy", pyramid=PYRAMID))
    assert 0 < video.gaze.ratio < 1


def test_a_ratio_per_frame_starts_anew_with_every_chunk():
    ratios = [0.5] + [0.1] * 15
    video = gaze_at(make_frames(20), replace(SETTINGS, gazing_ratio_tile=ratios), Centre(PYRAMID))
    caps = frame_caps(ratios, CHUNK, PYRAMID.num_patches)
    assert video.gaze.lengths[0].tolist() == caps + caps[:4]


def test_a_list_of_ratios_that_is_too_short():
    settings = replace(SETTINGS, gazing_ratio_tile=[0.5, 0.1])
    with pytest.raises(SelectorError):
        gaze_at(make_frames(20), settings, Centre(PYRAMID))


@pytest.mark.parametrize(
    ("name", "loss"), [("centre", 0.7), ("random", 0.1), ("greedy", 0.7), ("greedy", 0.5)]
)
def test_thresholds_that_make_no_sense_for_a_selector(name, loss):
    """0.7 is meant for predicted losses: on the canvas any one patch would meet it."""
    settings = replace(SETTINGS, task_loss_requirement_tile=loss)
    with pytest.raises(MLLMError, match="task_loss_requirement_tile"):
        gaze_at(make_frames(4), settings, autogaze.load(name, pyramid=PYRAMID))


def test_a_selector_of_another_grid():
    with pytest.raises(MLLMError, match=r"28\+56 / 14"):
        gaze_at(make_frames(4), SETTINGS, Centre(PatchPyramid((56,), 14)))
    with pytest.raises(MLLMError):
        gaze_at(make_frames(4), SETTINGS, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_video_frames": 0},
        {"num_video_frames": 2.5},
        {"num_video_frames": True},
        {"num_video_frames_thumbnail": -1},
        {"num_video_frames_thumbnail": 21},
        {"max_tiles_video": 0},
        {"max_tiles_video": "8"},
        {"max_batch_size_autogaze": 0},
    ],
)
def test_numbers_out_of_range(changes):
    with pytest.raises(MLLMError):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize("values", [(0, None), (1.5, None), ("a", None), (0.5, -1), (0.5, "x")])
def test_budgets_out_of_range(values):
    with pytest.raises(SelectorError):
        ClipBudget(*values)


def test_memory_follows_what_is_kept():
    """Of 16 frames of 6 x 6 tiles 1 of 20 patches is held."""
    frames = make_frames(16, height=336, width=336)
    settings = replace(
        SETTINGS,
        num_video_frames=16,
        max_tiles_video=36,
        gazing_ratio_tile=0.05,
        num_video_frames_thumbnail=0,
    )
    video = gaze_at(frames, settings, Centre(PYRAMID))
    assert video.thumbnails is None
    assert video.gaze.num_patches == 16 * 36
    held = sum(part.pixels.numel() for part in video.parts)
    assert held == 16 * 36 * 3 * 14 * 14
    assert all(part.pixels.untyped_storage().nbytes() == part.pixels.nbytes for part in video.parts)
    assert all(part.frames is None for part in video.parts)


def test_moves_to_a_device_and_back():
    video = gaze_at(make_frames(4), SETTINGS, Centre(PYRAMID)).to("cpu")
    assert isinstance(video.gaze, Gaze)
    assert "patches" in repr(video)
