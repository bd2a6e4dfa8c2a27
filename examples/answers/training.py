"""Training from nothing, in steps that a run can stop after and go on from bit for bit.

Every step asks all five questions of each of its clips in a random order, as one conversation, and
has the loss of the answers' words. In the first half of a run an auxiliary loss, of linear heads
that classify every kept unit, teaches the vision transformer, and half of the clips keep units that
show something first. The second half is random units and answers alone.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

import autogaze
from answers.choosing import NUM_UNITS, load_chooser, mapping_of
from answers.drawing import DIRECTIONS, TUBELETS, UNIT_KINDS, Clip, draw_clip, unit_labels
from answers.model import WORDS, encode
from answers.prompts import CLIP_GRID, gazed_prompt
from answers.questions import KINDS, QUESTIONS, right_answer
from autogaze.errors import TrainingError
from autogaze.mllm.units import KeptUnits
from autogaze.utils.files import replacing
from autogaze.utils.seeding import seeded

WEIGHT_DECAY, MAX_NORM, WARMUP = 0.05, 1.0, 1 / 14
FAVOUR = 0.05
"""Power of a uniform number that chooses a unit which shows something, while there is the auxiliary loss."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        steps: of the whole schedule.
        learning_rate: its peak, behind a linear warm-up of a fourteenth of the steps; a cosine, down to 0.
        units: kept per step, in all clips together.
        chooser: of these: "random", "dense" (all are kept), or one such as "greedy" and
            "greedy:scales".
        shares: least and largest share of a tubelet's units; its logarithm is uniform.
        auxiliary: part of the steps with the auxiliary loss; 0 without.
        auxiliary_shares: as `shares`, during these.
        min_clips: per step, however many units they keep.
        seed: of weights and steps.
    """

    steps: int = 1400
    learning_rate: float = 1.5e-3
    units: int = 2000
    chooser: str = "random"
    shares: tuple[float, float] = (0.1, 0.7)
    auxiliary: float = 0.5
    auxiliary_shares: tuple[float, float] = (0.05, 0.4)
    min_clips: int = 4
    seed: int = 0


class UnitHeads(nn.Module):
    """Linear heads on a unit's embedding: what it shows and which way that moves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shows = nn.Linear(width, len(UNIT_KINDS))
        self.moves = nn.Linear(width, 1 + len(DIRECTIONS))

    def loss(self, units: Float[Tensor, "N width"], labels: Int[Tensor, "N two"]) -> Tensor:
        """Cross-entropies; a class of n units in the batch weighs as the square root of n does."""
        total = units.new_zeros(())
        for head, wanted in zip((self.shows, self.moves), labels.T, strict=True):
            counts = torch.bincount(wanted[wanted >= 0], minlength=head.out_features)
            weight = counts.clamp(min=1).to(units.dtype).rsqrt()
            total = total + F.cross_entropy(head(units), wanted, weight, ignore_index=-1)
        return total


