"""Gazed encoding on a GPU: the CPU's features, by every backend. Skipped where there is none."""

import copy

import pytest
import torch

from autogaze import PatchPyramid, gazed
from autogaze.utils.cuda_graphs import CudaGraphs
from autogaze.vision_encoders import patches
from autogaze.vision_encoders.attention import packed_attention, recorded_backends, why_not
from autogaze.vision_encoders.layout import ATTENTION_TYPES, AttentionType, TokenLayout
from autogaze.vision_encoders.positions import resized_by_axes
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames, random_gaze
from tests.vision_encoders.layouts import dense_attention, dense_mask, random_qkv

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    # PyTorch 2.11's own, when its compiler is imported.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]
RAGGED = ((3, 0, 5), (3, 0, 5), (0, 0, 0), (4, 70, 0), (8, 0, 0))


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # of the compiler
@pytest.mark.parametrize("backend", ["grouped", "varlen", "flash", "flex"])
@pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
def test_every_backend_is_masked_attention(backend: str, attn_type: AttentionType) -> None:
    layout = TokenLayout(RAGGED, attn_type, torch.device("cuda"), num_prefix=1)
    exact = [x.requires_grad_() for x in random_qkv(layout.num_tokens, size=16)]
    expected = dense_attention(*exact, dense_mask(layout))
    weights = torch.randn(expected.shape)
    gradients = torch.autograd.grad((expected * weights).sum(), exact)
    inputs = [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in exact]
    if reason := why_not(backend, inputs[0], 0.0):
        pytest.skip(reason)
    found = packed_attention(*inputs, layout, backend=backend)
    assert_close(found.float().cpu(), expected, 0.05)
    mine = torch.autograd.grad((found * weights.cuda().bfloat16()).sum(), inputs)
    for one, other in zip(mine, gradients, strict=True):
        assert_close(one.float().cpu(), other, 0.2)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("attn_type", ["block_causal", "frame_independent"])
