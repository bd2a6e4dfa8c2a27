"""SigLIP called as the published package's users call it: frames of any size, slots, names of weights."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

from autogaze import Gaze, PatchPyramid
from autogaze.errors import CheckpointError, EncoderError, GeometryError
from autogaze.vision_encoders.siglip import SiglipConfig, SiglipVisionConfig, SiglipVisionModel
from tests.vision_encoders.families import SMALL, assert_close, random_frames, with_large_weights
from tests.vision_encoders.test_siglip import PYRAMID, tiny

V = PYRAMID.num_patches  # 20
TRANSFORMERS = tuple(map(int, transformers.__version__.split(".")[:2]))


def slots(positions, counts, padding=()) -> dict[str, torch.Tensor]:
    """A padded dict; `padding` are the indices of padded slots."""
    gazing_pos = torch.tensor(positions)
    is_padding = torch.zeros(gazing_pos.shape, dtype=torch.bool)
    for index in padding:
        is_padding[index] = True
    return {
        "gazing_pos": gazing_pos,
        "if_padded_gazing": is_padding,
        "num_gazing_each_frame": torch.tensor(counts),
    }


# Frames of any size.


@pytest.mark.parametrize("size", [(60, 60), (80, 80), (48, 96)])
def test_frames_of_any_size_are_resized_to_every_scale(size):
    """One scale at a time: as frames that somebody else resized to it."""
    torch.manual_seed(0)
    video = torch.randn(1, 1, 3, *size)
    for scale in PYRAMID.scales:
        one = tiny(scales=str(scale), image_size=64)
        everything = Gaze.everything(PatchPyramid((scale,), 16), 1, 1).padded()
        resized = F.interpolate(video[0], (scale, scale), mode="bicubic", align_corners=False)
        with torch.no_grad():
            out = one(video, gazing_info=everything).last_hidden_state
            expected = one(resized[None], gazing_info=everything).last_hidden_state
        assert_close(out, expected, 1e-6)
    with torch.no_grad():  # all scales together, of which each is resized from the frame itself
        both = tiny()(video, gazing_info=Gaze.everything(PYRAMID, 1, 1).padded())
        images = F.interpolate(video[0], (32, 32), mode="bicubic", align_corners=False)
        first = tiny().vision_model.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
    assert both.last_hidden_state.shape == (1, V, 48)
    assert first.shape == (1, 4, 48)


def test_a_gaze_takes_frames_of_any_size_too():
    video, gaze = random_frames(1, 2, 72), Gaze.everything(PYRAMID, 1, 2)
    with torch.no_grad():
        out = tiny()(video, gazing_info=gaze).last_hidden_state
        padded = tiny()(video, gazing_info=gaze.padded()).last_hidden_state
    assert padded.flatten(0, 1).equal(out)


# Slots.


def test_ids_in_any_order_give_the_same_features():
    video, model = random_frames(1, 2), tiny()
    ascending = slots([[2, 7, 19, V + 1, V + 4]], [3, 2])
    order = torch.tensor([2, 0, 1, 4, 3])
    shuffled = slots(ascending["gazing_pos"][:, order].tolist(), [3, 2])
    with torch.no_grad():
        expected = model(video, gazing_info=ascending)
        out = model(video, gazing_info=shuffled)
    assert_close(out.last_hidden_state, expected.last_hidden_state[:, order], 1e-5)
    assert_close(out.pooler_output, expected.pooler_output, 1e-5)


def test_a_patch_may_stand_in_several_slots():
    """It is seen as often as it stands there, as the published encoder does."""
    video, model = random_frames(1, 1), tiny()
    with torch.no_grad():
        twice = model(video, gazing_info=slots([[5, 9, 5]], [3]))
        once = model(video, gazing_info=slots([[5, 9]], [2]))
        all_once = model(video, gazing_info=slots([[5] * 4], [4]))
        alone = model(video, gazing_info=slots([[5]], [1]))
    assert_close(twice.last_hidden_state[:, 0], twice.last_hidden_state[:, 2], 1e-5)
    assert (twice.last_hidden_state[:, :2] - once.last_hidden_state).abs().max() > 1e-3
    # Attention to equal tokens is attention to one of them.
    assert_close(all_once.last_hidden_state, alone.last_hidden_state.expand(1, 4, -1), 1e-5)


def test_a_slot_shows_the_patch_of_its_id_wherever_that_is():
    """Slots of frame 0 with ids of frame 1, and the other way round: the frames change places."""
    video, model = random_frames(1, 2), tiny()
    swapped = slots([[V + 3, V + 8, 2]], [2, 1])
    with torch.no_grad():
        out = model(video, gazing_info=swapped)
        expected = model(video.flip(1), gazing_info=slots([[3, 8, V + 2]], [2, 1]))
    assert_close(out.last_hidden_state, expected.last_hidden_state, 1e-6)


@pytest.mark.parametrize("attn_type", ["block_causal", "causal", "bidirectional"])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("empty", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_frames_may_be_padded_wholly(attn_type, alone, empty):
    """Padded slots change nothing: it is the clip without them."""
    video = random_frames(2, 3)
    model = tiny(attn_type=attn_type, frame_independent_encoding=alone)
    positions = [[frame * V + patch for frame in range(3) for patch in (1, 6)]] * 2
    padded = slots(positions, [2, 2, 2], [(0, [2 * f + i for f in empty for i in (0, 1)])])
    kept = ~padded["if_padded_gazing"]
    with torch.no_grad():
        out = model(video, gazing_info=padded, output_hidden_states=True)
        whole = model(video, gazing_info=slots(positions, [2, 2, 2]))
    assert out.last_hidden_state.shape == (2, 6, 48)
    assert not out.last_hidden_state[~kept].any()
    assert not out.frame_pooler_output[0, list(empty)].any()
    assert all(state.isfinite().all() for state in (*out.hidden_states, out.pooler_output))
    # The other clip does not notice.
    assert_close(out.last_hidden_state[1], whole.last_hidden_state[1], 1e-5)
    assert_close(out.pooler_output[1], whole.pooler_output[1], 1e-5)
    rest = [frame for frame in range(3) if frame not in empty]
    if not rest:
        assert not out.pooler_output[0].any()
        return
    short = slots([[f * V + p for f in range(len(rest)) for p in (1, 6)]], [2] * len(rest))
    with torch.no_grad():
        expected = model(video[:1, rest], gazing_info=short)
    assert_close(out.last_hidden_state[0, kept[0]], expected.last_hidden_state[0], 1e-5)
    assert_close(out.pooler_output[0], expected.pooler_output[0], 1e-5)


def test_a_batch_may_be_padded_wholly():
    everything = slots([[0, 1]], [1, 1], [(0, [0, 1])])
    out = tiny()(random_frames(1, 2), gazing_info=everything)
    assert out.last_hidden_state.shape == (1, 2, 48)
    assert not out.last_hidden_state.any()
    assert not out.pooler_output.any()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_padding_never_changes_what_is_kept(data):
    """Slots, padded anywhere with any id, against the same without the padded ones."""
    frames = data.draw(st.integers(1, 3))
    counts = data.draw(st.lists(st.integers(0, 4), min_size=frames, max_size=frames))
    ids = [
        f * V + data.draw(st.integers(0, V - 1)) for f in range(frames) for _ in range(counts[f])
    ]
    real = [data.draw(st.booleans()) for _ in ids]
    given_ids = [
        i if keep else data.draw(st.integers(-5, 999)) for i, keep in zip(ids, real, strict=True)
    ]
    frame_of = [f for f in range(frames) for _ in range(counts[f])]
    left = [sum(k and g == f for k, g in zip(real, frame_of, strict=True)) for f in range(frames)]
    video, model = random_frames(1, frames), tiny()
    padded = {
        "gazing_pos": torch.tensor([given_ids]).long(),
        "if_padded_gazing": ~torch.tensor([real], dtype=torch.bool),
        "num_gazing_each_frame": torch.tensor(counts),
    }
    bare = {
        "gazing_pos": torch.tensor([[i for i, k in zip(ids, real, strict=True) if k]]).long(),
        "if_padded_gazing": torch.zeros(1, sum(real), dtype=torch.bool),
        "num_gazing_each_frame": torch.tensor(left),
    }
    with torch.no_grad():
        out, expected = (model(video, gazing_info=info) for info in (padded, bare))
    assert out.last_hidden_state[~padded["if_padded_gazing"]].equal(expected.last_hidden_state[0])
    assert out.pooler_output.equal(expected.pooler_output)


def test_counts_of_every_clip():
    """(B, T), as the published multimodal model's processor makes them, also where they differ."""
    video, model = random_frames(2, 2), tiny()
    same = slots([[1, 2, V], [3, 4, V + 5]], [2, 1])
    each = same | {"num_gazing_each_frame": torch.tensor([[2, 1], [2, 1]])}
    differ = slots([[1, 2, V], [3, V + 4, V + 5]], [[2, 1], [1, 2]])
    with torch.no_grad():
        expected = model(video, gazing_info=same).last_hidden_state
        assert model(video, gazing_info=each).last_hidden_state.equal(expected)
        out = model(video, gazing_info=differ).last_hidden_state
        alone = model(video[1:], gazing_info=slots([[3, V + 4, V + 5]], [1, 2])).last_hidden_state
    assert_close(out[0], expected[0], 1e-5)
    assert_close(out[1], alone[0], 1e-5)


