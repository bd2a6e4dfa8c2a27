"""Gazed models beside the untouched ones: parameters, dtypes, files, training."""

import copy
import json

import pytest
import torch
import transformers as tf
from torch.nn.utils import parametrizations, parametrize, prune

import autogaze
from autogaze import Gaze, GazedVisionModel, PatchPyramid, gazed
from autogaze.errors import AutoGazeError, EncoderError
from autogaze.vision_encoders import encode
from tests.vision_encoders.families import (
    FAMILIES,
    SMALL,
    assert_close,
    random_frames,
    random_gaze,
    with_large_weights,
)

PYRAMID = PatchPyramid((32, 64), 16)
FAMILY_NAMES = ["siglip", "siglip2-naflex", "dinov2-registers", "dinov3", "clip", "vit"]
every_family = pytest.mark.parametrize("name", FAMILY_NAMES)


@pytest.fixture
def inputs():
    return random_frames(2, 2), random_gaze(PYRAMID, 2, 2)


@every_family
def test_the_model_stays_as_it_is(name, inputs):
    family = FAMILIES[name]
    model = family.model()
    images = inputs[0].flatten(0, 1)
    with torch.no_grad():
        before = family.dense(model, images)
        encoder = gazed(model)
        encoder(*inputs)
        after = family.dense(model, images)
    assert model.config._attn_implementation == "sdpa"
    assert encoder.config._attn_implementation == "autogaze"
    assert not any(hasattr(module, "_adapter") for module in model.modules())
    assert after.last_hidden_state.equal(before.last_hidden_state)


@every_family
def test_the_gazed_model_still_sees_whole_images(name, inputs):
    """Its inner model is transformers' own, by SDPA where it gets no gaze."""
    family = FAMILIES[name]
    model = family.model()
    images = inputs[0].flatten(0, 1)
    with torch.no_grad():
        expected = family.dense(model, images).last_hidden_state
        found = family.dense(gazed(model).model, images).last_hidden_state
    assert_close(found, expected, 1e-6)


