"""Which encoders can be measured: presets, checkpoints, families of one's own."""

import json

import pytest
import torch
import transformers as tf
from transformers.modeling_outputs import BaseModelOutput

from autogaze import Gaze, PatchPyramid, gazed, register_encoder
from autogaze.errors import EncoderError
from autogaze.evaluation.encoders import PRESETS, check_encoders, load_encoder, measured
from autogaze.evaluation.fidelity import bench_fidelity, dense_features
from autogaze.evaluation.timing import Stage
from autogaze.evaluation.videos import read_clips
from autogaze.utils.normalization import CLIP, IMAGENET, SIGLIP
from autogaze.vision_encoders import PixelStatistics
from autogaze.vision_encoders.adapter import EncoderAdapter, scaled_pyramid
from autogaze.vision_encoders.registry import adapter_class
from tests.clips import make_video
from tests.evaluation import tiny
from tests.vision_encoders.families import FAMILIES, with_large_weights
from tests.vision_encoders.toy import ToyAdapter, ToyConfig, ToyModel

pytestmark = pytest.mark.usefixtures("own_encoder_registry")


def test_presets_are_the_real_sizes():
    million, pyramids = {}, {}
    for name, build in PRESETS.items():
        with torch.device("meta"):
            model = build()
        million[name] = round(sum(p.numel() for p in model.parameters()) / 1e6)
        pyramids[name] = adapter_class(model.config)(model).usual_pyramid
    assert million == {
        "siglip2-base-patch16-224": 93,
        "siglip2-so400m-patch14-384": 428,
        "dinov2-base": 87,
    }
    # Cells lie where those of the learned selector do.
    assert pyramids == {
        "siglip2-base-patch16-224": PatchPyramid(),
        "siglip2-so400m-patch14-384": PatchPyramid((56, 112, 196, 384), 14, crop=True),
        "dinov2-base": PatchPyramid((32, 64, 112, 224), 14, crop=True),
    }


def test_scales_follow_the_side_in_whole_patches():
    assert scaled_pyramid(224, 16) == PatchPyramid()
    assert scaled_pyramid(384, 14).grids == (4, 8, 14, 27)
    assert scaled_pyramid(32, 8).scales == (8, 16, 32)


# Checkpoints.


def test_a_checkpoint_is_loaded_with_its_weights_and_seen_at_its_side(tmp_path):
    encoder = load_encoder(tiny.saved(tmp_path / "model"), tiny.DEVICE_OPTIONS)
    assert not encoder.random
    assert encoder.pyramid.side == 64
    assert encoder.statistics == SIGLIP
    found, saved = (
        next(value for name, value in model.named_parameters() if "patch_embedding.weight" in name)
        for model in (encoder.adapter.model, tiny.siglip())
    )
    assert found.equal(saved)


def test_a_checkpoint_is_seen_at_the_scales_and_in_the_colours_saved_with_it(tmp_path):
    gazed(tiny.siglip(), scales="32+96").save_pretrained(tmp_path)
    processor = tf.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), tiny.DEVICE_OPTIONS)
    assert encoder.pyramid == PatchPyramid((32, 96), 16)
    assert encoder.statistics == PixelStatistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    white = torch.full((1, 1, 3, 96, 96), 255, dtype=torch.uint8)
    normalised = encoder.normalised(white)
    assert normalised[0, 0, :, 5, 5].tolist() == pytest.approx([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6])
    # Whole frames of a side that the model was not made for.
    tokens = encoder.adapter.dense(normalised[0]).last_hidden_state
    assert tokens.shape == (1, 36, 32)


@pytest.mark.parametrize(
    ("family", "statistics"),
    {
        "siglip": SIGLIP,
        "siglip2-naflex": SIGLIP,
        "vit": SIGLIP,
        "clip": CLIP,
        "dinov3": IMAGENET,
    }.items(),
)
def test_without_a_processor_the_colours_are_the_familys(family, statistics):
    assert measured(family, FAMILIES[family].model(), tiny.DEVICE_OPTIONS).statistics == statistics