def test_the_pooler_sees_the_whole_clip():
    video, model = random_frames(2, 2), tiny()
    gaze = slots([[1, 2, V], [3, 4, V + 5]], [2, 1])
    with torch.no_grad():
        out = model(video, gazing_info=gaze)
        assert_close(out.pooler_output, model.vision_model.head(out.last_hidden_state), 1e-6)
        frame = model.vision_model.head(out.last_hidden_state[:, :2])
        assert_close(out.frame_pooler_output[:, 0], frame, 1e-5)
    assert out.pooler_output.shape == (2, 48)
    headless = tiny(vision_use_head=False)(video, gazing_info=gaze)
    assert headless.pooler_output is None
    assert headless.frame_pooler_output is None


def test_scales_that_the_selector_looked_at_are_not_the_encoders():
    """After adaptation to another grid `num_vision_tokens_each_frame` says what ids mean."""
    model, video = tiny(), random_frames(1, 1)
    gaze = slots([[1, 2]], [2]) | {"num_vision_tokens_each_frame": V}
    with torch.no_grad():
        expected = model(video, gazing_info=gaze).last_hidden_state
        other = model(video, gazing_info=gaze | {"scales": [16, 32, 64, 112]}).last_hidden_state
    assert other.equal(expected)
    with pytest.raises(EncoderError, match=r"\b265\b.*\b20\b"):
        model(video, gazing_info=gaze | {"num_vision_tokens_each_frame": 265})


