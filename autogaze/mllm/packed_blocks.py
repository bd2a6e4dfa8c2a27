"""Blocks of a vision tower under packed attention, each switched for the time of its call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.vision_encoders import attention

Tokens = Float[Tensor, "*one N C"]


class PackedBlocks:
    """Runs the blocks of a tower, whose attention is packed attention meanwhile.

    With gradient checkpointing a block is run once more when gradients are computed, which is after
    the call of the model. So the switch belongs to the block's run, and not to the model's call.

    Args:
        tower: whose blocks are run.
    """

    def __init__(self, tower: nn.Module) -> None:
        configs = [getattr(module, "config", None) for module in tower.modules()]
        self._configs: list[Any] = list({id(c): c for c in configs if c is not None}.values())

    def run(self, block: nn.Module, call: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        """What `call` makes of tokens by calling `block`, checkpointed where the block is to be."""
        part: Any = block

        def once(tokens: Tokens) -> Tokens:
            with self._switched(part):
                return call(tokens)

        if part.training and torch.is_grad_enabled() and _is_checkpointed(part):
            return part._gradient_checkpointing_func(once, tokens)  # type: ignore[no-any-return]
        return once(tokens)

    @contextmanager
    def _switched(self, block: Any) -> Iterator[None]:
        """The tower's attention is packed, and the block does not checkpoint itself."""
        before = [config._attn_implementation for config in self._configs]
        checkpointed = _is_checkpointed(block)
        try:
            for config in self._configs:
                config._attn_implementation = attention.NAME
            if checkpointed:
                block.gradient_checkpointing = False
            yield
        finally:
            for config, implementation in zip(self._configs, before, strict=True):
                config._attn_implementation = implementation
            if checkpointed:
                block.gradient_checkpointing = True


def _is_checkpointed(block: Any) -> bool:
    return bool(getattr(block, "gradient_checkpointing", False))
