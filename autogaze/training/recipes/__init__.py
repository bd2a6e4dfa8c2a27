"""Recipes: where an algorithm's gazes come from, and what it makes of them.

A new algorithm is a file here, an entry in `RECIPES` and a config in `configs/algorithm`.
"""

from autogaze.training.recipes.base import Recipe
from autogaze.training.recipes.dummy import DummyRecipe
from autogaze.training.recipes.grpo import GRPORecipe
from autogaze.training.recipes.ntp import NTPRecipe

RECIPES: dict[str, type[Recipe]] = {"ntp": NTPRecipe, "grpo": GRPORecipe, "dummy": DummyRecipe}
"""What `algorithm.name` can be."""

__all__ = ["RECIPES", "Recipe"]
