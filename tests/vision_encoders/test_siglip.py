"""The classes that AutoGaze's users import, and equality with what they computed before."""

import importlib.util

import pytest
import torch

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.errors import EncoderError, GeometryError
from autogaze.vision_encoders.encode import GazedOutput
from autogaze.vision_encoders.siglip import SiglipVisionConfig, SiglipVisionModel
from tests.vision_encoders.families import (
    FAMILIES,
    SMALL,
    assert_close,
    random_frames,
    random_gaze,
    with_large_weights,
)
from tests.vision_encoders.test_gazed import siglip_of_two

PYRAMID = PatchPyramid((32, 64), 16)


def tiny(**options) -> SiglipVisionModel:
    torch.manual_seed(0)
    config = {"image_size": 64, "patch_size": 16, "scales": "32+64", **SMALL, **options}
    model = SiglipVisionModel(SiglipVisionConfig(**config)).eval()
    return with_large_weights(model)


@pytest.fixture
def inputs():
    return random_frames(2, 3), random_gaze(PYRAMID, 2, 3)


def published(model) -> dict[str, torch.Tensor]:
    """The model's weights under published names, copied."""
    names = {name: name.removeprefix("vision_model.") for name in model.state_dict()}
    return {f"vision_model.{names[key]}": value + 0 for key, value in model.state_dict().items()}


def test_published_names_load(inputs):
    weights = published(tiny())
    model = SiglipVisionModel(tiny().config).eval()
    result = model.load_state_dict(weights)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert all(name.startswith("vision_model.") for name in weights)  # the caller's dict stays
    with torch.no_grad():
        expected = tiny()(inputs[0], gazing_info=inputs[1]).last_hidden_state
        assert model(inputs[0], gazing_info=inputs[1]).last_hidden_state.equal(expected)
    model.load_state_dict(model.state_dict())  # and its own names still do


def test_wrong_names_do_not_load():
    weights = published(tiny())
    weights["vision_model.head.prob"] = weights.pop("vision_model.head.probe")
    with pytest.raises(RuntimeError, match=r"head\.probe"):
        tiny().load_state_dict(weights)


@pytest.mark.parametrize("frame_independent", [False, True])
def test_plain_checkpoints_load_with_scales(frame_independent, inputs, tmp_path):
    plain = FAMILIES["siglip"].model()
    plain.save_pretrained(tmp_path)
    model = SiglipVisionModel.from_pretrained(
        tmp_path, scales="32+64", frame_independent_encoding=frame_independent
    ).eval()
    kind = "frame_independent" if frame_independent else "block_causal"
    with torch.no_grad():
        expected = gazed(plain, attn_type=kind)(*inputs)
        out = model(inputs[0], gazing_info=inputs[1])
    assert out.last_hidden_state.equal(expected.last_hidden_state)
    assert out.pooler_output.equal(expected.pooler_output)


def test_image_text_checkpoints_load_with_scales(inputs, tmp_path):
    """The published SigLIP2 checkpoints are of this kind."""
    torch.manual_seed(0)
    both = with_large_weights(siglip_of_two().eval())
    both.save_pretrained(tmp_path)
    model = SiglipVisionModel.from_pretrained(tmp_path, scales="32+64").eval()
    assert model.config.pyramid == PYRAMID
    with torch.no_grad():
        expected = gazed(both)(*inputs).last_hidden_state
        assert model(inputs[0], gazing_info=inputs[1]).last_hidden_state.equal(expected)


def test_a_checkpoint_folder_comes_back_with_its_scales(inputs, tmp_path):
    model = tiny(frame_independent_encoding=True, max_embed_batch_size=2)
    model.save_pretrained(tmp_path)
    again = SiglipVisionModel.from_pretrained(tmp_path).eval()
    assert again.config.scales == "32+64"
    assert again.config.frame_independent_encoding is True
    assert again.config.max_embed_batch_size == 2
    assert again.config.attn_type == "block_causal"
    with torch.no_grad():
        expected = model(inputs[0], gazing_info=inputs[1]).last_hidden_state
        assert again(inputs[0], gazing_info=inputs[1]).last_hidden_state.equal(expected)


@pytest.mark.parametrize("implementation", ["flash_attention_2", "sdpa", "eager"])
def test_every_attention_implementation_is_accepted(implementation, inputs, tmp_path):
    if implementation == "flash_attention_2":
        assert importlib.util.find_spec("flash_attn") is None
    model = tiny()
    model.save_pretrained(tmp_path)
    again = SiglipVisionModel.from_pretrained(tmp_path, attn_implementation=implementation).eval()
    with torch.no_grad():
        expected = model(inputs[0], gazing_info=inputs[1]).last_hidden_state
        assert again(inputs[0], gazing_info=inputs[1]).last_hidden_state.equal(expected)


def test_flash_attention_in_the_configuration_is_accepted(inputs):
    config = tiny().config
    config._attn_implementation = "flash_attention_2"
    model = SiglipVisionModel(config).eval()
    with torch.no_grad():
        assert model(inputs[0], gazing_info=inputs[1]).last_hidden_state.isfinite().all()