@every_family
def test_parameters_are_shared_under_their_names(name):
    model = FAMILIES[name].model()
    encoder = gazed(model)
    mine = dict(encoder.model.named_parameters())
    theirs = dict(model.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(mine[key] is theirs[key] for key in theirs)
    assert encoder.model.state_dict().keys() == model.state_dict().keys()


def test_training_one_trains_the_other(inputs):
    model = FAMILIES["clip"].model().train()
    encoder = gazed(model)
    images = inputs[0].flatten(0, 1)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with torch.no_grad():
        before = model(images).pooler_output
    loss = encoder(*inputs).pooler_output.square().mean()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        assert (model(images).pooler_output - before).abs().max() > 1e-3
        assert encoder(*inputs).pooler_output.square().mean() < loss


@every_family
@pytest.mark.parametrize("attn_type", ["block_causal", "frame_independent"])
def test_checkpointing_changes_no_gradient(name, attn_type, inputs):
    def gradients(checkpointing):
        model = FAMILIES[name].model().train()
        if checkpointing:
            # Renamed in transformers 5.
            new = getattr(model, "activation_checkpointing_enable", None)
            (new or model.gradient_checkpointing_enable)({"use_reentrant": False})
        encoder = gazed(model, attn_type=attn_type)
        passes = []
        for layer in encoder._adapter.layers:
            next(layer.children()).register_forward_hook(lambda *_: passes.append(1))
        torch.manual_seed(0)  # DINOv3 shakes its positions in training
        out = encoder(*inputs)
        (out.pooler_output.square().mean() + out.last_hidden_state.square().mean()).backward()
        found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        return found, len(passes)

    plain, passes = gradients(False)
    found, passes_again = gradients(True)
    assert (passes, passes_again) == (2, 4)  # every layer ran twice
    assert found.keys() == plain.keys()
    scale = max(gradient.abs().max() for gradient in plain.values())
    assert scale > 1e-3
    for key, gradient in plain.items():
        assert_close(found[key] / scale, gradient / scale, 1e-6)


def test_hooks_on_the_model_come_along(inputs):
    model = FAMILIES["vit"].model()
    seen = []
    model.layernorm.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        gazed(model)(*inputs)
    assert seen == [1]


def test_every_parameter_that_is_used_gets_a_gradient(inputs):
    model = FAMILIES["siglip"].model().train()
    gazed(model)(*inputs).pooler_output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attn_type", ["block_causal", "frame_independent"])
def test_half_precision_stays_close(name, dtype, attn_type, inputs):
    model = FAMILIES[name].model()
    with torch.no_grad():
        expected = gazed(model, attn_type=attn_type)(*inputs)
        half = gazed(copy.deepcopy(model), attn_type=attn_type).to(dtype)
        assert half.dtype == dtype
        out = half(*inputs, output_hidden_states=True)  # frames of float32 are cast
        again = half(inputs[0].to(dtype), inputs[1])
    tensors = [out.last_hidden_state, out.pooler_output, *out.hidden_states]
    assert {tensor.dtype for tensor in tensors} == {dtype}
    error = (out.last_hidden_state.float() - expected.last_hidden_state).abs()
    size = expected.last_hidden_state.abs().mean()
    assert error.mean() < (0.05 if dtype == torch.bfloat16 else 0.01) * size
    error = (again.last_hidden_state.float() - expected.last_hidden_state).abs()
    assert error.mean() < (0.05 if dtype == torch.bfloat16 else 0.01) * size


def test_casting_casts_both_since_they_are_one(inputs):
    model = FAMILIES["siglip"].model()
    encoder = gazed(model).to(torch.bfloat16)
    assert model.dtype == encoder.dtype == torch.bfloat16
    key, parameter = next(iter(encoder.model.named_parameters()))
    assert parameter is dict(model.named_parameters())[key]
    with torch.no_grad():
        assert model(inputs[0][:, 0].bfloat16()).last_hidden_state.dtype == torch.bfloat16


def test_device_and_precision_are_those_asked_for(inputs, tmp_path):
    model = FAMILIES["clip"].model()
    with torch.no_grad():
        expected = gazed(model)(*inputs).pooler_output
    for dtype in ("bfloat16", torch.bfloat16):
        encoder = gazed(FAMILIES["clip"].model(), device="cpu", dtype=dtype)
        assert (encoder.device, encoder.dtype) == (torch.device("cpu"), torch.bfloat16)
    assert gazed(model).dtype == gazed(model, device="auto").dtype == torch.float32
    assert gazed(FAMILIES["clip"].model().double(), device="cpu").dtype == torch.float64
    shared = gazed(model, dtype="bfloat16")
    assert model.dtype == torch.bfloat16  # they share their parameters
    with torch.no_grad():
        found = shared(*inputs).pooler_output.float()
    assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.98
    model.float().save_pretrained(tmp_path)
    loaded = GazedVisionModel.from_pretrained(tmp_path, device="cpu", dtype="bfloat16")
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "tpu"}, "tpu"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"dtype": "float8"}, "float8"),
        ({"dtype": torch.int8}, "dtype"),
    ],
)
def test_a_device_or_precision_that_is_not_here_is_refused(options, named, tmp_path):
    model = FAMILIES["vit"].model()
    with pytest.raises(AutoGazeError, match=named):
        gazed(model, **options)
    assert model.dtype == torch.float32
    if "device" in options:  # before weights are looked for
        model.config.save_pretrained(tmp_path)
        with pytest.raises(AutoGazeError, match=named):
            GazedVisionModel.from_pretrained(tmp_path, **options)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_of_the_model_does_not_matter(implementation, inputs):
    model = FAMILIES["dinov2"].model()
    with torch.no_grad():
        expected = gazed(model)(*inputs).last_hidden_state
        model.set_attn_implementation(implementation)
        encoder = gazed(model)
        assert model.config._attn_implementation == implementation
        assert encoder(*inputs).last_hidden_state.equal(expected)


# Files.


