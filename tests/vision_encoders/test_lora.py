"""Gazed models with adapters as LoRA adds them: by a stand-in for PEFT's layers, and by PEFT itself."""

import copy

import pytest
import torch
from torch import nn

import autogaze
from autogaze import Gaze
from autogaze.errors import EncoderError
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames, random_gaze

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)


class Doubling(nn.Module):
    """Wraps a layer as PEFT does: its own weight shows nothing of the adapter, which doubles its output."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters = []

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    @property
    def merged(self):
        return bool(self.merged_adapters)

    def get_base_layer(self):
        return self.base_layer

    def forward(self, *args, **options):
        out = self.base_layer(*args, **options)
        if self.merged:
            return out
        return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out

    @torch.no_grad()
    def merge(self):
        for parameter in (self.base_layer.weight, self.base_layer.bias):
            parameter.mul_(2)
        self.merged_adapters.append("default")


class Tuner(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)


class Peft(nn.Module):
    """Wraps a model as PEFT's `PeftModel` does."""

    def __init__(self, model):
        super().__init__()
        self.base_model = Tuner(model)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)

    def get_base_model(self):
        return self.base_model.model


def wrap(model, path):
    layer = model.get_submodule(path)
    model.set_submodule(path, Doubling(layer))
    return layer


@pytest.fixture(params=["equal frames", "frames of several lengths"])
def gaze(request):
    pyramid = FAMILIES["siglip"].pyramid(32, 64)
    if request.param == "equal frames":
        return Gaze.everything(pyramid, num_clips=2, num_frames=2)
    return random_gaze(pyramid, 2, 2)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("siglip", "embeddings.patch_embedding"),
        ("siglip2-naflex", "embeddings.patch_embedding"),
        ("dinov2", "embeddings.patch_embeddings.projection"),
        ("siglip", "head.attention.out_proj"),
        ("siglip2-naflex", "head.attention.out_proj"),
        ("siglip", "encoder.layers.1.mlp.fc1"),
    ],
)
def test_an_adapter_has_the_effect_of_its_merged_weights(name, path, gaze):
    model, merged = FAMILIES[name].model(), FAMILIES[name].model()
    if not any(path == known for known, _ in model.named_modules()):
        path = f"vision_model.{path}"  # transformers 4
    wrap(model, path)
    layer = merged.get_submodule(path)
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.mul_(2)
    frames = random_frames(2, 2)
    found, expected = autogaze.gazed(model)(frames, gaze), autogaze.gazed(merged)(frames, gaze)
    assert_close(found.last_hidden_state, expected.last_hidden_state)
    assert_close(found.pooler_output, expected.pooler_output)


def test_wrapped_attention_of_a_head_is_called(gaze):
    model, plain = FAMILIES["siglip"].model(), FAMILIES["siglip"].model()
    path = next(name for name, part in plain.named_modules() if name.endswith("head.attention"))
    wrap(model, path)
    with torch.no_grad():
        attention = plain.get_submodule(path)
        attention.out_proj.weight.mul_(2)
        attention.out_proj.bias.mul_(2)
    frames = random_frames(2, 2)
    found, expected = autogaze.gazed(model)(frames, gaze), autogaze.gazed(plain)(frames, gaze)
    assert_close(found.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("name", ["siglip", "siglip2-naflex", "clip"])
def test_an_adapter_past_which_positions_are_read_is_an_error(name, gaze):
    model = FAMILIES[name].model()
    path = next(n for n, _ in model.named_modules() if n.endswith("position_embedding"))
    wrap(model, path)
    for is_off in (False, True):  # which is kept for when it is on
        model.get_submodule(path).disable_adapters = is_off
        with pytest.raises(EncoderError, match="modules_to_save"):
            autogaze.gazed(model)(random_frames(2, 2), gaze)


def test_merging_adapters_of_the_original_does_not_apply_them_twice(gaze):
    model = FAMILIES["dinov2"].model()
    path = next(n for n, part in model.named_modules() if isinstance(part, nn.Linear))
    wrap(model, path)
    gazed, frames = autogaze.gazed(model), random_frames(2, 2)
    before = gazed(frames, gaze).last_hidden_state
    model.get_submodule(path).merge()
    assert_close(gazed(frames, gaze).last_hidden_state, before)


@pytest.mark.parametrize("name", ["siglip", "dinov2", "dinov3", "clip", "vit"])
def test_a_model_wrapped_as_by_peft(name, gaze):
    frames = random_frames(2, 2)
    found = autogaze.gazed(Peft(FAMILIES[name].model()))(frames, gaze)
    expected = autogaze.gazed(FAMILIES[name].model())(frames, gaze)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["siglip", "dinov2", "clip"])
