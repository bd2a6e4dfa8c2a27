"""What is special to families that take frames one by one."""

import functools

import pytest
import torch
import transformers

import autogaze
from autogaze.errors import MLLMError
from autogaze.mllm import KeptUnits, UnitGrid, VisualInput, frame_tower
from autogaze.mllm.registry import adapter_of
from tests.mllm.tiny_frames import FRAME_FAMILIES, internvl, llava_onevision
from tests.mllm.tiny_models import Video

IS_4 = transformers.__version__.startswith("4.")


@functools.cache
def model_of(name):
    return FRAME_FAMILIES[name].build()


@pytest.fixture(params=FRAME_FAMILIES)
def name(request):
    return request.param


def some(grid, share=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(grid.tubelets, grid.num_units, generator=generator) < share
    mask[:, 0] = True
    return KeptUnits.from_mask(grid, mask)


def assert_like_untouched(model, inputs):
    real = inputs["attention_mask"].bool()
    count = len(adapter_of(model).dense(inputs)["video"])
    with torch.no_grad():
        found = autogaze.gazed_mllm(model)(**inputs, kept=[None] * count).logits
        expected = model(**inputs).logits
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layers", [-2, 1, [-1, -3]], ids=str)
def test_llava_takes_the_layers_that_its_configuration_names(layers):
    family = FRAME_FAMILIES["llava_onevision"]
    model = llava_onevision(vision_feature_layer=layers)
    assert_like_untouched(model, family.rows([[3, family.video, 4, family.image]]))


@pytest.mark.skipif(IS_4, reason="the model itself fails there: its tower returns no layers")
def test_internvl_takes_the_layer_that_its_configuration_names():
    family = FRAME_FAMILIES["internvl"]
    model = internvl(vision_feature_layer=-2)
    assert_like_untouched(model, family.rows([[3, family.video, 4]]))


def test_frames_in_batches_are_as_all_at_once(name, monkeypatch):
    family, model = FRAME_FAMILIES[name], model_of(name)
    gazed = autogaze.gazed_mllm(model)
    inputs = family.rows([[3, Video(3, family.video.rows, family.video.columns), 4]])
    kept = [some(video.grid) for video in adapter_of(model).dense(inputs)["video"]]
    prompt = gazed.compact(**inputs, kept=kept)
    with torch.no_grad():
        together = adapter_of(gazed).encode_all(prompt.visuals).embeds
        monkeypatch.setattr(frame_tower, "MAX_TOKENS", 1)
        apart = adapter_of(gazed).encode_all(prompt.visuals).embeds
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_coarser_grids_are_frames_of_their_own(name):
    """With several grids every one is encoded as the frames of that size alone would be."""
    family, adapter = FRAME_FAMILIES[name], adapter_of(model_of(name))
    dense = (family.video.rows, family.video.columns)
    grid = UnitGrid(2, ((2, 2), dense))
    kept = some(grid)
    patches = adapter.patches(kept)
    side = adapter.encoder.patch_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(len(patches.index), 3, side, side, generator=generator)
    whole = adapter.encode(VisualInput("video", kept, pixels)).embeds
    of_dense = kept.places[:, 0] == 1
    mask = torch.zeros(2, dense[0] * dense[1], dtype=torch.bool)
    mask[kept.tubelet[of_dense], kept.ids[of_dense] - 4] = True
    alone = KeptUnits.from_mask(UnitGrid(2, (dense,)), mask)
    first = adapter.patch_sides(grid)[0] ** 2
    mine = pixels[patches.index >= first]
    expected = adapter.encode(VisualInput("video", alone, mine)).embeds
    found = whole[: len(of_dense)][of_dense]
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-5, rtol=1e-4)


class TestRefusals:
    def test_a_part_of_an_image_of_llava(self):
        family, model = FRAME_FAMILIES["llava_onevision"], model_of("llava_onevision")
        inputs = family.rows([[3, family.image]])
        part = KeptUnits.from_lists(UnitGrid(1, ((1, 85),)), [[0, 5]])
        with pytest.raises(MLLMError, match=r"whole.*2 of 85"):
            autogaze.gazed_mllm(model)(**inputs, kept_images=[part])

    def test_frames_of_llava_of_another_size(self):
        family, model = FRAME_FAMILIES["llava_onevision"], model_of("llava_onevision")
        inputs = family.rows([[3, family.video]])
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"][..., :12, :12]
        with pytest.raises(MLLMError, match=r"5 x 5.*3 x 3"):
            autogaze.gazed_mllm(model)(**inputs, kept=[None])

    def test_frames_that_are_no_squares(self, name):
        family, model = FRAME_FAMILIES[name], model_of(name)
        inputs = family.rows([[3, family.video]])
        key = "pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"
        inputs[key] = inputs[key][..., :-4]
        with pytest.raises(MLLMError, match=f"{key}.*square"):
            autogaze.gazed_mllm(model)(**inputs, kept=[None])

    def test_frames_of_smolvlm_that_are_padded_in_part(self):
        family, model = FRAME_FAMILIES["smolvlm"], model_of("smolvlm")
        inputs = family.rows([[3, family.video]])
        mask = torch.ones((*inputs["pixel_values"].shape[:2], 32, 32))
        autogaze.gazed_mllm(model)(**inputs, pixel_attention_mask=mask, kept=[None])
        mask[0, 1, :, 20:] = 0
        with pytest.raises(MLLMError, match="padded in part"):
            autogaze.gazed_mllm(model)(**inputs, pixel_attention_mask=mask, kept=[None])

    def test_frames_without_placeholders(self):
        family, model = FRAME_FAMILIES["internvl"], model_of("internvl")
        inputs = family.rows([[3, family.video]])
        inputs["pixel_values"] = inputs["pixel_values"][:2]
        with pytest.raises(MLLMError, match=r"\[48\].*2 frames"):
            autogaze.gazed_mllm(model)(**inputs, kept=[None])

    def test_pixels_of_other_units(self, name):
        adapter, video = adapter_of(model_of(name)), FRAME_FAMILIES[name].video
        kept = some(UnitGrid(2, ((video.rows, video.columns),)))
        with pytest.raises(MLLMError, match="got 1"):
            adapter.encode(VisualInput("video", kept, torch.zeros(1, 3, 4, 4)))
