"""Whole clips, streams and micro-batches give the same gazes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze
from autogaze.models.autogaze import streaming
from autogaze.models.autogaze.sampling import Sampling
from tests.gazes import same
from tests.models.autogaze.tiny import POSITIONS, threshold_of, tiny_model, tiny_video

FEW = settings(max_examples=8, deadline=None)


@pytest.mark.parametrize("positions", POSITIONS)
@given(st.integers(0, 50), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.booleans())
@FEW
def test_streaming_equals_the_whole_clip(positions, seed, pieces, stop):
    model = tiny_model(seed, decode_positions=positions)
    video = tiny_video(2, sum(pieces), seed)
    threshold = threshold_of(model, video) if stop else None
    whole = model.generate(video, threshold=threshold).to_gaze()
    stream = model.stream(2)
    parts = [
        model.generate(part, threshold=threshold, stream=stream).to_gaze()
        for part in video.split(pieces, dim=1)
    ]
    assert same(Gaze.cat_frames(parts), whole)


@given(st.integers(0, 50), st.integers(1, 5))
@FEW
def test_micro_batches_change_nothing(seed, batch):
    model, video = tiny_model(seed), tiny_video(5, 3, seed)
    threshold = threshold_of(model, video)
    whole = model.generate(video, threshold=threshold)
    stream = model.stream(5, num_frames=3)
    stream.batch = batch
    parts = model.generate(video, threshold=threshold, stream=stream)
    assert same(whole.to_gaze(), parts.to_gaze())
    assert len(stream.states) == -(-5 // batch)
    assert whole.to_padded()["gazing_pos"].shape == parts.to_padded()["gazing_pos"].shape


def test_the_memory_budget_decides_the_micro_batch():
    model, video = tiny_model(), tiny_video(6, 2)
    whole = model.generate(video, caps=[5, 5]).to_gaze()
    model.memory_budget = 1
    stream = model.stream(6, num_frames=2, cap=5)
    assert stream.batch == 1
    assert same(model.generate(video, caps=[5, 5], stream=stream).to_gaze(), whole)


def test_on_a_gpu_the_free_memory_decides(monkeypatch):
    monkeypatch.setattr(streaming, "free_memory", lambda device: None)
    cpu = torch.device("cpu")
    assert streaming.budget_of(cpu) == streaming.DEFAULT_MEMORY_BUDGET
    model = tiny_model()
    batches = []
    for free in (0, 1 << 32, 1 << 36):
        monkeypatch.setattr(streaming, "free_memory", lambda device, free=free: free)
        assert streaming.budget_of(cpu, 1 << 30) == max(1 << 30, (free + (1 << 30)) // 2)
        model.static_shapes = True
        batches.append(model.stream(1 << 20, num_frames=16).batch)
        assert batches[-1].bit_count() == 1, "rows come in powers of two"
    assert batches == sorted(set(batches))
    monkeypatch.setattr(
        streaming, "free_memory", lambda device: pytest.fail("few clips fit anyway")
    )
    assert model.stream(1, num_frames=16).batch == batches[0]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 6])
def test_repetitions_are_rows_of_the_same_clips(batch, static):
    model, video = tiny_model(), tiny_video(2, 3)
    caps, sampling = torch.randint(1, 21, (6, 3)), Sampling(1.0, row_seeds=tuple(range(6)))
    whole = model.generate(video.repeat(3, 1, 1, 1, 1), caps=caps, sampling=sampling).to_gaze()
    model.static_shapes = static
    stream = model.stream(2, num_frames=3, repetitions=3)
    stream.batch = batch
    parts = [
        model.generate(frame, caps=caps[:, t : t + 1], sampling=sampling, stream=stream).to_gaze()
        for t, frame in enumerate(video.split(1, 1))
    ]
    assert len(stream.states) == -(-6 // batch)
    assert same(Gaze.cat_frames(parts), whole)
    assert not same(whole[0], whole[2]), "repetitions are sampled one by one"


def test_a_clip_is_seen_once_for_all_its_rows(monkeypatch):
    model, video = tiny_model(), tiny_video(2, 3)
    gaze_model = model.gazing_model
    seen, see = [], gaze_model.vision_tokens
    monkeypatch.setattr(
        gaze_model, "vision_tokens", lambda clips, *_: seen.append(len(clips)) or see(clips)
    )
    model.generate(video, caps=[2, 2, 2], repetitions=4)
    assert seen == [2]