def test_dicts_that_disagree_with_themselves():
    video, model = random_frames(1, 2), tiny()
    gaze = slots([[1, 2, V]], [2, 1])
    with pytest.raises(GeometryError, match=r"\(1, 3\).*\(1, 2\)"):
        model(video, gazing_info=gaze | {"if_padded_gazing": torch.zeros(1, 2)})
    for counts in ([2, 2], [4, -1], [[2, 1], [2, 1]]):
        with pytest.raises(GeometryError, match="slots"):
            model(video, gazing_info=gaze | {"num_gazing_each_frame": torch.tensor(counts)})
    for patch in (-1, 2 * V):
        with pytest.raises(GeometryError, match=rf"\[0, {2 * V}\).*{patch}"):
            model(video, gazing_info=slots([[1, 2, patch]], [2, 1]))
    with pytest.raises(GeometryError, match="if_padded_gazing"):
        model(video, gazing_info={"gazing_pos": gaze["gazing_pos"]})
    with pytest.raises(EncoderError, match=r"1 clips of 3 frames.*1 of 2"):
        model(random_frames(1, 3), gazing_info=gaze)


# Modules, configurations and names of parameters.


def test_the_parts_are_where_they_were():
    model = tiny()
    assert len(model.vision_model.encoder.layers) == 2
    assert model.get_input_embeddings() is model.vision_model.embeddings.patch_embedding
    assert model.scales == [32, 64]
    assert all(name.startswith("vision_model.") for name in model.state_dict())
    video, gaze = random_frames(1, 1), slots([[1, 2]], [2])
    with torch.no_grad():
        direct = model.vision_model(video, gazing_info=gaze).last_hidden_state
        assert direct.equal(model(video, gazing_info=gaze).last_hidden_state)


def test_arguments_by_place():
    """pixel_values, gazing_info, output_attentions, output_hidden_states."""
    model, video, gaze = tiny(), random_frames(1, 1), slots([[1, 2]], [2])
    with torch.no_grad():
        for part in (model, model.vision_model):
            assert len(part(video, gaze, None, True).hidden_states) == 3
            assert part(video, gaze, False, False).hidden_states is None
            with pytest.raises(EncoderError, match="output_attentions"):
                part(video, gaze, True)


def test_the_configuration_of_both_towers():
    vision = {"image_size": 64, "patch_size": 16, "scales": "32+64", **SMALL}
    for values in (vision, SiglipVisionConfig(**vision)):
        config = SiglipConfig(text_config={"vocab_size": 60000}, vision_config=values)
        again = SiglipConfig.from_dict(config.to_dict())
        for each in (config, again):
            assert isinstance(each.vision_config, SiglipVisionConfig)
            assert each.vision_config.pyramid == PYRAMID
            assert each.text_config.vocab_size == 60000
    assert SiglipConfig().vision_config.scales is None


