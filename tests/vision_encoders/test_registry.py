"""Families that users add."""

import inspect

import pytest
import torch
import transformers as tf

from autogaze import (
    Gaze,
    GazedVisionModel,
    PatchPyramid,
    gazed,
    list_encoders,
    register_encoder,
)
from autogaze.errors import EncoderError
from autogaze.vision_encoders import registry
from tests.vision_encoders.families import (
    FAMILIES,
    assert_close,
    random_frames,
    with_large_weights,
)
from tests.vision_encoders.toy import ToyAdapter, ToyBlock, ToyConfig, ToyModel

pytestmark = pytest.mark.usefixtures("own_encoder_registry")


def test_the_families_there_are():
    known = list_encoders()
    assert set(known) == {
        "siglip",
        "siglip_vision_model",
        "siglip2",
        "siglip2_vision_model",
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "clip",
        "clip_vision_model",
        "vit",
        "smolvlm_vision",
        "internvl_vision",
    }
    assert known["siglip2"] == "SigLIP2 NaFlex"


def test_every_family_that_is_listed_is_tested():
    """Composite models (siglip, siglip2, clip) have their vision part's adapter."""
    tested = {family.model().config.model_type for family in FAMILIES.values()}
    assert tested == set(list_encoders()) - {"siglip", "siglip2", "clip"}


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return with_large_weights(ToyModel(ToyConfig()).eval())


def test_a_family_of_ones_own(toy):
    with pytest.raises(EncoderError, match=r"'toy-eyes'.*register_encoder"):
        gazed(toy)
    register_encoder("toy-eyes", ToyAdapter)
    assert list_encoders()["toy-eyes"] == "ToyAdapter"
    frames = random_frames(2, 1)
    gaze = Gaze.everything(PatchPyramid((64,), 16), 2, 1)
    with torch.no_grad():
        out = gazed(toy)(frames, gaze)
        assert_close(out.last_hidden_state.unflatten(0, (2, -1)), toy(frames[:, 0]))
    assert out.pooler_output is None
    assert out.prefix_hidden_state is None


def test_a_family_of_ones_own_from_a_folder(toy, tmp_path):
    tf.AutoConfig.register("toy-eyes", ToyConfig)
    register_encoder("toy-eyes", ToyAdapter, model_class=ToyModel)
    gazed(toy, attn_type="bidirectional").save_pretrained(tmp_path)
    encoder = GazedVisionModel.from_pretrained(tmp_path).eval()
    assert encoder.settings.attn_type == "bidirectional"
    frames, gaze = random_frames(1, 2), Gaze.everything(PatchPyramid((32, 64), 16), 1, 2)
    with torch.no_grad():
        expected = gazed(toy, attn_type="bidirectional")(frames, gaze).last_hidden_state
        assert encoder(frames, gaze).last_hidden_state.equal(expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", 3), "subclass of .*EncoderAdapter.*, got 3"),
        (("x", tf.ViTModel), "subclass of .*EncoderAdapter.*, got .*ViTModel"),
        (("x", ToyAdapter, ToyBlock), "transformers class.*got .*ToyBlock"),
    ],
)
def test_what_is_no_adapter_is_refused(words, message):
    unchecked = inspect.unwrap(register_encoder)  # as users have it, without checks of types
    with pytest.raises(EncoderError, match=message):
        unchecked(*words)
    assert "x" not in list_encoders()


def test_a_known_family_can_be_replaced():
    class Other(registry.adapter_class(tf.ViTConfig())):
        def pool(self, tokens, layout):
            return None

    register_encoder("vit", Other)
    frames, gaze = random_frames(1, 1), Gaze.everything(PatchPyramid((64,), 16), 1, 1)
    with torch.no_grad():
        assert gazed(FAMILIES["vit"].model())(frames, gaze).pooler_output is None
