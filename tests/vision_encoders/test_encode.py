"""What does not fit is refused with both numbers; frames without patches; options."""

import pytest
import torch
from hypothesis import given, settings

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.errors import AutoGazeError, EncoderError, GeometryError
from autogaze.vision_encoders.encode import GazedOutput
from autogaze.vision_encoders.key_ranges import takes_width
from tests.gazes import SMALL, gazes
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames, random_gaze

PYRAMID = PatchPyramid((32, 64), 16)


@pytest.fixture(scope="module")
def siglip():
    return FAMILIES["siglip"].model()


@pytest.fixture(scope="module")
def encoder(siglip):
    return gazed(siglip)


def refused(encoder, frames, gaze, *parts, error=EncoderError):
    with pytest.raises(error) as caught:
        encoder(frames, gaze)
    for part in parts:
        assert part in str(caught.value)


def test_a_gaze_for_another_pyramid(siglip):
    encoder = gazed(siglip, scales="32+64")
    gaze = random_gaze(PatchPyramid((16, 64), 16), 1, 2)
    refused(encoder, random_frames(1, 2), gaze, "16+64 / 16", "32+64 / 16")


def test_a_padded_gaze_for_another_pyramid(siglip):
    encoder = gazed(siglip, scales="32+64")
    gaze = random_gaze(PatchPyramid((48, 64), 16), 1, 2).padded()
    refused(encoder, random_frames(1, 2), gaze, "25", "20", error=AutoGazeError)


def test_a_padded_gaze_that_does_not_say_its_scales(siglip):
    padded = random_gaze(PYRAMID, 1, 2).padded()
    del padded["scales"]
    refused(gazed(siglip), random_frames(1, 2), padded, "'scales'", "gazed(model, scales=...)")
    assert gazed(siglip, scales="32+64")(random_frames(1, 2), padded).gaze.num_patches


def test_a_gaze_of_another_patch_size(encoder):
    gaze = random_gaze(PatchPyramid((32, 64), 8), 1, 2)
    refused(encoder, random_frames(1, 2), gaze, "8 pixels", "16", "patch_size=16")


@pytest.mark.parametrize(("clips", "frames"), [(1, 3), (2, 2), (2, 4), (4, 1)])
def test_another_number_of_frames_or_clips(encoder, clips, frames):
    gaze = random_gaze(PYRAMID, 1, 2)
    video = random_frames(clips, frames)
    refused(encoder, video, gaze, f"{clips} clips of {frames}", "the gaze 1 of 2")


@pytest.mark.parametrize("shape", [(96, 96), (32, 32), (64, 48), (48, 64)])
def test_a_video_of_another_side(encoder, unchecked, shape):
    video = torch.zeros(1, 2, 3, *shape)
    refused(encoder, video, random_gaze(PYRAMID, 1, 2), f"{shape[0]} x {shape[1]}", "64 x 64")


@pytest.mark.parametrize("shape", [(64, 64), (1, 1, 2, 3, 64, 64), (1, 2, 1, 64, 64)])
def test_a_video_of_another_rank_or_of_other_channels(encoder, unchecked, shape):
    video = torch.zeros(shape)
    refused(encoder, video, random_gaze(PYRAMID, 1, 2), "(clips, frames, 3, ", str(shape))


def test_a_video_that_was_not_normalised(encoder, unchecked):
    video = torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8)
    refused(encoder, video, random_gaze(PYRAMID, 1, 2), "normalisation", "uint8")


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_nothing_to_encode(encoder, shape):
    gaze = Gaze(PYRAMID, torch.zeros(0, dtype=torch.long), torch.zeros(shape, dtype=torch.long))
    refused(encoder, torch.zeros(*shape, 3, 64, 64), gaze, f"{shape[0]} clips of {shape[1]}")


@pytest.mark.parametrize("wrong", [20, -1])
def test_ids_out_of_range_behind_the_gaze(encoder, wrong):
    gaze = random_gaze(PYRAMID, 1, 2)
    ids = gaze.ids.clone()
    ids[0] = wrong
    object.__setattr__(gaze, "ids", ids)
    refused(encoder, random_frames(1, 2), gaze, "[0, 20)", str(wrong))