def test_features_are_the_cpus(name: str, attn_type: AttentionType) -> None:
    family = FAMILIES[name]
    pyramid = family.pyramid(family.side // 2, family.side)
    model, frames = family.model(), random_frames(2, 3, pyramid.side)
    gaze = random_gaze(pyramid, 2, 3)
    backend = "grouped"  # FlexAttention takes long to compile
    with torch.no_grad():
        expected = gazed(model, attn_type=attn_type)(frames, gaze)
        encoder = gazed(copy.deepcopy(model), attn_type=attn_type, backend=backend, device="cuda")
        for where in ("cpu", "cuda"):
            found = encoder(frames.cuda(), gaze.to(where))
            features = found.last_hidden_state.cpu()
            # Positions are interpolated by other kernels there.
            assert_close(features, expected.last_hidden_state, 2e-3)


@pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
@pytest.mark.parametrize("size", [16, 64, 72])
def test_our_kernel_is_masked_attention(attn_type: AttentionType, size: int) -> None:
    layout = TokenLayout(RAGGED, attn_type, torch.device("cuda"), num_prefix=1)
    exact = random_qkv(layout.num_tokens, size=size)
    inputs = [x.to("cuda", torch.bfloat16) for x in exact]
    if reason := why_not("triton", inputs[0], 0.0):
        pytest.skip(reason)
    found = packed_attention(*inputs, layout, backend="triton")
    assert_close(found.float().cpu(), dense_attention(*exact, dense_mask(layout)), 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_our_kernel_cuts_the_cpus_patches(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    device = torch.device("cuda", torch.cuda.current_device())
    assert not patches.triton_failure(device, dtype)
    pyramid = PatchPyramid((32, 64, 112, 224), 16)
    frames, gaze = random_frames(1, 3, 224)[0].to(dtype), random_gaze(pyramid, 1, 3)
    where = gaze.ids, gaze.frame_of_patch
    found = patches.gazed_patches(frames.cuda(), *(x.cuda() for x in where), pyramid).cpu()
    expected = patches.gazed_patches(frames.float(), *where, pyramid)
    assert found.dtype == dtype
    assert_close(found.float(), expected, 4 * torch.finfo(dtype).eps + 1e-5)
    finest = gaze.ids >= pyramid.offsets[-1]
    assert found[finest].equal(expected[finest].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_resizing_by_axes_is_pytorchs(dtype: torch.dtype) -> None:
    table = torch.randn(1, 9, 9, 70, device="cuda").to(dtype).permute(0, 3, 1, 2)
    for size in ((2, 2), (4, 7), (12, 5)):
        wanted = torch.nn.functional.interpolate(table, size=size, mode="bicubic")
        assert resized_by_axes(table, size).equal(wanted)


def test_half_precision_takes_a_kernel_for_segments() -> None:
    family = FAMILIES["clip"]
    pyramid = family.pyramid(32, 64)
    encoder = gazed(family.model(hidden_size=64), device="cuda", dtype="bfloat16")
    inputs = random_frames(2, 6).cuda(), random_gaze(pyramid, 2, 6)
    probe = torch.empty(4, 1, 16, device="cuda", dtype=torch.bfloat16)
    if reason := why_not("varlen", probe, 0.0):
        pytest.skip(reason)
    with torch.no_grad(), recorded_backends() as backends:
        found = encoder(*inputs).last_hidden_state
        expected = gazed(encoder.model, backend="grouped")(*inputs).last_hidden_state
    assert backends in ({"triton", "grouped"}, {"varlen", "grouped"})
    cosine = torch.nn.functional.cosine_similarity(found.float(), expected.float(), dim=-1)
    assert cosine.min() > 0.99


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attn_type", ["block_causal", "frame_independent"])
def test_graphs_give_what_calls_give(attn_type: AttentionType, dtype: str) -> None:
    family = FAMILIES["siglip"]
    pyramid = family.pyramid(32, 64)
    plain = gazed(family.model(), attn_type=attn_type, device="cuda", dtype=dtype, graphs=False)
    encoder = gazed(plain.model, attn_type=attn_type, graphs=True)
    gaze = random_gaze(pyramid, 2, 3)
    with torch.inference_mode():
        for seed in range(3):
            frames = random_frames(2, 3, seed=seed)
            found, expected = encoder(frames, gaze), plain(frames, gaze)
            assert_close(found.last_hidden_state, expected.last_hidden_state, 1e-2)
            assert_close(found.pooler_output, expected.pooler_output, 1e-2)
    assert encoder.graphs is not None
    assert encoder.graphs.recorder is not None
    assert encoder.graphs.recorder.num_recorded == 1
    assert encoder.graphs.recorder.num_replayed == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_calls_that_come_again_are_recorded_unasked(dtype: str) -> None:
    family = FAMILIES["siglip"]
    pyramid = family.pyramid(32, 64)
    encoder = gazed(family.model(), device="cuda", dtype=dtype)
    plain = gazed(encoder.model, graphs=False)
    frames, gaze = random_frames(2, 3), random_gaze(pyramid, 2, 3)
    with torch.inference_mode():
        outputs = [encoder(frames, gaze).last_hidden_state for _ in range(4)]
        expected = plain(frames, gaze).last_hidden_state
    assert encoder.graphs is not None
    assert encoder.graphs.recorder is not None
    assert encoder.graphs.recorder.num_recorded == 1
    assert encoder.graphs.recorder.num_replayed == 3
    for found in outputs:
        assert_close(found, expected, 1e-2)


def test_random_numbers_are_drawn_after_a_recording_that_fails() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    graphs, kept = CudaGraphs(device), torch.zeros(3, device=device)

    def asking() -> None:
        kept.add_(float(kept.sum()) + 1)  # which a recording does not permit

    with pytest.raises(RuntimeError):
        graphs.run_and_record(asking)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(5, device=device).std() > 0
    replay = graphs.run_and_record(lambda: kept.zero_().add_(2))
    kept.zero_()
    replay()
    assert kept.tolist() == [2, 2, 2]


def test_a_model_that_asks_for_values_runs_as_it_is_unasked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    family = FAMILIES["siglip"]
    encoder = gazed(family.model(), device="cuda")
    plain = gazed(encoder.model, graphs=False)
    frames, gaze = random_frames(1, 2), random_gaze(family.pyramid(32, 64), 1, 2)
    for one in (encoder, plain):
        one._adapter.leave = lambda x: x + float(x.isnan().sum())
    with torch.no_grad():
        outputs = [encoder(frames, gaze).last_hidden_state for _ in range(4)]
        expected = plain(frames, gaze).last_hidden_state
    for found in outputs:
        assert_close(found, expected, 1e-5)
    assert len([one for one in caplog.records if "no longer recorded" in one.getMessage()]) == 1


def test_graphs_are_recorded_anew_once_all_are_gone() -> None:
    family = FAMILIES["siglip"]
    encoder = gazed(family.model(), device="cuda", graphs=True)
    frames, gaze = random_frames(1, 2), random_gaze(family.pyramid(32, 64), 1, 2)
    with torch.inference_mode():
        expected = gazed(encoder.model, graphs=False)(frames, gaze).last_hidden_state
        for _ in range(3):
            assert_close(encoder(frames, gaze).last_hidden_state, expected, 1e-2)
            encoder.reset()
    assert encoder.graphs is not None
    assert encoder.graphs.recorder is not None
    assert encoder.graphs.recorder.num_recorded == 3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
def test_graphs_follow_a_model_to_another_gpu() -> None:
    family = FAMILIES["siglip"]
    encoder = gazed(family.model(), device="cuda:0", graphs=True)
    gaze = random_gaze(family.pyramid(32, 64), 1, 2)
    for gpu in (0, 1, 0):
        plain = gazed(encoder.to(f"cuda:{gpu}").model, graphs=False)
        with torch.inference_mode():
            for seed in range(3):
                frames = random_frames(1, 2, seed=seed)
                found, expected = encoder(frames, gaze), plain(frames, gaze)
                assert_close(found.last_hidden_state, expected.last_hidden_state, 1e-2)


def test_gradients_of_values_alone_are_kept() -> None:
    """Where all else is frozen, as in a model with an adapter there."""
    family = FAMILIES["clip"]
    encoder = gazed(family.model(hidden_size=64), device="cuda", dtype="bfloat16")
    wanted = [weight for name, weight in encoder.named_parameters() if "v_proj" in name]
    for weight in encoder.parameters():
        weight.requires_grad_(False)
    for weight in wanted:
        weight.requires_grad_(True)
    encoder(
        random_frames(2, 3), random_gaze(family.pyramid(32, 64), 2, 3)
    ).pooler_output.sum().backward()
    assert wanted
    assert all(weight.grad is not None and weight.grad.any() for weight in wanted)
