"""Transformer blocks under packed attention, whatever of it their own calls have a way for."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.vision_encoders.attention import CheckpointedUnderLayout, attending_under, registered
from autogaze.vision_encoders.layout import TokenLayout

Tokens = Float[Tensor, "*one N C"]


def run_block(block: nn.Module, tokens: Tokens, layout: TokenLayout) -> Tokens:
    """A block's output, with a layout as its mask.

    Some blocks take a mask as their second argument. Others, among them ViT's and DINOv2's in many
    versions of transformers, take none, since their models have none: their attention is told of the layout.

    Raises:
        EncoderError: such a block computes its attention by itself.
    """
    if takes_mask(block):
        return _tokens_of(block(tokens, layout))
    if block.training and torch.is_grad_enabled():
        _checkpoint_under_layout(block)
    with attending_under(layout, block):
        return _tokens_of(block(tokens))


def _checkpoint_under_layout(block: nn.Module) -> None:
    """Gradient checkpointing in a block, or in what it wraps, runs again under the layout of the first run."""
    for module in block.modules():
        checkpoint = module.__dict__.get("_gradient_checkpointing_func")
        if checkpoint is not None and not isinstance(checkpoint, CheckpointedUnderLayout):
            module._gradient_checkpointing_func = CheckpointedUnderLayout(checkpoint)  # type: ignore[assignment]


def takes_mask(block: nn.Module) -> bool:
    """Whether a block takes a second argument by position, which is its mask."""
    forward = type(block).forward
    if forward not in _TAKES_MASK:
        kinds = [each.kind for each in inspect.signature(forward).parameters.values()][1:]
        if inspect.Parameter.VAR_POSITIONAL in kinds:  # a wrapper, which hands them all on
            inner = list(block.children())
            return len(inner) != 1 or takes_mask(inner[0])
        by_position = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        _TAKES_MASK[forward] = sum(kind in by_position for kind in kinds) > 1
    return _TAKES_MASK[forward]


_TAKES_MASK: dict[Any, bool] = {}
"""By the function `forward` of blocks. Reading its signature takes as long as a small block."""


def _tokens_of(out: Any) -> Tokens:
    return out[0] if isinstance(out, tuple) else out  # transformers 4 returns tuples


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
                config._attn_implementation = registered()
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
