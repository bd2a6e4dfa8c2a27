"""Families that users add."""

import pytest
import torch
import transformers as tf
from torch import nn

from autogaze import (
    Gaze,
    GazedVisionModel,
    PatchPyramid,
    gazed,
    list_encoders,
    register_encoder,
)
from autogaze.errors import EncoderError
from autogaze.vision_encoders import EncoderAdapter, registry
from tests.vision_encoders.families import (
    FAMILIES,
    assert_close,
    random_frames,
    with_large_weights,
)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})


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
    }
    assert known["siglip2"] == "SigLIP2 NaFlex"


def test_every_family_that_is_listed_is_tested():
    """Composite models (siglip, siglip2, clip) have their vision part's adapter."""
    tested = {family.model().config.model_type for family in FAMILIES.values()}
    assert tested == set(list_encoders()) - {"siglip", "siglip2", "clip"}


# A family that nobody knows: tokens of mean colours, learned positions for any grid, and
# blocks that take their mask as `seen`. What a user writes is this, in one file.


class ToyConfig(tf.PreTrainedConfig if hasattr(tf, "PreTrainedConfig") else tf.PretrainedConfig):
    model_type = "toy-eyes"

    def __init__(self, width=24, patch_size=16, image_size=64, **options):
        super().__init__(**options)
        self.width, self.patch_size, self.image_size = width, patch_size, image_size


class ToyBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.width, 3 * config.width)

    def forward(self, tokens, seen=None):
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        q, k, v = (x.unflatten(-1, (4, -1)).transpose(1, 2) for x in self.qkv(tokens).chunk(3, -1))
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        return tokens + attend(self, q, k, v, seen, scaling=0.5, is_causal=False)[0].flatten(2)


class ToyModel(tf.PreTrainedModel):
    config_class = ToyConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.colours = nn.Linear(3, config.width)
        self.place = nn.Linear(2, config.width)
        self.blocks = nn.ModuleList([ToyBlock(config), ToyBlock(config)])
        self.post_init()

    def _init_weights(self, module):
        pass

    def places(self, grid):
        steps = (torch.arange(grid) + 0.5) / grid
        return self.place(torch.cartesian_prod(steps, steps))

    def forward(self, pixel_values):
        cells = nn.functional.avg_pool2d(pixel_values, self.config.patch_size)
        tokens = self.colours(cells.flatten(2).transpose(1, 2)) + self.places(cells.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class ToyAdapter(EncoderAdapter):
    @property
    def projection(self):
        return self.model.colours

    @property
    def layers(self):
        return self.model.blocks

    def project(self, patches):
        return self.model.colours(patches.mean((2, 3)))

    def positions(self, grid):
        return self.model.places(grid)

    def leave(self, tokens):
        return tokens

    def pool(self, tokens, layout):
        return None


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


def test_a_known_family_can_be_replaced():
    class Other(registry.adapter_class(tf.ViTConfig())):
        def pool(self, tokens, layout):
            return None

    register_encoder("vit", Other)
    frames, gaze = random_frames(1, 1), Gaze.everything(PatchPyramid((64,), 16), 1, 1)
    with torch.no_grad():
        assert gazed(FAMILIES["vit"].model())(frames, gaze).pooler_output is None
