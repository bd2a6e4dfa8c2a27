"""Gazing on a GPU: the same patches as on the CPU. Skipped where there is none."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autogaze.gaze import Gaze
from autogaze.models.autogaze import (
    AutoGaze,
    AutoGazeConfig,
    static_shapes,
    triton_decoder,
    triton_steps,
)
from autogaze.models.autogaze.published import read_caps
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.streaming import DEFAULT_MEMORY_BUDGET, budget_of
from autogaze.selectors.learned import Learned
from autogaze.utils.cuda_graphs import CudaGraphs
from autogaze.utils.device import free_memory
from autogaze.weights import SELECTOR
from tests.models.autogaze.tiny import still_video, threshold_of, tiny_model, tiny_video

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(autouse=True)
def tf32() -> Iterator[None]:
    """TensorFloat-32 in convolutions, as is PyTorch's default: it must not reach float32 gazes."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        yield


def same(one: Gaze, other: Gaze) -> bool:
    return one.ids.equal(other.ids) and one.lengths.equal(other.lengths)


def on_gpu(model: AutoGaze, dtype: torch.dtype = torch.float32) -> AutoGaze:
    return copy.deepcopy(model).to("cuda", dtype)


@pytest.mark.parametrize("static", [False, True, None])
@pytest.mark.parametrize("stop", [False, True])
def test_float32_gives_the_cpus_gazes(stop: bool, static: bool | None) -> None:
    model, video = tiny_model(), tiny_video(4, 3)
    threshold = threshold_of(model, video) if stop else None
    caps = [15, 7, 20]
    expected = model.generate(video, caps=caps, threshold=threshold).to_gaze()
    model = on_gpu(model)
    model.static_shapes = static
    gaze = model.generate(video.cuda(), caps=caps, threshold=threshold).to_gaze()
    assert gaze.device.type == "cuda"
    assert same(gaze.to("cpu"), expected)


