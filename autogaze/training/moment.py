"""When something is drawn: all random numbers of training follow from it."""

from dataclasses import dataclass

import torch

from autogaze.datasets.seeds import seeded


@dataclass(frozen=True)
class Moment:
    """A step of training, or of validation.

    Attributes:
        seed: of the training.
        step: from 0; validation has the same draws whenever it is made.
        temperature: at which gazes are sampled.
        training: else this is validation.
    """

    seed: int
    step: int
    temperature: float = 1.0
    training: bool = True

    def generator(self, purpose: str, *parts: int) -> torch.Generator:
        """Randomness for one purpose and, as `parts`, one clip of the batch, one row of it."""
        phase = ("train", self.step) if self.training else ("val",)
        return seeded(purpose, self.seed, *phase, *parts)

    def seed_of(self, purpose: str, *parts: int) -> int:
        """The same as a number."""
        return self.generator(purpose, *parts).initial_seed()