def test_without_a_gaze_it_is_the_untouched_model(inputs):
    model, plain = tiny(), FAMILIES["siglip"].model()
    (getattr(plain, "vision_model", plain)).load_state_dict(
        {name.removeprefix("vision_model."): value for name, value in published(model).items()}
    )
    images, larger = inputs[0][0], random_frames(1, 2, 96)[0]
    with torch.no_grad():
        expected = plain(images, output_hidden_states=True)
        out = model(images, output_hidden_states=True)
        assert type(out) is type(expected)
        assert_close(out.last_hidden_state, expected.last_hidden_state, 1e-6)
        assert_close(out.pooler_output, expected.pooler_output, 1e-6)
        assert len(out.hidden_states) == len(expected.hidden_states) == 3
        for mine, theirs in zip(out.hidden_states, expected.hidden_states, strict=True):
            assert_close(mine, theirs, 1e-6)
        one, two = (m(larger, interpolate_pos_encoding=True) for m in (model, plain))
        assert_close(one.last_hidden_state, two.last_hidden_state, 1e-6)
        assert model(images).hidden_states is None
        values = model(images, return_dict=False)
        assert isinstance(values, tuple)
        assert values[0].equal(out.last_hidden_state)


def test_gazes_and_padded_dicts_give_the_same(inputs):
    frames, gaze = inputs
    model = tiny()
    padded = gaze.padded()
    real = ~padded["if_padded_gazing"]
    with torch.no_grad():
        one = model(frames, gazing_info=gaze, output_hidden_states=True)
        two = model(frames, gazing_info=padded, output_hidden_states=True)
    assert isinstance(one, GazedOutput)
    assert two.last_hidden_state.shape == (*real.shape, 48)
    assert two.last_hidden_state[real].equal(one.last_hidden_state)
    assert two.last_hidden_state[~real].abs().max() == 0
    assert two.frame_pooler_output.equal(one.pooler_output)
    assert one.pooler_output.shape == (2, 3, 48)
    assert two.pooler_output.shape == (2, 48)
    for mine, theirs in zip(two.hidden_states, one.hidden_states, strict=True):
        assert mine[real].equal(theirs)


def test_padding_in_the_middle_of_a_frame():
    """Padding may stand anywhere, with any id in it; features stay at their slots."""
    frames = random_frames(2, 2)
    ids = torch.tensor([[3, 99, 7, 24, 99, 99], [99, 5, 99, 99, 30, 21]])
    padded = {
        "gazing_pos": ids,
        "if_padded_gazing": ids == 99,
        "num_gazing_each_frame": torch.tensor([3, 3]),
    }
    flat = Gaze(PYRAMID, torch.tensor([3, 7, 4, 5, 10, 1]), torch.tensor([[2, 1], [1, 2]]))
    model = tiny()
    with torch.no_grad():
        out = model(frames, gazing_info=padded)
        expected = model(frames, gazing_info=flat)
    assert out.last_hidden_state[ids != 99].equal(expected.last_hidden_state)
    assert out.frame_pooler_output.equal(expected.pooler_output)


def test_tuples(inputs):
    frames, gaze = inputs
    model = tiny()
    with torch.no_grad():
        for gazing_info in (gaze, gaze.padded()):
            out = model(frames, gazing_info=gazing_info, output_hidden_states=True)
            values = model(
                frames, gazing_info=gazing_info, output_hidden_states=True, return_dict=False
            )
            assert isinstance(values, tuple)
            assert values[0].equal(out.last_hidden_state)
            assert values[1].equal(out.pooler_output)
            assert gazing_info is gaze or len(values) == 3
            assert len(values[2]) == 3


def test_hidden_states_can_be_asked_for_in_the_configuration(inputs):
    frames, gaze = inputs
    with torch.no_grad():
        out = tiny(output_hidden_states=True)(frames, gazing_info=gaze)
        assert len(out.hidden_states) == 3
        assert tiny()(frames, gazing_info=gaze).hidden_states is None
        off = tiny(output_hidden_states=True)(frames, gazing_info=gaze, output_hidden_states=False)
        assert off.hidden_states is None


