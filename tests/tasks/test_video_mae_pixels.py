"""By which statistics frames are normalised for a VideoMAE: the published one's, and a checkpoint's own."""

import json

import numpy as np
import pytest
import torch
from transformers import VivitImageProcessor

from autogaze.datasets.video_utils import transform_video_for_pytorch
from autogaze.errors import CheckpointError
from autogaze.labelling.search import VideoMAESearcher
from autogaze.reconstruction.video_mae.checkpoint import PUBLISHED_PIXELS
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.utils.normalization import IMAGENET, PixelStatistics
from tests.tasks.material import TINY, some_clips, some_gaze, tiny_mae

PROCESSOR = "preprocessor_config.json"
VIT_MAE = {"do_normalize": True, "do_resize": True, "resample": 2, "size": 224,
           "image_mean": list(IMAGENET.mean), "image_std": list(IMAGENET.std),
           "feature_extractor_type": "ViTFeatureExtractor"}  # fmt: skip
"""What the file of facebook/vit-mae-large holds."""


def published(rgb):
    """Pixels of the published VideoMAE, written out; RGB in [0, 1]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (rgb * 255 / 127.5 - 1 - mean[:, None, None]) / std[:, None, None]


@pytest.fixture
def videomae_pt(tmp_path):
    path = tmp_path / "videomae.pt"
    torch.save({f"mae.{name}": value for name, value in tiny_mae().state_dict().items()}, path)
    return path


@pytest.fixture
def own(tmp_path):
    """A checkpoint folder of this package."""
    VideoMAETask(tiny_mae(), FrameLosses.parse("l1", 1)).save_pretrained(tmp_path / "own")
    return tmp_path / "own"


def image_mae(folder, processor=None):
    """Make a checkpoint folder of this package an image MAE's."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit_mae"}))
    (folder / PROCESSOR).unlink()
    if processor is not None:
        (folder / PROCESSOR).write_text(json.dumps(processor))
    return folder


def test_the_published_range():
    rgb = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 1, 1)
    pixels = PUBLISHED_PIXELS.normalise(rgb)
    torch.testing.assert_close(pixels, published(rgb))
    torch.testing.assert_close(pixels[0].flatten(), torch.tensor([-6.4847, -6.5, -6.2489]), atol=1e-4, rtol=0)  # fmt: skip
    torch.testing.assert_close(pixels[1].flatten(), torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-4, rtol=0)  # fmt: skip


def test_the_published_file_sees_the_published_pixels(videomae_pt):
    task = VideoMAETask.from_checkpoint(videomae_pt, config=TINY, loss_type="l1", loss_weights=1)
    rgb, gaze = some_clips(), some_gaze(TINY.pyramid)
    pixels = published(rgb)
    wanted = (tiny_mae()(pixels, gaze, [2]) - pixels[:, [2]]).abs().mean((2, 3, 4))
    torch.testing.assert_close(task(rgb, gaze, [2]).losses, wanted)


def test_l1_of_one_picture_is_twice_that_of_the_unit_range(own, videomae_pt):
    one = VideoMAETask.from_checkpoint(videomae_pt, config=TINY, loss_type="l1", loss_weights=1)
    other = VideoMAETask.from_checkpoint(own)
    made, real = some_clips(seed=1), some_clips(seed=2)
    torch.testing.assert_close(one.losses(made, real)[0], 2 * other.losses(made, real)[0])


