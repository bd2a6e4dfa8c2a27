"""VideoMAE: exact, and independent of everything that must not matter."""

from dataclasses import replace

import pytest
import torch

from autogaze.errors import CheckpointError, GeometryError
from autogaze.gaze import Gaze
from autogaze.reconstruction.video_mae import (
    VideoMAE,
    VideoMAEConfig,
)
from tests.reconstruction.video_mae.material import SMALL, some_gaze, some_video, tiny_video_mae


@pytest.fixture(scope="module")
def mae():
    return tiny_video_mae()


@torch.no_grad()
def test_a_clip_in_a_ragged_batch_is_as_alone(mae):
    video, gaze = some_video(), some_gaze()
    both = mae(video, gaze, [1, 3])
    for clip in range(2):
        alone = mae(video[clip : clip + 1], gaze[clip], [1, 3])
        torch.testing.assert_close(alone[0], both[clip], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_gazed_patches_and_earlier_frames_are_seen(mae):
    video, gaze = some_video(), some_gaze()
    reference = mae(video, gaze, [2])
    later = video.clone()
    later[:, 3] += 1
    torch.testing.assert_close(mae(later, gaze, [2]), reference)
    earlier = video.clone()
    earlier[:, 0] += 1
    assert (mae(earlier, gaze, [2]) - reference).abs().max() > 1e-3
    # Pixels of the finest scale that no patch of any scale was cut from.
    fine = Gaze.from_mask(SMALL.pyramid, torch.arange(20).expand(2, 4, 20) == 4)
    unseen = video.clone()
    unseen[..., 16:, 16:] += 1
    torch.testing.assert_close(mae(unseen, fine, [2]), mae(video, fine, [2]))


@torch.no_grad()
def test_the_order_of_gazes_in_a_frame_does_not_matter(mae):
    video, gaze = some_video(), some_gaze()
    parts = [gaze.frame(clip, frame).flip(0) for clip in range(2) for frame in range(4)]
    flipped = Gaze(gaze.pyramid, torch.cat(parts), gaze.lengths)
    torch.testing.assert_close(
        mae(video, flipped, [0, 3]), mae(video, gaze, [0, 3]), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_frames_come_in_the_order_asked_for(mae):
    video, gaze = some_video(), some_gaze()
    there, back = mae(video, gaze, [0, 3]), mae(video, gaze, [3, 0])
    torch.testing.assert_close(there.flip(1), back)


@pytest.mark.parametrize("scales", ["32+64+112+224", "16+48+80+224", "64+192+256"])
def test_tables_have_a_row_for_every_patch(scales):
    side = int(scales.split("+")[-1])
    model = VideoMAE(replace(SMALL, scales=scales, image_size=side))
    patches = model.config.pyramid.num_patches
    assert model.encoder_positions().shape == (patches, 24)
    assert model.decoder_positions().shape == (patches, 16)


def test_real_scales_reconstruct():
    config = replace(SMALL, scales="32+64+112+224", image_size=224)
    video = torch.randn(1, 1, 3, 224, 224)
    gaze = Gaze.everything(config.pyramid, 1, 1)
    with torch.no_grad():
        assert VideoMAE(config)(video, gaze, [0]).shape == video.shape


def test_every_parameter_learns(mae):
    model = VideoMAE(SMALL)
    video, gaze = some_video(), some_gaze()
    (model(video, gaze, [0, 3]) - video[:, [0, 3]]).abs().mean().backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert still == []


@pytest.mark.parametrize(
    ("video", "gaze", "frames", "message"),
    [
        (some_video(), some_gaze(), [4], r"\[0, 4\).*\[4\]"),
        (some_video(), some_gaze(), [], r"\[\]"),
        (some_video(frames=3), some_gaze(), [0], r"\(2, 4, 3, 64, 64\).*\(2, 3, 3, 64, 64\)"),
        (some_video(frames=9), some_gaze(frames=9), [0], r"\b9\b.*\b8\b"),
    ],
)
def test_bad_input(mae, video, gaze, frames, message):
    with pytest.raises(GeometryError, match=message):
        mae(video, gaze, frames)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(CheckpointError, match=r"decoder_hidden_size 512.*7"):
        VideoMAEConfig(decoder_num_attention_heads=7)
    with pytest.raises(CheckpointError, match=r"hidden_size 6 is no multiple of 4"):
        VideoMAEConfig(hidden_size=6, num_attention_heads=2)


@torch.no_grad()
def test_half_precision_comes_near(mae):
    video, gaze = some_video(), some_gaze()
    exact = mae(video, gaze, [1, 3])
    with torch.autocast("cpu", torch.bfloat16):
        rough = mae(video, gaze, [1, 3]).float()
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()