class Training:
    """A model in training: weights, optimizer and progress, resumed from `folder` if it has any.

    Args:
        model: is trained in place.
        recipe: must be the same when a run goes on.
        folder: of the state, `training.pt`.

    Raises:
        TrainingError: the folder holds a run of another recipe; an auxiliary loss of units of all scales.
    """

    def __init__(
        self, model: Qwen3VLForConditionalGeneration, recipe: Recipe, folder: Path
    ) -> None:
        self.model, self.recipe, self.folder = model, recipe, folder
        self.gazed = autogaze.gazed_mllm(project_linearly(model))
        self.chooser = None if recipe.chooser == "random" else load_chooser(recipe.chooser)
        if recipe.auxiliary and mapping_of(recipe.chooser) == "scales":
            raise TrainingError(
                f"units of all scales ({recipe.chooser}) have no labels for the auxiliary loss; train "
                "without (auxiliary 0), from a model that was trained with it"
            )
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.heads = UnitHeads(model.config.text_config.hidden_size).to(model.device)
        self.optimizer = torch.optim.AdamW(
            [*model.parameters(), *self.heads.parameters()],
            betas=(0.9, 0.98),
            weight_decay=WEIGHT_DECAY,
        )
        self.step, self.clips, self.seconds = 0, 0, 0.0
        if (folder / "training.pt").exists():
            state = torch.load(folder / "training.pt", model.device, weights_only=True)
            if state["recipe"] != repr(recipe):
                raise TrainingError(
                    f"{folder} holds a run of {state['recipe']}, asked for is {recipe}; go on with the "
                    "same options, or train in another folder"
                )
            model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.clips, self.seconds = state["step"], state["clips"], state["seconds"]

    def save(self) -> None:
        """Write the state, whole or not at all."""
        state = {
            "recipe": repr(self.recipe),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "clips": self.clips,
            "seconds": self.seconds,
        }
        with replacing(self.folder / "training.pt") as temporary:
            torch.save(state, temporary)

    def run(self) -> Iterator[dict[str, float]]:
        """Train to the end of the schedule; yields the losses of every step."""
        self.model.train()
        while self.step < self.recipe.steps:
            began = time.process_time()
            losses = self.descend()
            self.seconds += time.process_time() - began
            yield losses
        self.model.eval()

    def descend(self) -> dict[str, float]:
        """One step: draw clips, choose units, ask everything."""
        recipe, generator = self.recipe, seeded("answers", self.recipe.seed, self.step)
        done = self.step / recipe.steps
        auxiliary = max(0.0, 1 - done / recipe.auxiliary) if recipe.auxiliary else 0.0
        low, high = recipe.auxiliary_shares if auxiliary else recipe.shares
        share = low * (high / low) ** float(torch.rand((), generator=generator))
        share = 1.0 if recipe.chooser == "dense" else share
        kept = max(1, int(share * NUM_UNITS))
        count = max(recipe.min_clips, round(recipe.units / (TUBELETS * kept)))
        clips = [draw_clip("train", self.clips + number) for number in range(count)]
        labels = torch.stack([torch.stack(unit_labels(clip.facts)) for clip in clips]).flatten(3)
        if self.chooser is None:
            favoured = labels[:, 0] != 0 if auxiliary else None
            units = random_units(count, kept, generator, favoured)
        else:
            units = self.chooser.keep(clips, share)
        kinds = [KINDS[place] for place in torch.randperm(len(KINDS), generator=generator)]
        losses, embeds = conversation(self.gazed, clips, units, kinds)
        loss, found = losses.mean(), dict(zip(kinds, losses.tolist(), strict=True))
        if auxiliary:
            shown = [
                row[:, part.tubelet, part.ids] for row, part in zip(labels, units, strict=True)
            ]
            unit_loss = self.heads.loss(embeds, torch.cat(shown, dim=1).T.to(embeds.device))
            loss, found["units"] = loss + auxiliary * unit_loss, unit_loss.item()
        warm = min(1.0, (self.step + 1) / (WARMUP * recipe.steps))
        rate = recipe.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * done))
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.step, self.clips = self.step + 1, self.clips + count
        return found


def random_units(
    count: int,
    kept: int,
    generator: torch.Generator,
    favoured: Bool[Tensor, "B tubelets U"] | None = None,
) -> list[KeptUnits]:
    """As many random units of every tubelet; for half of the clips, favoured ones first."""
    keys = torch.rand(count, TUBELETS, NUM_UNITS, generator=generator)
    if favoured is not None:
        chosen = torch.rand(count, 1, 1, generator=generator) < 0.5
        keys = keys ** torch.where(chosen & favoured, FAVOUR, 1.0)
    ids = keys.topk(kept, dim=-1).indices.sort(dim=-1).values
    return [KeptUnits(CLIP_GRID, row.flatten(), (kept,) * TUBELETS) for row in ids]


def conversation(
    model: Any, clips: Sequence[Clip], kept: Sequence[KeptUnits], kinds: Sequence[str]
) -> tuple[Float[Tensor, " questions"], Float[Tensor, "units width"]]:
    """Ask questions of every clip, one after the other, each followed by its answer.

    Args:
        model: a gazed one.
        clips, kept: as many units as there are in all reach the model.
        kinds: of the questions, in their order.

    Returns:
        Mean cross-entropy of each question's answer over all words, and the embeddings of
        the units.
    """
    texts, columns = [], []
    for clip in clips:
        text: list[int] = []
        columns = []
        for kind in kinds:
            text += encode(QUESTIONS[kind])
            columns.append(len(text))
            text.append(WORDS[right_answer(kind, clip.facts)])
        texts.append(text)
    answers = torch.tensor(columns)
    wanted = torch.tensor(texts)[:, answers].to(model.device)
    prompt = gazed_prompt([clip.frames for clip in clips], kept, texts).to(model.device)
    caught: list[Tensor] = []
    merger = model.model.visual.merger
    hook = merger.register_forward_hook(lambda module, args, output: caught.append(output))
    try:
        logits = model(gazed=prompt).logits
    finally:
        hook.remove()
    logits = logits[:, answers - len(texts[0]) - 1]  # of the token before each answer
    each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return each.view_as(wanted).mean(0), torch.cat(caught)


def project_linearly(model: Qwen3VLForConditionalGeneration) -> Qwen3VLForConditionalGeneration:
    """Project patches by a matrix product of the same weights: on a CPU, half the convolution's time."""

    def forward(self: nn.Module, rows: Float[Tensor, "N pixels"]) -> Float[Tensor, "N width"]:
        return F.linear(rows, self.proj.weight.flatten(1), self.proj.bias)

    embed = model.model.visual.patch_embed
    embed.forward = MethodType(forward, embed)  # of this object alone, in copies of the model too
    return model