@pytest.mark.parametrize(
    ("processor", "wanted"),
    [
        (VIT_MAE, PUBLISHED_PIXELS),
        (None, PUBLISHED_PIXELS),
        ({}, PixelStatistics.of_rescaled([0.5] * 3, [0.5] * 3, 1 / 127.5, offset=True)),
        ({**VIT_MAE, "rescale_factor": 1 / 255, "offset": False}, IMAGENET),
        ({**VIT_MAE, "rescale_factor": 1 / 255},
         PixelStatistics.of_rescaled(IMAGENET.mean, IMAGENET.std, 1 / 255, offset=True)),
        ({"do_normalize": False}, PixelStatistics((0.5,) * 3, (0.5,) * 3)),
        ({"do_rescale": False, "offset": False, "image_mean": 51, "image_std": 25.5},
         PixelStatistics((0.2,) * 3, (0.1,) * 3)),
    ],
)  # fmt: skip
def test_an_image_maes_file_is_read_as_the_published_training_does(own, processor, wanted):
    folder = image_mae(own, processor)
    found = VideoMAETask.from_checkpoint(folder).statistics
    assert found.mean == pytest.approx(wanted.mean)
    assert found.std == pytest.approx(wanted.std)
    task = VideoMAEReconstruction(folder, {"loss_type": "l1", "loss_weights": "1"}, "16+32", 1)
    grey = transform_video_for_pytorch(np.full((1, 40, 60, 3), 90, np.uint8), task.transform)
    rgb = torch.full((3, 1, 1), 90 / 255)
    torch.testing.assert_close(grey[0, :, :1, :1], found.normalise(rgb), atol=1e-5, rtol=1e-5)
    if processor == VIT_MAE:
        theirs = VivitImageProcessor.from_pretrained(folder, size=32)
        assert theirs.rescale_factor == 1 / 127.5 == task.transform.rescale_factor
        assert theirs.offset


def test_checkpoints_of_this_package_keep_their_statistics(own, tmp_path):
    assert VideoMAETask.from_checkpoint(own).statistics == IMAGENET
    (own / PROCESSOR).unlink()  # as version 0.1.0 wrote them
    task = VideoMAETask.from_checkpoint(own)
    assert task.statistics == IMAGENET
    task = VideoMAETask(task.mae, task.losses, statistics=PUBLISHED_PIXELS)
    task.save_pretrained(tmp_path / "again")
    again = VideoMAETask.from_checkpoint(tmp_path / "again")
    assert again.statistics == PUBLISHED_PIXELS
    assert torch.equal(
        again(some_clips(), some_gaze(TINY.pyramid), [1]).losses,
        task(some_clips(), some_gaze(TINY.pyramid), [1]).losses,
    )


def test_weights_that_are_loaded_bring_their_statistics(own, videomae_pt):
    new = VideoMAETask(tiny_mae(), FrameLosses.parse("l1", 1))
    assert new.statistics == IMAGENET
    new.load_weights(videomae_pt)
    assert new.statistics == PUBLISHED_PIXELS
    assert new.losses.terms["l1"].statistics == PUBLISHED_PIXELS
    new.load_weights(own)
    assert new.statistics == IMAGENET
    # The published file says nothing: a task that was made of a checkpoint keeps what that says.
    odd = PixelStatistics((0.1,) * 3, (0.2,) * 3)
    made_of = VideoMAETask(tiny_mae(), FrameLosses.parse("l1", 1), statistics=odd)
    made_of.load_weights(videomae_pt)
    assert made_of.statistics == odd


def test_labels_of_other_pixels_are_other_labels(own):
    one = VideoMAETask.from_checkpoint(own)
    other = VideoMAETask(one.mae, FrameLosses.parse("l1", 1), statistics=PUBLISHED_PIXELS)
    assert VideoMAESearcher(one).identity != VideoMAESearcher(other).identity


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSON"),
        ("[]", "list"),
        ('{"image_mean": "grey"}', "image_mean"),
        ('{"image_mean": [0.5, 0.5]}', "image_mean"),
        ('{"image_std": [0.5, 0, 0.5]}', "image_std"),
        ('{"image_std": [0.5, NaN, 0.5]}', "image_std"),
        ('{"rescale_factor": 0}', "rescale_factor"),
        ('{"rescale_factor": "1/255"}', "rescale_factor"),
        ('{"offset": 1}', "offset"),
    ],
)
def test_files_that_make_no_sense(own, text, named):
    (own / PROCESSOR).write_text(text)
    with pytest.raises(CheckpointError, match=named) as caught:
        VideoMAETask.from_checkpoint(own)
    assert PROCESSOR in str(caught.value)