@every_family
def test_saved_models_are_plain_ones_to_transformers(name, inputs, tmp_path):
    family = FAMILIES[name]
    model = family.model()
    encoder = gazed(model, scales="32+64", attn_type="frame_independent", empty_frames="hold")
    encoder.save_pretrained(tmp_path)
    assert not hasattr(model.config, "autogaze")
    plain = tf.AutoModel.from_pretrained(tmp_path).eval()
    assert type(plain) is type(model)
    assert plain.config._attn_implementation == "sdpa"
    images = inputs[0].flatten(0, 1)
    again = GazedVisionModel.from_pretrained(tmp_path).eval()
    assert again.settings.pyramid == PYRAMID
    assert again.settings.attn_type == "frame_independent"
    assert again.settings.empty_frames == "hold"
    with torch.no_grad():
        expected = family.dense(model, images).last_hidden_state
        assert family.dense(plain, images).last_hidden_state.equal(expected)
        expected = encoder(*inputs).last_hidden_state
        assert again(*inputs).last_hidden_state.equal(expected)


def test_options_override_saved_ones(tmp_path):
    gazed(FAMILIES["vit"].model(), scales="32+64", attn_type="causal").save_pretrained(tmp_path)
    again = GazedVisionModel.from_pretrained(
        tmp_path, scales="64", max_tokens=7, dtype=torch.bfloat16
    )
    assert again.settings.pyramid == PatchPyramid((64,), 16)
    assert again.settings.attn_type == "causal"
    assert again.settings.max_tokens == 7
    assert again.dtype == torch.bfloat16


def test_a_plain_folder_is_gazed_with_the_defaults(tmp_path, inputs):
    model = FAMILIES["dinov2"].model()
    model.save_pretrained(tmp_path)
    encoder = GazedVisionModel.from_pretrained(tmp_path).eval()
    assert encoder.settings == gazed(model).settings
    with torch.no_grad():
        expected = gazed(model)(*inputs).pooler_output
        assert encoder(*inputs).pooler_output.equal(expected)


def siglip_of_two():
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 8}
    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    config = tf.SiglipConfig(text_config=text, vision_config=vision)
    return tf.SiglipModel(config)


def clip_of_two():
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 8}
    text |= {"bos_token_id": 0, "eos_token_id": 2}
    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    return tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision))


@pytest.mark.parametrize("make", [siglip_of_two, clip_of_two])
def test_the_vision_part_of_an_image_text_model(make, inputs, tmp_path):
    torch.manual_seed(0)
    model = with_large_weights(make().eval())
    frames = inputs[0]
    gaze = Gaze.everything(PatchPyramid((64,), 16), 2, 2)
    images = frames.flatten(0, 1)
    encoder = gazed(model, attn_type="frame_independent")
    model.save_pretrained(tmp_path)
    loaded = GazedVisionModel.from_pretrained(tmp_path, attn_type="frame_independent").eval()
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        expected = model.vision_model(images).pooler_output.unflatten(0, (2, 2))
        assert_close(encoder(frames, gaze).pooler_output, expected)
        assert_close(loaded(frames, gaze).pooler_output, expected)


def image_classifier():
    return tf.ViTForImageClassification(tf.ViTConfig(image_size=64, patch_size=16, **SMALL))


def dinov2_classifier():
    config = tf.Dinov2Config(image_size=64, patch_size=16, hidden_size=48, num_hidden_layers=2)
    return tf.Dinov2ForImageClassification(config)


def clip_with_projection():
    config = tf.CLIPVisionConfig(image_size=64, patch_size=16, **SMALL)
    return tf.CLIPVisionModelWithProjection(config)


@pytest.mark.parametrize(
    ("make", "trunk"),
    [
        (image_classifier, "vit"),
        (dinov2_classifier, "dinov2"),
        (clip_with_projection, "vision_model"),
    ],
)
def test_the_trunk_of_a_model_with_a_head(make, trunk, inputs):
    torch.manual_seed(0)
    model = with_large_weights(make().eval())
    gaze = Gaze.everything(PatchPyramid((64,), 16), 2, 2)
    with torch.no_grad():
        out = gazed(model, attn_type="frame_independent")(inputs[0], gaze)
        dense = getattr(model, trunk)(inputs[0].flatten(0, 1)).last_hidden_state
    assert_close(out.prefix_hidden_state.flatten(0, 1), dense[:, :1])
    assert_close(out.last_hidden_state.unflatten(0, (4, -1)), dense[:, 1:])


def test_models_without_adapter_are_told_which_there_are():
    config = tf.SegformerConfig(num_encoder_blocks=1, depths=[1], hidden_sizes=[8])
    with pytest.raises(EncoderError) as caught:
        gazed(tf.SegformerModel(config))
    message = str(caught.value)
    assert "'segformer'" in message
    assert "register_encoder" in message
    for name in ("siglip", "siglip2_vision_model", "dinov2", "dinov3_vit", "clip", "vit"):
        assert name in message