@pytest.mark.parametrize("wrong", [20, 40, -1])
def test_ids_out_of_range_in_the_padded_dict(encoder, wrong):
    padded = random_gaze(PYRAMID, 1, 2).padded()
    padded["gazing_pos"][0, 0] = wrong
    refused(encoder, random_frames(1, 2), padded, "[0, 20)", str(wrong), error=GeometryError)


def test_frames_without_patches(siglip):
    gaze = Gaze(PYRAMID, torch.tensor([1, 2, 3]), torch.tensor([[2, 0, 1, 0]]))
    frames = random_frames(1, 4)
    refused(gazed(siglip), frames, gaze, "2 of 4 frames", "frame 1 of clip 0", "at least 1")


def test_held_frames_need_one_to_hold(siglip):
    encoder = gazed(siglip, empty_frames="hold")
    gaze = Gaze(PYRAMID, torch.tensor([1, 2, 3]), torch.tensor([[2, 0], [0, 1]]))
    refused(encoder, random_frames(2, 2), gaze, "frame 0 of clip 1", "0 gazed", "at least 1")


@pytest.mark.parametrize("attn_type", ["block_causal", "frame_independent"])
@pytest.mark.parametrize("name", ["siglip", "dinov2", "clip"])
def test_frames_without_patches_are_held(name, attn_type):
    encoder = gazed(FAMILIES[name].model(), empty_frames="hold", attn_type=attn_type)
    ids = torch.tensor([1, 2, 3, 0, 5, 6])
    gaze = Gaze(PYRAMID, ids, torch.tensor([[2, 0, 0, 1], [1, 2, 0, 0]]))
    with torch.no_grad():
        out = encoder(random_frames(2, 4), gaze)
    pooled = out.pooler_output
    assert pooled.isfinite().all()
    assert pooled[0, 1].equal(pooled[0, 0])
    assert pooled[0, 2].equal(pooled[0, 0])
    assert not pooled[0, 3].equal(pooled[0, 0])
    assert pooled[1, 2].equal(pooled[1, 1])
    assert pooled[1, 3].equal(pooled[1, 1])
    assert not pooled[1, 1].equal(pooled[1, 0])
    assert len(out.last_hidden_state) == 6


def test_holding_leaves_full_frames_alone(siglip):
    gaze, frames = random_gaze(PYRAMID, 2, 3), random_frames(2, 3)
    with torch.no_grad():
        held = gazed(siglip, empty_frames="hold")(frames, gaze)
        plain = gazed(siglip)(frames, gaze)
    assert held.pooler_output.equal(plain.pooler_output)


def test_a_held_frame_takes_its_gradient_to_the_frame_held(siglip):
    gaze = Gaze(PYRAMID, torch.tensor([1]), torch.tensor([[1, 0]]))
    frames = random_frames(1, 2).requires_grad_()
    out = gazed(siglip, empty_frames="hold")(frames, gaze)
    out.pooler_output[0, 1].sum().backward()
    assert frames.grad[0, 0].abs().sum() > 0
    assert frames.grad[0, 1].abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"attn_type": "diagonal"}, ("'diagonal'", "block_causal", "frame_independent")),
        ({"backend": "magic"}, ("'magic'", "auto", "grouped", "flex")),
        ({"empty_frames": "skip"}, ("'skip'", "'error'", "'hold'")),
        ({"max_tokens": 0}, ("at least 1", "0")),
        ({"scales": "64+32"}, ("ascending", "(64, 32)")),
        ({"scales": "big"}, ("'big'", "32+64+112+224")),
    ],
)
def test_unknown_options(siglip, unchecked, options, parts):
    with pytest.raises(AutoGazeError) as caught:
        gazed(siglip, **options)
    for part in parts:
        assert part in str(caught.value)


