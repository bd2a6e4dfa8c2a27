"""What is sampled at a clip depends on its place in the batch, on nothing else."""

import pytest
import torch

from autogaze.errors import SelectorError
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.sampling import Sampling, sample_block
from autogaze.training.loader import StepContext
from autogaze.training.rollouts import at_last_gazes, group_caps, sample_groups
from tests.models.autogaze.tiny import tiny_model, tiny_video
from tests.training.tiny import SELF

CONTEXT = StepContext(seed=0, step=3, temperature=1.0)


def model(**changes):
    return tiny_model(decode_positions="sequential", **changes)


def self_sampling(low, high):
    changes = {key: dict(value) for key, value in SELF.items()}
    changes["task_loss_requirement_config"]["uniform"] = {
        "task_loss_requirement_min": low,
        "task_loss_requirement_max": high,
    }
    return model(**changes)


def test_row_seeds_sample_by_the_softmax():
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    sampling = Sampling(1.0, row_seeds=tuple(range(4000))).for_frame(0, slice(None), 4000)
    ids = sample_block(weights.log().expand(4000, 1, 4), torch.zeros(4000, 4).bool(), sampling)
    shares = torch.bincount(ids[:, 0], minlength=4) / 4000
    assert (shares - weights).abs().max() < 0.03


def test_a_row_is_sampled_alike_alone_and_in_any_batch():
    selector, video = model(), tiny_video(3, 3)
    caps, seeds = [5, 4, 6], (11, 12, 13)
    together = selector.generate(video, caps=caps, sampling=Sampling(1.0, row_seeds=seeds))
    for row in range(3):
        sampling = Sampling(1.0, row_seeds=seeds[row : row + 1])
        alone = selector.generate(video[row : row + 1], caps=caps, sampling=sampling)
        assert torch.equal(alone.to_gaze().ids, together.to_gaze()[row].ids)


def test_rows_that_stop_early_disturb_no_other():
    selector, video = model(), tiny_video(3, 4)
    seeds = (11, 12, 13)
    losses = selector.score(video, selector.generate(video, caps=[12] * 4)).predicted_losses
    threshold = float(losses.detach().median())
    sampling = Sampling(1.0, row_seeds=seeds)
    together = selector.generate(video, threshold=threshold, sampling=sampling).to_gaze()
    assert len(set(together.lengths.sum(1).tolist())) > 1, "the rows must differ in length"
    for row in range(3):
        sampling = Sampling(1.0, row_seeds=seeds[row : row + 1])
        one = video[row : row + 1]
        alone = selector.generate(one, threshold=threshold, sampling=sampling).to_gaze()
        assert torch.equal(alone.lengths[0], together.lengths[row])
        assert torch.equal(alone.ids, together[row].ids)


def test_small_micro_batches_sample_alike():
    selector, video = model(), tiny_video(3, 3)
    sampling = Sampling(1.0, row_seeds=(1, 2, 3))
    whole = selector.generate(video, caps=[5] * 3, sampling=sampling).to_gaze()
    selector.memory_budget = 1
    assert torch.equal(
        whole.ids, selector.generate(video, caps=[5] * 3, sampling=sampling).to_gaze().ids
    )


def test_each_row_needs_its_seed():
    with pytest.raises(SelectorError, match="2 row_seeds for 3"):
        model().generate(tiny_video(3, 1), sampling=Sampling(1.0, row_seeds=(1, 2)))


def test_groups_are_of_equal_length_and_group_major():
    selector = self_sampling(-0.5, 0.5)
    video, indices = tiny_video(3, 3), (4, 5, 6)
    rows = sample_groups(selector, video, indices, 4, CONTEXT)
    counts = rows.counts().unflatten(0, (4, 3))  # (G, B, T)
    assert (counts == counts[:1]).all()
    caps = group_caps(selector, video, indices, CONTEXT).tolist()
    assert counts[0].tolist() == caps
    assert len(set(map(tuple, caps))) > 1, (
        "clips must differ in length for this test to say anything"
    )
    gaze = rows.to_gaze()
    assert not torch.equal(gaze[0].ids, gaze[3].ids), "rows of a group are sampled one by one"


def test_the_ratio_caps_self_sampled_lengths():
    selector = self_sampling(-9.0, -8.0)  # a loss that is never reached
    caps = group_caps(selector, tiny_video(1, 3), (0,), CONTEXT)
    assert caps.tolist() == [[8, 8, 8]]  # 0.4 of 20 patches


def test_a_clip_is_sampled_alike_in_every_batch():
    selector = self_sampling(-0.5, 0.5)
    video = tiny_video(4, 3)
    whole = sample_groups(selector, video, (0, 1, 2, 3), 2, CONTEXT).to_gaze()
    part = sample_groups(selector, video[2:], (2, 3), 2, CONTEXT).to_gaze()
    for repetition in range(2):
        for clip in range(2):
            there = whole[repetition * 4 + 2 + clip]
            assert torch.equal(part[repetition * 2 + clip].ids, there.ids)


def test_losses_are_known_at_the_last_real_gaze_of_reconstructed_frames():
    kept = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
    rows = GazeRows(model().pyramid, torch.arange(5).repeat(2, 1), kept, (3, 2))
    losses, known = at_last_gazes(rows, (0, 1), torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    assert known.nonzero().tolist() == [[0, 1], [0, 3], [1, 2], [1, 4]]
    torch.testing.assert_close(losses[known], torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_scoring_gives_a_greedy_gaze_the_probability_it_was_decoded_with(monkeypatch):
    """With sequential decode positions, as training uses them."""
    from autogaze.models.autogaze import decoder, decoding

    selector, video = model(), tiny_video(1, 3)
    decoded = []

    def noting(logits, taken, sampling):
        ids = sample_block(logits, taken, sampling)
        decoded.append((logits.clone(), ids))
        return ids

    monkeypatch.setattr(decoding, "sample_block", noting)
    heads = decoder.FusedDecoder.heads
    every = []
    monkeypatch.setattr(
        decoder.FusedDecoder,
        "heads",
        lambda self, hidden: every.append(heads(self, hidden)) or every[-1],
    )
    generation = selector.generate(video, caps=[6, 9, 4])
    scored = selector.score(video, generation).log_probs[0]
    expected = []
    for (logits, _), (_, ids) in zip(every, decoded, strict=True):
        probs = logits[0].softmax(-1)  # among all V + 1 ids
        expected += [probs[head, id] for head, id in enumerate(ids[0].tolist())]
    torch.testing.assert_close(scored.exp(), torch.stack(expected), rtol=1e-3, atol=1e-6)
