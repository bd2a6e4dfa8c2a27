"""Scoring: independent of padding and batch, and equal to what decoding saw."""

import pytest
import torch

from autogaze.models.autogaze import modeling
from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.scoring import score
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video


def test_scoring_an_output_is_one_pass(monkeypatch):
    """Its own scores, which nobody has read, are not computed."""
    model, video, passes = tiny_model(), tiny_video(2, 2), []

    def counted(*arguments):
        passes.append(1)
        return score(*arguments)

    monkeypatch.setattr(modeling, "score", counted)
    output = model({"video": video}, gazing_ratio=0.3)
    scores = model.score(video, output)
    assert len(passes) == 1
    assert scores.log_probs.equal(output["log_action_probs"])
    assert len(passes) == 2


def test_padding_and_batch_change_no_score():
    model, video = tiny_model(), tiny_video(3, 3)
    threshold = threshold_of(model, video)
    together = model({"video": video}, task_loss_requirement=threshold)
    counts = together.gaze.lengths.tolist()
    assert len(set(map(tuple, counts))) > 1, "the rows must differ for this test to say anything"
    for row in range(3):
        alone = model({"video": video[row : row + 1]}, task_loss_requirement=threshold)
        for key in ("log_action_probs", "task_loss_prediction"):
            ours = together[key][row][~together["if_padded_gazing"][row]]
            torch.testing.assert_close(ours, alone[key][~alone["if_padded_gazing"]])


@pytest.mark.parametrize("threshold", [None, "median"])
def test_scoring_sees_the_states_that_sequential_decoding_proposed_from(threshold, monkeypatch):
    model, video = tiny_model(decode_positions="sequential"), tiny_video(1, 3)
    if threshold is not None:
        threshold = threshold_of(model, video)
    seen, heads = [], FusedDecoder.heads

    def recorded(self, hidden):
        seen.append(hidden)
        return heads(self, hidden)

    monkeypatch.setattr(FusedDecoder, "heads", recorded)
    generation = model.generate(video, caps=[9, 14, 3], threshold=threshold)
    decoded = torch.cat(seen)
    seen.clear()
    loss_head = model.gazing_model.gaze_decoder.task_loss_prediction_head
    loss_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.score(video, generation)
    # Scoring also reads states that nothing is proposed from: losses after a frame's last gaze.
    nearest = (decoded[:, None] - seen[0].detach()).abs().amax(-1).amin(1)
    assert float(nearest.max()) < 1e-4