def test_flex_refuses_dropout():
    model = FAMILIES["siglip"].model(attention_dropout=0.5).train()
    with pytest.raises(EncoderError, match=r"no dropout.*0\.5.*'grouped'"):
        gazed(model, backend="flex")(random_frames(1, 2), random_gaze(PYRAMID, 1, 2))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_backends_agree(siglip, monkeypatch):
    from autogaze.vision_encoders import attention

    compiled = attention.flex_attention

    called = []

    def uncompiled(*args, **options):
        called.append(1)
        return compiled(*args, compiled=False, **options)

    monkeypatch.setattr(attention, "flex_attention", uncompiled)
    frames, gaze = random_frames(2, 3), random_gaze(PYRAMID, 2, 3)
    with torch.no_grad():
        one = gazed(siglip, backend="grouped")(frames, gaze)
        assert not called
        if not takes_width(12):  # the channels of its heads
            with pytest.raises(EncoderError, match=r"power of two.* have 12"):
                gazed(siglip, backend="flex")(frames, gaze)
            return
        two = gazed(siglip, backend="flex")(frames, gaze)
    assert len(called) == 2  # one a layer
    assert_close(two.last_hidden_state, one.last_hidden_state, 1e-5)
    assert_close(two.pooler_output, one.pooler_output, 1e-5)


def test_models_of_flex_attention_stay_with_it(siglip):
    assert gazed(siglip).settings.backend == "auto"
    siglip.config._attn_implementation = "flex_attention"
    try:
        assert gazed(siglip).settings.backend == "flex"
        assert gazed(siglip, backend="grouped").settings.backend == "grouped"
    finally:
        siglip.config._attn_implementation = "sdpa"


# Reading a result: per frame, or padded.


@settings(deadline=None)
@given(gaze=gazes())
def test_frames_and_padded_rows_are_the_features(gaze):
    features = torch.randn(gaze.num_patches, 5)
    out = GazedOutput(last_hidden_state=features, gaze=gaze)
    frames = [
        [out.frame(clip, frame) for frame in range(gaze.num_frames)]
        for clip in range(gaze.num_clips)
    ]
    for clip, rows in enumerate(frames):
        assert [len(row) for row in rows] == gaze.lengths[clip].tolist()
    assert torch.cat([row for rows in frames for row in rows]).equal(features)
    padded, is_padding = out.padded()
    longest = int(gaze.lengths.sum(1).max())
    assert padded.shape == (gaze.num_clips, longest, 5)
    assert is_padding.shape == padded.shape[:2]
    assert padded[is_padding].abs().sum() == 0
    for clip, rows in enumerate(frames):
        expected = torch.cat(rows)
        assert padded[clip][~is_padding[clip]].equal(expected)
        assert padded[clip, : len(expected)].equal(expected)  # padding stands behind


def test_frames_count_from_the_end_too():
    gaze = gazes_of_two()
    out = GazedOutput(last_hidden_state=torch.arange(3.0)[:, None], gaze=gaze)
    assert out.frame(-1, -1).tolist() == [[2.0]]
    with pytest.raises(IndexError):
        out.frame(0, 2)


def gazes_of_two():
    return Gaze(SMALL, torch.tensor([4, 2, 9]), torch.tensor([[2, 1]]))


def test_it_is_a_transformers_output():
    out = GazedOutput(last_hidden_state=torch.zeros(3, 5), gaze=gazes_of_two())
    assert out["last_hidden_state"] is out.last_hidden_state
    assert out[0] is out.last_hidden_state
    assert "pooler_output" not in out
    assert len(out.to_tuple()) == 2


def test_the_mean_of_a_frame_is_that_of_its_patches():
    gaze = Gaze(SMALL, torch.tensor([4, 2, 9, 1]), torch.tensor([[2, 1], [0, 1]]))
    features = torch.tensor([[1.0, 0], [3, 2], [5, 5], [7, 8]])
    means = GazedOutput(last_hidden_state=features, gaze=gaze).frame_means()
    assert means.tolist() == [[[2, 1], [5, 5]], [[0, 0], [7, 8]]]


def test_the_mean_of_a_frame_without_patches_is_that_of_the_frame_before():
    gaze = Gaze(SMALL, torch.tensor([4, 9]), torch.tensor([[1, 0, 0, 1]]))
    out = GazedOutput(last_hidden_state=torch.tensor([[1.0], [3.0]]).bfloat16(), gaze=gaze)
    assert out.frame_means().flatten().tolist() == [1, 1, 1, 3]
    assert out.frame_means().dtype == torch.bfloat16


def test_without_a_gaze_nobody_knows_where_features_belong():
    out = GazedOutput(last_hidden_state=torch.zeros(3, 5))
    for read in (out.padded, out.frame_means, lambda: out.frame(0, 0)):
        with pytest.raises(EncoderError, match="gaze=gaze"):
            read()