@pytest.mark.parametrize("static", [False, True])
def test_return_is_inhibited_as_on_the_cpu(static: bool) -> None:
    model, video = tiny_model(inhibition_of_return=0.05), still_video(2, 4)
    expected = model.generate(video, caps=[6] * 4).to_gaze()
    model = on_gpu(model)
    model.static_shapes = static
    gaze = model.generate(video.cuda(), caps=[6] * 4).to_gaze()
    assert same(gaze.to("cpu"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stop", [False, True])
def test_bounds_hold_in_every_precision(dtype: torch.dtype, stop: bool) -> None:
    model, video = tiny_model(), tiny_video(3, 4)
    threshold = threshold_of(model, video) if stop else None
    caps = [15, 7, 20, 2]
    gaze = on_gpu(model, dtype).generate(video.to("cuda", dtype), caps=caps, threshold=threshold)
    gaze = gaze.to_gaze().to("cpu")  # where a Gaze refuses ids twice or out of range
    assert (gaze.lengths >= 1).all()
    assert (gaze.lengths <= torch.tensor(caps)).all()
    if not stop:
        assert gaze.lengths.tolist() == [caps] * 3


@pytest.mark.parametrize("stop", [False, True])
def test_streaming_equals_the_whole_clip(stop: bool) -> None:
    model, video = tiny_model(), tiny_video(2, 4)
    threshold = threshold_of(model, video) if stop else None
    model, video = on_gpu(model), video.cuda()
    whole = model.generate(video, threshold=threshold).to_gaze()
    stream = model.stream(2)
    parts = [
        model.generate(frame, threshold=threshold, stream=stream).to_gaze()
        for frame in video.split([1, 2, 1], dim=1)
    ]
    assert same(Gaze.cat_frames(parts), whole)


def test_a_batch_equals_its_rows() -> None:
    model, video = tiny_model(), tiny_video(3, 3)
    threshold = threshold_of(model, video)
    model, video = on_gpu(model), video.cuda()
    together = model.generate(video, threshold=threshold).to_gaze()
    for row in range(3):
        alone = model.generate(video[row : row + 1], threshold=threshold).to_gaze()
        assert same(together[row], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_second_call_of_equal_shape_records_no_graph(dtype: torch.dtype) -> None:
    model = on_gpu(tiny_model(), dtype)
    recorded = []
    for _ in range(2):
        for clips in (3, 4, 6):
            model.generate(tiny_video(clips, 3).to("cuda", dtype), caps=[9, 5, 9])
        recorder = model.gazing_model.static_states.recorder
        assert isinstance(recorder, CudaGraphs)
        recorded.append(recorder.num_recorded)
    assert recorded[0] == recorded[1] > 0
    assert recorder.num_replayed > recorded[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_its_decoder_and_its_blocks_are_tritons(dtype: torch.dtype) -> None:
    """Of the default sizes and of small ones, and as exact as PyTorch's operators."""
    pytest.importorskip("triton")
    for model in (AutoGaze(AutoGazeConfig()), tiny_model(kv_heads=2)):
        decoder = on_gpu(model, dtype).gazing_model.gaze_decoder.fused()
        assert triton_decoder.triton_failure(decoder) == ""
        assert triton_steps.triton_failure(decoder) == ""
        if dtype == torch.float32:
            assert triton_decoder._difference(decoder) < 2e-4


def test_rows_that_are_left_go_on_in_a_smaller_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_shapes, "ASK_EVERY", 1)
    model, video = tiny_model(K=2), tiny_video(9, 3)
    thresholds = torch.full((9, 3), 1e9)
    thresholds[4] = thresholds[7, 1] = -1e9
    expected = model.generate(video, threshold=thresholds).to_gaze()
    model = on_gpu(model)
    for _ in range(2):
        gaze = model.generate(video.cuda(), threshold=thresholds).to_gaze()
        assert same(gaze.to("cpu"), expected)


def test_a_sampled_batch_equals_its_rows() -> None:
    model, video = on_gpu(tiny_model()), tiny_video(3, 3).cuda()
    together = model.generate(
        video, caps=[9, 5, 9], sampling=Sampling(2.0, row_seeds=(5, 6, 7))
    ).to_gaze()
    for row, seed in enumerate((5, 6, 7)):
        sampling = Sampling(2.0, row_seeds=(seed,))
        alone = model.generate(video[row : row + 1], caps=[9, 5, 9], sampling=sampling).to_gaze()
        assert same(together[row], alone)


def test_batches_follow_the_free_memory() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    free = free_memory(device)
    assert free is not None
    assert 0 < free <= torch.cuda.get_device_properties(device).total_memory
    assert budget_of(device) >= DEFAULT_MEMORY_BUDGET


def test_published_arguments_are_not_waited_for() -> None:
    model = on_gpu(tiny_model())
    ids = torch.zeros(2, 3, dtype=torch.int64, device="cuda")
    padded, video = ids.bool(), torch.zeros(2, 3, 3, 1, 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        masks = model.get_mask_from_gazing_pos(video, ids, padded)
        caps = read_caps(ids, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert caps is not None
    assert [int(mask.sum()) for mask in masks] == [2, 0]


def test_scores_are_the_cpus() -> None:
    model, video = tiny_model(), tiny_video(2, 3)
    generation = model.generate(video, caps=[6] * 3)
    expected = model.score(video, generation)
    scores = on_gpu(model).score(video.cuda(), generation.to_gaze().to("cuda"))
    torch.testing.assert_close(scores.log_probs.cpu(), expected.log_probs, rtol=1e-3, atol=1e-3)


def test_the_main_job_runs_on_it(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from autogaze.pipeline import GazeStream
    from tests.clips import make_video

    video = make_video(tmp_path / "square.mp4", 20)
    selector = Learned(tiny_model())
    expected = [chunk.gaze for chunk in GazeStream(video, selector=selector, ratio=0.3)]
    stream = GazeStream(
        video, selector=Learned(on_gpu(selector.model)), ratio=0.3, keep_canvas=True, tiles="2x1"
    )
    assert [chunk.gaze.num_frames for chunk in stream] == [gaze.num_frames for gaze in expected]
    gazes = [
        chunk.gaze.to("cpu")
        for chunk in GazeStream(video, selector=Learned(on_gpu(selector.model)), ratio=0.3)
    ]
    assert same(Gaze.cat_frames(gazes), Gaze.cat_frames(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 3, 48])
def test_all_blocks_of_kernels_are_pytorchs(num_rows: int, dtype: torch.dtype) -> None:
    """Of few tokens and of thousands; the selector's sizes, in which the largest blocks are taken."""
    model = Learned.from_pretrained(SELECTOR).to("cuda", dtype).model
    decoder = model.gazing_model.gaze_decoder.fused()
    difference = triton_decoder._difference(decoder, num_rows=num_rows)
    assert difference < max(1e-5, 8 * torch.finfo(dtype).eps)