def test_a_processor_of_grey_pictures_does_not_fit(tmp_path):
    folder = tiny.saved(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "X", "image_mean": [0.5], "image_std": [0.5]})
    )
    with pytest.raises(EncoderError, match=r"\bmean of 1\b.*\bstd of 1\b"):
        load_encoder(folder, tiny.DEVICE_OPTIONS)


def test_what_cannot_be_an_encoder_is_refused_before_weights_are_read(tmp_path):
    check_encoders(list(PRESETS))
    with pytest.raises(EncoderError, match="siglip2-base-patch16-224"):
        check_encoders(["resnet"])
    with pytest.raises(EncoderError, match="cannot be loaded"):
        check_encoders([str(tmp_path)])
    config = tf.SegformerConfig(num_encoder_blocks=1, depths=[1], hidden_sizes=[8])
    config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"'segformer'.*siglip.*register_encoder"):
        check_encoders(["dinov2-base", str(tmp_path)])


# Families that users add.


class TalkativeAdapter(ToyAdapter):
    """Says what the untouched model returns, in the shape that is expected."""

    def dense(self, frames):
        return BaseModelOutput(last_hidden_state=self.model(frames))


class PoolingAdapter(TalkativeAdapter):
    """Pools though its model does not."""

    def pool(self, tokens, layout):
        return torch.stack([frame.amax(0) for frame in tokens.split(layout.frame_lengths)])


@pytest.fixture
def videos(tmp_path):
    return [str(make_video(tmp_path / f"{name}.mp4", 6)) for name in ("a", "b")]


def toy(adapter: type[EncoderAdapter]):
    register_encoder("toy-eyes", adapter, model_class=ToyModel)
    torch.manual_seed(0)
    return measured("toy", with_large_weights(ToyModel(ToyConfig())), tiny.DEVICE_OPTIONS)


def test_an_encoder_of_ones_own_is_timed_with_nothing_said_of_it(videos):
    encoder = toy(ToyAdapter)
    assert encoder.pyramid == PatchPyramid((16, 32, 64), 16)
    assert encoder.statistics == IMAGENET
    grid = (["run-length"], [10.0], [64])
    report = tiny.encode_report(encoder, videos[0], *grid, frames=4, repeats=1)
    (cell,) = report.encoders[0].cells
    # Projection 3 x 24; two blocks of 24 x 72 and 16 x 16 pairs of 24 numbers, twice.
    assert cell.dense.flops[Stage.EMBED] == 4 * 16 * 2 * 3 * 24
    assert cell.dense.flops[Stage.ENCODE] == 4 * 2 * (16 * 2 * 24 * 72 + 16 * 16 * 4 * 24)


@pytest.mark.parametrize("adapter", [TalkativeAdapter, PoolingAdapter])
def test_its_features_are_compared(adapter, videos):
    encoder = toy(adapter)
    report = bench_fidelity(encoder, videos, ["run-length"], [1.0])
    assert [row.selector for row in report.rows] == ["run-length", "random", "centre"]
    assert all(row.frame_cosine.mean > 0.5 for row in report.rows)


def test_both_sides_are_pooled_alike(videos):
    """Everything at the finest scale is the dense model, whoever pools."""
    for adapter in (TalkativeAdapter, PoolingAdapter):
        encoder = toy(adapter)
        clip = read_clips(videos, 64, per_video=1)[0]
        gaze = Gaze.everything(PatchPyramid((64,), 16), 1, clip.clips.num_frames)
        twin = gazed(encoder.gazed.model, attn_type="frame_independent")
        out = twin(encoder.normalised(clip.clips.frames), gaze)
        pooled = out.frame_means() if out.pooler_output is None else out.pooler_output
        dense = dense_features(encoder, clip)
        torch.testing.assert_close(pooled[0], dense, rtol=1e-5, atol=1e-5)


def test_an_output_that_says_nothing_is_refused_with_what_to_do(videos):
    with pytest.raises(EncoderError, match=r"ToyAdapter\.dense returned Tensor.*last_hidden_state"):
        bench_fidelity(toy(ToyAdapter), videos, ["run-length"], [1.0])
