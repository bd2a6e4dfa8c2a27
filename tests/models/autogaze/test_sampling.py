"""Sampling a block of patches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.models.autogaze.sampling import FrameSampling, Sampling, sample_block
from tests.gazes import same
from tests.models.autogaze.tiny import tiny_model, tiny_video

FEW = settings(max_examples=8, deadline=None)


def test_sampling_follows_its_generator():
    model, video = tiny_model(), tiny_video(1, 2)

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate(video, caps=[8, 8], sampling=Sampling(3.0, generator)).to_gaze()

    assert same(sample(1), sample(1))
    assert not same(sample(1), sample(2))
    cold = model.generate(video, caps=[8, 8], sampling=Sampling(1e-4)).to_gaze()
    assert same(cold, model.generate(video, caps=[8, 8]).to_gaze())


def test_sampling_has_the_probabilities_of_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, 5.0]).expand(20000, 1, 4).clone()
    taken = torch.zeros(20000, 4, dtype=torch.bool)
    taken[:, 3] = True
    generator = torch.Generator().manual_seed(0)
    ids = sample_block(logits, taken, FrameSampling(2.0, generator))
    share = torch.bincount(ids[:, 0], minlength=4) / 20000
    expected = (torch.tensor([0.0, 1.0, 2.0]) / 2).softmax(0)
    torch.testing.assert_close(share[:3], expected, atol=0.015, rtol=0)
    assert share[3] == 0


@given(st.integers(0, 1000))
@FEW
def test_heads_sample_in_turn(seed):
    """The quick way through distinct heads gives what sampling one by one gives."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 6, generator=generator).round()  # ties and conflicts
    taken = torch.rand(3, 6, generator=generator) < 0.2
    taken[:, :4] = False
    expected, seen = [], taken.clone()
    for head in range(4):
        best = logits[:, head].masked_fill(seen, float("-inf")).argmax(-1)
        seen[torch.arange(3), best] = True
        expected.append(best)
    updated = taken.clone()
    assert sample_block(logits, updated, FrameSampling()).equal(torch.stack(expected, 1))
    assert updated.equal(seen)


def test_sampling_up_to_the_last_patch():
    """Where heads outnumber the patches that are left."""
    video = tiny_video(1, 1)
    for static in (False, True):
        model = tiny_model(K=3)
        model.static_shapes = static
        generator = torch.Generator().manual_seed(0)
        gaze = model.generate(video, sampling=Sampling(1.0, generator)).to_gaze()
        assert gaze.ids.sort().values.tolist() == list(range(20))


def test_inhibition_does_not_depend_on_the_temperature():
    """Of two patches equally likely, the one with weight w comes w / (1 + w) of the time."""
    logits, weights = torch.zeros(4000, 1, 2), torch.tensor([[0.0, math.log(0.25)]])
    for temperature in (0.5, 1.0, 2.0):
        generator = torch.Generator().manual_seed(0)
        sampling = FrameSampling(temperature, generator, log_weights=weights.expand(4000, 2))
        ids = sample_block(logits, torch.zeros(4000, 2, dtype=torch.bool), sampling)
        assert float(ids.float().mean()) == pytest.approx(0.2, abs=0.02)