@pytest.mark.parametrize("attn_type", ["block_causal", "causal", "bidirectional"])
def test_attention_types_are_those_of_the_core(attn_type, inputs):
    frames, gaze = inputs
    model = tiny(attn_type=attn_type)
    plain = FAMILIES["siglip"].model()
    with torch.no_grad():
        expected = gazed(plain, attn_type=attn_type)(frames, gaze).last_hidden_state
        assert_close(model(frames, gazing_info=gaze).last_hidden_state, expected, 1e-6)
        alone = tiny(attn_type=attn_type, frame_independent_encoding=True)
        expected = gazed(plain, attn_type="frame_independent")(frames, gaze).last_hidden_state
        assert_close(alone(frames, gazing_info=gaze).last_hidden_state, expected, 1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_embedding_some_frames_at_a_time_changes_nothing(batch, inputs):
    frames, gaze = inputs
    with torch.no_grad():
        expected = tiny()(frames, gazing_info=gaze).last_hidden_state
        out = tiny(max_embed_batch_size=batch)(frames, gazing_info=gaze)
    assert out.last_hidden_state.equal(expected)


def test_one_scale_is_the_image_size():
    assert SiglipVisionConfig(image_size=224, patch_size=16).pyramid == PatchPyramid((224,), 16)
    assert SiglipVisionConfig(scales=64, patch_size=16).pyramid == PatchPyramid((64,), 16)


def test_the_configuration_survives_its_dict():
    config = SiglipVisionConfig(scales="32+64", attn_type="causal", max_embed_batch_size=3)
    again = SiglipVisionConfig.from_dict(config.to_dict())
    for key in ("scales", "attn_type", "frame_independent_encoding", "max_embed_batch_size"):
        assert getattr(again, key) == getattr(config, key)


def test_it_trains(inputs):
    frames, gaze = inputs
    model = tiny().train()
    out = model(frames, gazing_info=gaze.padded())
    out.last_hidden_state.square().mean().backward()
    used = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("patch_embedding" in name for name in used)
    assert any("position_embedding" in name for name in used)


def test_bad_input_is_refused_with_both_numbers(inputs):
    frames, gaze = inputs
    model = tiny()
    with pytest.raises(EncoderError, match=r"\b2 clips of 2 frames.*\bgaze 2 of 3\b"):
        model(frames[:, :2], gazing_info=gaze)
    with pytest.raises(EncoderError, match=r"32\+48 / 16.*32\+64 / 16"):
        model(random_frames(2, 3, 48), gazing_info=random_gaze(PatchPyramid((32, 48), 16), 2, 3))
    padded = gaze.padded() | {"gazing_pos": gaze.padded()["gazing_pos"] + 60}
    with pytest.raises(GeometryError, match=r"\[0, 20\)"):
        model(frames, gazing_info=padded)
    with pytest.raises(EncoderError, match=r"'diagonal'.*block_causal"):
        SiglipVisionConfig(attn_type="diagonal")
    with pytest.raises(EncoderError, match=r"output_attentions"):
        model(frames, gazing_info=gaze, output_attentions=True)


@pytest.mark.parametrize("mask", [torch.ones(2, 3), torch.zeros(2, 3), [1, 1], 0])
def test_options_that_it_does_not_know_are_named_whatever_they_are(inputs, mask):
    frames, gaze = inputs
    with pytest.raises(EncoderError, match="attention_mask"):
        tiny()(frames, gazing_info=gaze, attention_mask=mask)
    tiny()(frames, gazing_info=gaze, attention_mask=None, use_cache=False)


def test_frames_of_a_gaze_come_in_any_form(inputs):
    frames, gaze = inputs
    with torch.no_grad():
        expected = tiny()(frames, gazing_info=gaze).last_hidden_state
        for form in (frames.numpy(), [list(clip) for clip in frames]):
            assert tiny()(form, gazing_info=gaze).last_hidden_state.equal(expected)
            with pytest.raises(EncoderError, match="pixel_values must be a dense tensor"):
                tiny()(form, gazing_info=gaze.padded())


def test_a_number_of_frames_may_be_a_whole_float(inputs):
    frames, gaze = inputs
    model = tiny()
    with torch.no_grad():
        expected = model(frames, gazing_info=gaze).last_hidden_state
        model.config.max_embed_batch_size = 2.0
        found = model(frames, gazing_info=gaze).last_hidden_state
    assert_close(found, expected, 1e-5)


def test_slips_are_told_apart(inputs):
    frames, _ = inputs
    with pytest.raises(EncoderError, match=r"images \(B, 3, H, W\).*\(2, 3, 3, 64, 64\)"):
        tiny()(frames)
    for frames_at_once in (0, -1):
        with pytest.raises(EncoderError, match=rf"{frames_at_once}\b"):
            SiglipVisionConfig(max_embed_batch_size=frames_at_once)
    # As many patches, but other ones: the counts alone would not tell.
    other = Gaze.everything(PatchPyramid((32, 70), 16, crop=True), 2, 3).padded()
    with pytest.raises(EncoderError, match=r"32\+70 / 16.*32\+64 / 16"):
        tiny()(frames, gazing_info=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_type": "sparse"}, "sparse"),
        ({"max_embed_batch_size": 0}, "at least 1 frame, got 0"),
        ({"max_embed_batch_size": "x"}, "at least 1 frame, got 'x'"),
        ({"max_embed_batch_size": 1.5}, "at least 1 frame, got 1.5"),
        ({"frame_independent_encoding": "no"}, "frame_independent_encoding.*'no'"),
    ],
)
def test_options_of_from_pretrained_are_checked(changes, message, tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=message):
        SiglipVisionModel.from_pretrained(tmp_path, **changes)


def test_a_configuration_changed_later_is_checked(inputs):
    frames, gaze = inputs
    model = tiny()
    model.config.attn_type = "typo"
    with pytest.raises(EncoderError, match="typo"):
        model(frames, gazing_info=gaze)