def test_checkpointed_blocks_of_frozen_embeddings_have_gradients(name, reentrant, gaze):
    model = FAMILIES[name].model()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_("layer" in parameter_name and "mlp.fc1" in parameter_name)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    gazed = autogaze.gazed(model).train()
    gazed(random_frames(2, 2), gaze).last_hidden_state.square().sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert trained
    assert all(weight.grad is not None for weight in trained)


@pytest.mark.parametrize(("reentrant", "first_runs"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("name", ["siglip", "dinov2", "clip"])
def test_frozen_blocks_run_again_only_where_reentrant_checkpoints_need_it(
    name, reentrant, first_runs, gaze
):
    model, runs = FAMILIES[name].model().requires_grad_(False), []
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    gazed = autogaze.gazed(model).train()
    layers = gazed._adapter.layers
    layers[-1].requires_grad_(True)
    norm = next(each for each in layers[0].modules() if isinstance(each, nn.LayerNorm))
    norm.register_forward_hook(lambda *_: runs.append(1))
    gazed(random_frames(2, 2), gaze).last_hidden_state.square().sum().backward()
    assert len(runs) == first_runs
    assert all(weight.grad is not None for weight in layers[-1].parameters())


def test_weights_that_are_not_in_memory_are_an_error(gaze):
    gazed = autogaze.gazed(FAMILIES["dinov2"].model().to("meta"))
    with pytest.raises(EncoderError, match="not in memory"):
        gazed(random_frames(2, 2), gaze)


@pytest.mark.parametrize("name", ["siglip", "siglip2-naflex", "dinov2", "dinov3", "clip", "vit"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_lora_of_peft(name, when, gaze, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the package peft")
    model, frames = FAMILIES[name].model(), random_frames(2, 2)
    with torch.no_grad():
        plain = autogaze.gazed(FAMILIES[name].model())(frames, gaze).last_hidden_state
    config = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    if when == "before":
        adapted = peft.get_peft_model(model, config)
        gazed = autogaze.gazed(adapted)
    else:
        gazed = adapted = peft.get_peft_model(autogaze.gazed(model), config)
    found = gazed(frames, gaze).last_hidden_state
    found.square().sum().backward()
    head = ("head", "pooler")  # whose features are not used here
    with_gradient = {n for n, weight in gazed.named_parameters() if weight.grad is not None}
    trained = {n for n, weight in gazed.named_parameters() if weight.requires_grad}
    assert with_gradient == {n for n in trained if not any(part in n for part in head)}
    with torch.no_grad():
        with (gazed.model if when == "before" else gazed).disable_adapter():
            assert_close(gazed(frames, gaze).last_hidden_state, plain)
        adapted.save_pretrained(tmp_path)
        base = FAMILIES[name].model()
        loaded = peft.PeftModel.from_pretrained(
            base if when == "before" else autogaze.gazed(base), tmp_path
        )
        again = autogaze.gazed(loaded) if when == "before" else loaded
        assert_close(again(frames, gaze).last_hidden_state, found)
        merged = copy.deepcopy(adapted).merge_and_unload()
        merged = autogaze.gazed(merged) if when == "before" else merged
        assert_close(merged(frames, gaze).last_hidden_state, found)
