"""GRPO's gradient is that of the mean reward of the policy that samples.

On a model so small that all its gazes can be listed: 5 patches, 3 of them gazed at, in two blocks.
"""

import json
from itertools import permutations

import pytest
import torch

from autogaze.algorithms.grpo import has_no_spread, reward_spread
from autogaze.errors import SelectorError, TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.scoring import score, taken_before
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.training.algorithms import GRPO
from autogaze.training.config import AlgorithmOptions
from autogaze.training.factory import build_model
from autogaze.training.logging import read_metrics
from autogaze.training.resuming import read_options
from autogaze.training.rollouts import BatchCounts, RolloutBatch
from autogaze.training.step import Objective
from tests.training.tiny import MODEL, tiny_trainer

TEMPERATURE = 0.6
GAZES = torch.tensor(list(permutations(range(5), 3)))  # (60, 3): all that can be sampled
REWARDS = torch.rand(60, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    options = {**MODEL, "scales": "16+32"}
    decoder = options["gaze_model_config"]["gaze_decoder_config"]
    decoder = {**decoder, "num_multi_token_pred": 2, "initializer_range": 0.3}
    parts = {**options["gaze_model_config"], "gaze_decoder_config": decoder}
    return build_model({**options, "gaze_model_config": parts})


def frames(clips):
    generator = torch.Generator().manual_seed(3)
    one = torch.randint(256, (1, 1, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return one.expand(clips, -1, -1, -1, -1)


def rollouts(model, ids, clips, reward, temperature):
    rows = GazeRows(model.pyramid, ids, torch.ones_like(ids, dtype=torch.bool), (3,))
    return RolloutBatch(frames(clips), rows, (0,), reward=reward[:, None], temperature=temperature)


def objective(model, group_size, policy):
    options = AlgorithmOptions(
        "grpo", group_size, optimize_task_loss_prediction=False, policy=policy
    )
    task = CanvasReconstruction(model.pyramid)
    return Objective(model, task, GRPO(options), torch.device("cpu"))


def gradient(loss, model):
    """Of all weights that the choice of patches depends on, as one vector."""
    weights = [w for name, w in model.named_parameters() if "task_loss_prediction" not in name]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])


def log_probs(model, temperature=TEMPERATURE):
    """Of each of all gazes, (60, 3)."""
    batch = rollouts(model, GAZES, 1, REWARDS, None)
    tokens, _ = model.gazing_model.vision_tokens(normalise(batch.rgb))
    decoder, tokens = model.gazing_model.gaze_decoder, tokens.expand(60, -1, -1, -1)
    return score(decoder, tokens, batch.rows, temperature=temperature).log_probs


def of_mean_reward(model):
    """The gradient that is wanted, from the definition of the mean."""
    probabilities = log_probs(model).sum(1).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    return gradient((probabilities * REWARDS).sum(), model)


def of_grpo(model, policy):
    """The mean of GRPO's gradient over all groups of two, weighted by their probabilities.

    A mean over the group that holds the row itself leaves (G - 1) / G of the gradient.
    """
    first, second = torch.triu_indices(60, 60)  # a group's other order has the same gradient
    chosen = torch.cat([first, second])  # group-major
    temperature = TEMPERATURE if policy == "sampled" else None
    batch = rollouts(model, GAZES[chosen], len(first), REWARDS[chosen], temperature)
    values = objective(model, 2, policy).values(batch, BatchCounts.of([batch]))
    single = log_probs(model).sum(1).detach().exp()
    weights = (single[first] * single[second] * (1 + (first != second))).repeat(2)
    return -2 * gradient((weights * values.losses["loss"]).sum() / 2, model)


def test_gazes_are_sampled_with_the_probabilities_that_are_scored(model):
    count = 8000
    sampling = Sampling(TEMPERATURE, row_seeds=tuple(range(count)))
    video = normalise(rollouts(model, GAZES, 1, REWARDS, None).rgb)
    with torch.no_grad():
        made = model.generate(video, caps=[3], sampling=sampling, repetitions=count)
        expected = log_probs(model).sum(1).exp()
    codes = made.to_gaze().ids.view(count, 3) @ torch.tensor([25, 5, 1])
    found = (codes[:, None] == GAZES @ torch.tensor([25, 5, 1])).float().mean(0)
    assert found.sum().item() == pytest.approx(1)
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() < 4.5 * deviation + 1e-4).all()