def test_modules_without_configuration_are_told_the_same():
    with pytest.raises(EncoderError, match=r"None.*register_encoder"):
        gazed(torch.nn.Linear(2, 2))


def test_it_says_what_it_sees():
    encoder = autogaze.gazed(FAMILIES["siglip"].model(), scales="32+64")
    assert "scales=32+64 / 16, attn_type=block_causal" in repr(encoder)
    assert "patch_size=14" in repr(autogaze.gazed(FAMILIES["siglip-cropped"].model()))
    assert encoder.patch_size == 16
    assert encoder.device == torch.device("cpu")


def test_a_padded_gaze_of_other_scales_is_refused_where_counts_agree(inputs):
    encoder = gazed(FAMILIES["siglip"].model(), scales="32+70")
    made = Gaze.everything(PYRAMID, 1, 2).padded()
    with pytest.raises(EncoderError, match=r"32\+64 / 16.*32\+70 / 16"):
        encoder(random_frames(1, 2, 70), made)


def test_frames_that_are_not_finite_are_refused(inputs):
    frames, gaze = inputs
    frames = frames.clone()
    frames[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(EncoderError, match="NaN"):
        gazed(FAMILIES["siglip"].model())(frames, gaze)


def test_flex_needs_a_gpu_for_gradients(inputs):
    with pytest.raises(EncoderError, match="no gradients on a CPU"):
        gazed(FAMILIES["siglip"].model(), backend="flex")(*inputs)


def test_checkpoints_in_subfolders(tmp_path, inputs):
    model = FAMILIES["vit"].model()
    gazed(model, scales="32+64").save_pretrained(tmp_path / "inner")
    again = GazedVisionModel.from_pretrained(tmp_path, subfolder="inner")
    assert again.settings.pyramid == PYRAMID
    assert_close(again(*inputs).last_hidden_state, gazed(model)(*inputs).last_hidden_state)


def pickled(folder):
    """The weights of a folder as a pickle, in the place of the safetensors."""
    model = tf.AutoModel.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_weights_in_pickles_are_refused_with_what_to_do(tmp_path):
    for place in ("", "inner"):
        FAMILIES["vit"].model().save_pretrained(tmp_path / place)
        pickled(tmp_path / place)
        options = {"subfolder": place} if place else {}
        with pytest.raises(EncoderError, match=r"pytorch_model\.bin.*save_file"):
            GazedVisionModel.from_pretrained(tmp_path, **options)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    FAMILIES["vit"].model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model\.bin"):
        GazedVisionModel.from_pretrained(tmp_path)
    assert not (tmp_path / "written").exists()


def test_saved_settings_that_are_not_known_are_named(tmp_path):
    gazed(FAMILIES["vit"].model()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["autogaze"]["colour"] = "red"
    file.write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="colour"):
        GazedVisionModel.from_pretrained(tmp_path)


def test_what_is_no_checkpoint_is_told_so(tmp_path):
    for name in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(EncoderError, match=f"^{name}: .*vision encoder"):
            GazedVisionModel.from_pretrained(name)
    FAMILIES["vit"].model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EncoderError, match=f"^{tmp_path}: .*vision encoder"):
        GazedVisionModel.from_pretrained(tmp_path)


def test_a_checkpoint_of_a_family_without_adapter_is_not_read(tmp_path):
    config = tf.SegformerConfig(num_encoder_blocks=1, depths=[1], hidden_sizes=[8])
    config.save_pretrained(tmp_path)  # and no weights
    with pytest.raises(EncoderError, match=r"'segformer'.*register_encoder"):
        GazedVisionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_the_twin_is_in_the_mode_of_its_model(training):
    model = FAMILIES["siglip"].model().train(training)
    assert gazed(model).training is training


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_autocast_with_ragged_frames(name):
    family = FAMILIES[name]
    pyramid = family.pyramid()
    mask = torch.zeros(1, 2, pyramid.num_patches, dtype=torch.bool)
    mask[0, 0, :3] = mask[0, 1, 1:] = True
    frames = torch.randn(1, 2, 3, pyramid.side, pyramid.side)
    gaze = Gaze.from_mask(pyramid, mask)
    with torch.no_grad():
        model = gazed(family.model())
        exact = model(frames, gaze).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            out = model(frames, gaze)
    close = torch.nn.functional.cosine_similarity(out.last_hidden_state.float(), exact, dim=-1)
    assert close.min() > 0.98
    if out.pooler_output is not None:
        assert torch.isfinite(out.pooler_output).all()


