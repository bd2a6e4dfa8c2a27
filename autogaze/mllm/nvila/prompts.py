"""Prompts as token ids: one by one, and padded to a batch."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.checks import describe_value
from autogaze.errors import MLLMError


def tokenized(text: Any, tokenizer: Any) -> list[list[int]]:
    """Token ids of a prompt or a list of prompts.

    Raises:
        MLLMError: anything else, or a prompt without tokens.
    """
    prompts = [text] if isinstance(text, str) else text
    if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
        raise MLLMError(f"text must be a prompt or a list of prompts, got {describe_value(text)}")
    if not prompts:
        raise MLLMError("no prompts: got an empty list")
    tokens = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    empty = [number for number, prompt in enumerate(tokens) if not prompt]
    if empty:
        raise MLLMError(f"prompt {empty[0]} is empty")
    return tokens


def padded(
    prompts: list[list[int]], tokenizer: Any
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Ids padded on the left, and the attention mask."""
    longest = max(map(len, prompts))
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = tokenizer.eos_token_id or 0  # it is masked
    ids = torch.tensor([[padding] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask
