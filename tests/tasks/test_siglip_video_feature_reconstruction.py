"""Dense features predicted from gazed ones."""

import pytest
import torch
from torch.nn import functional as F

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.tasks.siglip_video_feature_reconstruction import SiglipVideoFeatureReconstruction
from tests.tasks.material import some_clips, some_gaze, tiny_siglip

SCALES = "16+32"
DECODER = {"width": 32, "num_layers": 2, "num_heads": 2, "max_num_frames": 5}


def task(**options):
    torch.manual_seed(0)
    options = {"decoder": DECODER, **options}
    return SiglipVideoFeatureReconstruction(tiny_siglip(2), SCALES, **options)


def gaze_for(scorer, seed=0, **options):
    return some_gaze(scorer.pyramid, seed=seed, **options)


@torch.no_grad()
def test_targets_are_the_untouched_encoders_normalised_features():
    scorer, frames = task(), some_clips()
    features = tiny_siglip(2)(((frames - 0.5) / 0.5).flatten(0, 1)).last_hidden_state
    wanted = F.layer_norm(features, (64,)).unflatten(0, (2, 4))
    torch.testing.assert_close(
        scorer.dense(scorer.statistics.normalise(frames)), wanted, atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_losses_are_mean_squares():
    scorer, frames = task().eval(), some_clips()
    gaze = gaze_for(scorer)
    output = scorer(frames, gaze, [3, 1])
    pixels = scorer.statistics.normalise(frames)
    known = scorer.encoder(pixels, gaze).last_hidden_state
    made = scorer.decoder(known, gaze, [1, 3])
    wanted = (made - scorer.dense(pixels[:, [1, 3]])).square().mean((2, 3)).flip(1)
    torch.testing.assert_close(output.losses, wanted, atol=1e-5, rtol=1e-4)
    assert output.frames == (3, 1)


@torch.no_grad()
def test_larger_frames_than_the_encoder_was_made_for():
    scorer = SiglipVideoFeatureReconstruction(tiny_siglip(2), "24+48", decoder=DECODER).eval()
    output = scorer(some_clips(side=48), gaze_for(scorer), [0])
    assert output.losses.shape == (2, 1)


def test_gradients_reach_the_decoder_only():
    scorer = task().train()
    assert not scorer.encoder.training
    scorer(some_clips(), gaze_for(scorer), [0, 3]).loss.sum().backward()
    for name, parameter in scorer.named_parameters():
        if name.startswith("encoder."):
            assert parameter.grad is None
            assert not parameter.requires_grad
        else:
            assert parameter.grad.any(), name


def test_the_encoder_given_stays_as_it_is():
    encoder = tiny_siglip(2)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    scorer = SiglipVideoFeatureReconstruction(encoder, SCALES, decoder=DECODER)
    optimizer = torch.optim.SGD([p for p in scorer.parameters() if p.requires_grad], 0.1)
    scorer(some_clips(), gaze_for(scorer), [0]).loss.sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_it_learns_a_fixed_batch():
    scorer, frames = task(), some_clips()
    gaze = gaze_for(scorer)
    optimizer = torch.optim.Adam(scorer.decoder.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = scorer(frames, gaze, [0, 2]).loss.mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 0.9
    assert losses[-1] < 0.4 * losses[0]


@torch.no_grad()
def test_only_gazed_patches_of_seen_frames_matter():
    scorer, frames = task(attn_type="block_causal").eval(), some_clips()
    fine = Gaze.from_mask(scorer.pyramid, torch.arange(20).expand(2, 4, 20) == 4)

    def made(video):
        return scorer.decoder(
            scorer.encoder(scorer.statistics.normalise(video), fine).last_hidden_state, fine, [1]
        )

    unseen = frames.clone()
    unseen[..., 8:, 8:] = 0
    torch.testing.assert_close(made(unseen), made(frames))
    later = frames.clone()
    later[:, 2:] = 0
    torch.testing.assert_close(made(later), made(frames))
    earlier = frames.clone()
    earlier[:, 0] = 0
    assert (made(earlier) - made(frames)).abs().max() > 1e-4


@torch.no_grad()
def test_pictures_when_evaluated():
    scorer = task()
    gaze = gaze_for(scorer)
    assert scorer.train()(some_clips(), gaze, [0]).reconstruction is None
    state = torch.random.get_rng_state()
    shown = scorer.eval()(some_clips(), gaze, [1, 0]).reconstruction
    assert torch.equal(torch.random.get_rng_state(), state)
    assert shown.shape == (2, 2, 3, 32, 32)
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_bad_input():
    scorer = task()
    with pytest.raises(TrainingError, match=r"\b6\b.*\b5\b"):
        scorer(some_clips(frames=6), gaze_for(scorer, frames=6), [5])
    with pytest.raises(TrainingError, match=r"\b3\b.*\b32\b"):
        task(decoder={**DECODER, "num_heads": 3})


@torch.no_grad()
def test_losses_are_float32_in_half_precision():
    scorer, frames = task().eval(), some_clips()
    gaze = gaze_for(scorer)
    exact = scorer(frames, gaze, [0, 2]).losses
    with torch.autocast("cpu", torch.bfloat16):
        rough = scorer(frames, gaze, [0, 2]).losses
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)