def test_empty_frames_share_the_run_of_others():
    family = FAMILIES["siglip"]
    pyramid = family.pyramid()
    mask = torch.zeros(1, 4, pyramid.num_patches, dtype=torch.bool)
    mask[0, 0, :3] = mask[0, 2, 1:] = True
    frames = torch.randn(1, 4, 3, pyramid.side, pyramid.side)
    gaze = Gaze.from_mask(pyramid, mask)
    model = family.model()
    options = {"attn_type": "frame_independent", "empty_frames": "hold"}
    with torch.no_grad():
        split = gazed(model, max_tokens=1, **options)(frames, gaze)
        whole = gazed(model, **options)(frames, gaze)
    torch.testing.assert_close(split.last_hidden_state, whole.last_hidden_state)
    torch.testing.assert_close(split.pooler_output, whole.pooler_output)


def test_batches_of_tokens_are_halved_where_memory_is_too_small(monkeypatch, inputs):
    encoder = gazed(FAMILIES["siglip"].model())
    run_blocks, taken = encode._run_blocks, []

    def crowded(adapter, tokens, *rest):
        taken.append(len(tokens))
        if len(tokens) > holds:
            raise torch.OutOfMemoryError("out of memory")
        return run_blocks(adapter, tokens, *rest)

    with torch.no_grad():
        expected = encoder(*inputs).last_hidden_state
        monkeypatch.setattr(encode, "_run_blocks", crowded)
        lengths = inputs[1].lengths.sum(1).tolist()
        holds = max(lengths)
        assert_close(encoder(*inputs).last_hidden_state, expected)
        assert taken == [sum(lengths), *lengths]
        holds = min(lengths) - 1
        with pytest.raises(EncoderError, match="max_tokens"):
            encoder(*inputs)
    with pytest.raises(torch.OutOfMemoryError):  # gradients keep all batches
        encoder(*inputs)


class Recorder:
    """Counts calls of a module by a method that is hooked in."""

    def __init__(self, module):
        self.calls = 0
        self.handle = module.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1


def test_hooked_methods_report_to_their_own_object(inputs):
    model = FAMILIES["vit"].model()
    recorder = Recorder(model.layernorm)
    encoder = gazed(model)
    encoder(*inputs)
    assert recorder.calls == 1
    recorder.handle.remove()
    encoder(*inputs)
    assert recorder.calls == 2  # the gazed model's own hook


@pytest.mark.parametrize(
    ("put_on", "take_off"),
    [
        (lambda m: prune.l1_unstructured(m, "weight", 0.3), lambda m: prune.remove(m, "weight")),
        (
            lambda m: parametrizations.spectral_norm(m, "weight"),
            lambda m: parametrize.remove_parametrizations(m, "weight"),
        ),
    ],
    ids=["pruned", "parametrized"],
)
def test_weights_that_are_computed_stay_when_they_are_fixed_on_the_original(
    put_on, take_off, inputs
):
    model = FAMILIES["siglip"].model()
    part = next(m for name, m in model.named_modules() if name.endswith("layers.0.mlp.fc1"))
    put_on(part)
    encoder = gazed(model)
    with torch.no_grad():
        expected = encoder(*inputs).last_hidden_state
        take_off(part)
        assert_close(encoder(*inputs).last_hidden_state, expected, 1e-6)
        assert_close(gazed(model)(*inputs).last_hidden_state, expected, 1e-6)


@pytest.mark.parametrize("name", ["siglip", "clip", "dinov3"])
def test_a_buffer_without_values_is_named(name, inputs):
    family = FAMILIES[name]
    model = family.model()
    with torch.device("meta"):
        other = family.build(**family.options).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    with pytest.raises(EncoderError, match=r"(position_ids|inv_freq) has no values"):
        gazed(other)(*inputs)