@pytest.mark.slow
def test_the_expected_gradient_is_that_of_the_mean_reward(model):
    wanted = of_mean_reward(model)
    torch.testing.assert_close(of_grpo(model, "sampled"), wanted, rtol=1e-3, atol=1e-5)
    released = of_grpo(model, "as_released")
    assert torch.cosine_similarity(released, wanted, dim=0) < 0.98
    assert (released - wanted).norm() > 0.2 * wanted.norm()


def test_sampled_groups_estimate_it_as_reinforce_does(model):
    """Through the trainer's own path: groups as `generate` samples them."""
    clips, G = 1000, 4
    video = normalise(rollouts(model, GAZES, 1, REWARDS, None).rgb)
    sampling = Sampling(TEMPERATURE, row_seeds=tuple(range(clips * G)))
    with torch.no_grad():
        made = model.generate(video, caps=[3], sampling=sampling, repetitions=clips * G)
    ids = made.to_gaze().ids.view(-1, 3)
    place = torch.tensor([25, 5, 1])
    reward = REWARDS[((ids @ place)[:, None] == GAZES @ place).float().argmax(1)]
    batch = rollouts(model, ids, clips, reward, TEMPERATURE)
    loss = objective(model, G, "sampled").values(batch, BatchCounts.of([batch])).losses["loss"]
    estimated = -gradient(loss.mean(), model) * G / (G - 1)
    wanted = of_mean_reward(model)
    assert torch.cosine_similarity(estimated, wanted, dim=0) > 0.98
    assert estimated.norm().item() == pytest.approx(wanted.norm().item(), rel=0.1)


def test_entropy_is_that_of_the_distributions_drawn_from(model):
    batch = rollouts(model, GAZES, 60, REWARDS, TEMPERATURE)
    values = objective(model, 1, "sampled").values(batch, BatchCounts.of([batch]))
    chain = log_probs(model).detach()
    # By the chain rule the entropies of the three draws, each in the mean over its states, add up.
    probabilities = chain.sum(1).exp()
    whole = -(probabilities * chain.sum(1)).sum()
    total = (probabilities * values.metrics["entropy"]).sum() * 3  # a mean over three gazes
    torch.testing.assert_close(total, whole)


def test_padding_and_earlier_frames_are_not_taken():
    ids = torch.tensor([[3, 1, 3, 2, 3], [0, 0, 4, 4, 1]])
    kept = torch.tensor([[True, True, False, True, True], [True, False, True, False, True]])
    taken = taken_before(GazeRows(PatchPyramid((8, 16), 8), ids, kept, (3, 2)))
    found = [[row.nonzero().flatten().tolist() for row in each] for each in taken]
    assert found == [[[], [3], [1, 3], [], [2]], [[], [0], [0], [], []]]


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperatures_that_no_policy_has_are_refused(model, temperature):
    with pytest.raises(SelectorError, match=f"{temperature}"):
        log_probs(model, temperature)


def test_spread_of_rewards_within_groups():
    reward = torch.tensor([[1.0, 0.0], [0.5, 0.5], [3.0, 0.0], [0.5, 0.5]])  # two clips, G = 2
    assert reward_spread(reward, 2).tolist() == [0.5, 0.0, 0.5, 0.0]
    assert has_no_spread(reward, 2).tolist() == [0.0, 1.0, 0.0, 1.0]
    assert has_no_spread(reward, 1).tolist() == [1.0] * 4


def test_a_training_logs_them(tmp_path):
    tiny_trainer("grpo", tmp_path, max_steps=1).fit()
    (entry,) = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert entry["reward_spread"] > 0
    assert 0 <= entry["groups_without_spread"] < 1
    assert 0 < entry["entropy"] < torch.tensor(20.0).log()


def test_other_policies_are_refused():
    with pytest.raises(TrainingError, match=r"algorithm\.policy 'other'.*as_released, sampled"):
        AlgorithmOptions("grpo", policy="other")


@pytest.mark.parametrize(("name", "policy"), [("grpo", "as_released"), ("ntp", None)])
def test_a_checkpoint_without_the_option_was_trained_as_released(tmp_path, name, policy):
    options = {"algorithm": {"name": name}, "trainer": {"train_gaze": True}}
    (tmp_path / "options.json").write_text(json.dumps(options))
    assert read_options(tmp_path)["algorithm"].get("policy") == policy