class Nesting(PretrainedConfig):
    model_type = "nesting"
    sub_configs = {"vision_config": SiglipVisionConfig}  # noqa: RUF012 - as transformers does

    def __init__(self, vision_config=None, **options):
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        super().__init__(**options)


class NestingModel(PreTrainedModel):
    config_class = Nesting
    base_model_prefix = "llm"

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.mm_projector = nn.Linear(48, 8)
        self.post_init()

    def _init_weights(self, module):
        pass


@pytest.fixture
def nesting():
    torch.manual_seed(0)
    vision = {"image_size": 64, "patch_size": 16, "scales": "32+64", **SMALL}
    return with_large_weights(NestingModel(Nesting(vision)).eval())


def renamed(state, to):
    """The weights under the names of `to`: "published" or those without `vision_model.`."""
    if to == "published":
        return dict(state)
    return {name.replace("vision_model.", ""): value for name, value in state.items()}


def assert_same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []


BARE = {r"^vision_tower\.(?!vision_model\.)": "vision_tower.vision_model."}
"""How transformers 4 is told of bare names in a model that nests this one, as docs/switching.md says."""


@pytest.mark.parametrize("names", ["published", "bare"])
def test_a_model_that_nests_it_loads_both_names(names, nesting, tmp_path):
    if names == "bare" and (5,) < TRANSFORMERS < (5, 9):
        pytest.skip("from_pretrained renames no weights of a part before transformers 5.9")
    nesting.save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    state = load_file(file)
    assert any(name.startswith("vision_tower.vision_model.encoder") for name in state)
    save_file(renamed(state, names), file, metadata={"format": "pt"})
    options = {"key_mapping": BARE} if names == "bare" and TRANSFORMERS < (5,) else {}
    model, info = NestingModel.from_pretrained(tmp_path / "a", output_loading_info=True, **options)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(model, nesting)
    model.save_pretrained(tmp_path / "b")  # under the published names again
    assert load_file(tmp_path / "b" / "model.safetensors").keys() == state.keys()
    assert_same(NestingModel.from_pretrained(tmp_path / "b"), nesting)


@pytest.mark.parametrize("names", ["published", "bare"])
def test_state_dicts_of_both_names_load(names, nesting):
    state = renamed(nesting.state_dict(), names)
    before = set(state)
    other = NestingModel(nesting.config)
    result = other.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert set(state) == before  # the caller's dict stays
    assert_same(other, nesting)


@pytest.mark.parametrize("names", ["published", "bare"])
def test_folders_of_both_names_load(names, tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(renamed(load_file(file), names), file, metadata={"format": "pt"})
    again, info = SiglipVisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(again, model)


def test_transformers_reads_what_was_saved(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    plain = transformers.SiglipVisionModel.from_pretrained(tmp_path).eval()
    images = random_frames(1, 2)[0]
    with torch.no_grad():
        assert_close(plain(images).pooler_output, model(images).pooler_output, 1e-6)


@pytest.mark.parametrize("ignore", [False, True])
def test_a_checkpoint_may_lack_the_head_and_nothing_else(ignore, tmp_path):
    model, options = tiny(), {"ignore_mismatched_sizes": ignore}
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {name: value for name, value in load_file(file).items() if ".head." not in f".{name}"}
    save_file(state, file, metadata={"format": "pt"})
    again = SiglipVisionModel.from_pretrained(tmp_path, **options).state_dict()
    assert all(
        again[name].equal(value)
        for name, value in model.state_dict().items()
        if ".head." not in name
    )
    state = {name: value for name, value in state.items() if "layers.0" not in name}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing"):
        SiglipVisionModel.from_pretrained(tmp_path, **options)


@pytest.mark.parametrize("prefix", ["module.", "student.net."])
def test_weights_of_a_wrapper_are_not_filled_in_at_random(prefix, tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {prefix + name: value for name, value in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"begin with '{prefix}'.*key_mapping"):
        SiglipVisionModel.from_pretrained(tmp_path)
    if transformers.__version__ < "5":  # which maps names after it has looked for a base model's
        return
    mapping = {f"^{prefix}": ""}
    assert_same(SiglipVisionModel.from_pretrained(tmp_path, key_mapping=mapping), model)


def test_a_model_made_on_the_meta_device_reads_its_positions():
    model = tiny()
    with torch.device("meta"):
        other = SiglipVisionModel(model.config).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    images = random_frames(1, 2)[0]
    with torch.no_grad():
        assert other(images).last_hidden_state.equal(model(images).last_hidden_state)
