"""Transformer blocks under packed attention, whatever of it their own calls have a way for.

transformers lets attention functions be registered by name and passes each of them the layer's
mask. A gazed model runs under the name `autogaze`, and its mask is a `TokenLayout`: layers,
norms, LoRA adapters and checkpointing stay the model's own, and no dense mask exists.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.errors import EncoderError
from autogaze.vision_encoders.attention import packed_attention
from autogaze.vision_encoders.layout import TokenLayout

Tokens = Float[Tensor, "*one N C"]

NAME = "autogaze"
"""`config._attn_implementation` of a gazed model, once `registered` was called."""


def gazed_attention(
    module: nn.Module,
    query: Float[Tensor, "one H N D"],
    key: Float[Tensor, "one H N D"],
    value: Float[Tensor, "one H N D"],
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: TokenLayout | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "one N H D"], None]:
    """Attention function registered with transformers: packed under a layout, else dense SDPA.

    The layout comes as the mask, as `layout` through blocks that pass options on, or from
    `attending_under` around blocks that pass nothing on.
    """
    options.update(scaling=scaling, dropout=dropout)
    if isinstance(attention_mask, TokenLayout):
        layout = attention_mask
    elif (
        layout is None
        and attention_mask is None
        and (block_layout := _BLOCK_LAYOUT.get()) is not None
    ):
        layout = block_layout.layout
        block_layout.is_asked = True
    if layout is None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        dense: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return dense(module, query, key, value, attention_mask, **options)
    out = packed_attention(
        query[0], key[0], value[0], layout, scale=scaling, dropout=dropout, backend=layout.backend
    )
    return out[None], None


class _BlockLayout:
    """The layout of the block that is running."""

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout
        self.is_asked = False


_BLOCK_LAYOUT: ContextVar[_BlockLayout | None] = ContextVar("layout around a block", default=None)


@contextmanager
def attending_under(layout: TokenLayout, block: nn.Module) -> Iterator[None]:
    """Context in which attention that is given no mask is packed attention under a layout.

    Args:
        block: what is run in it.

    Raises:
        EncoderError: at the end, where the block has not called `gazed_attention`.
    """
    block_layout = _BlockLayout(layout)
    token = _BLOCK_LAYOUT.set(block_layout)
    try:
        yield
    finally:
        _BLOCK_LAYOUT.reset(token)
    if not block_layout.is_asked:  # each token would have seen whatever the block likes
        raise EncoderError(
            f"{type(block).__name__} takes no mask, and its attention was not computed by the function "
            f"that transformers knows as {NAME!r}; in the adapter of its family `run` has to call "
            "what hands attention a layout"
        )


class CheckpointedUnderLayout:
    """A block's function for gradient checkpointing, which takes the layout around it along.

    What is checkpointed runs again when gradients are computed: after `attending_under`, and on a GPU
    in another thread.

    Args:
        checkpoint: the function that transformers gave the block.
    """

    def __init__(self, checkpoint: Callable[..., Any]) -> None:
        self.checkpoint = checkpoint

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if (block_layout := _BLOCK_LAYOUT.get()) is not None:
            function = partial(_run_under, block_layout, function)
        return self.checkpoint(function, *args, **options)


def _run_under(
    block_layout: _BlockLayout, function: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    token = _BLOCK_LAYOUT.set(block_layout)
    try:
        return function(*args, **options)
    finally:
        _BLOCK_LAYOUT.reset(token)


@cache
def registered() -> str:
    """The name under which transformers finds `gazed_attention` from now on.

    Not registered at import: transformers' models take seconds to import, also where none is used.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, gazed_attention)
    return NAME


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


def checkpoints_reentrantly(block: nn.Module) -> bool:
    """Whether a block, or what it wraps, is checkpointed in the way whose input has to ask for gradients."""
    for module in block.modules():
        if module.training and getattr(module, "gradient_checkpointing", False):
            checkpoint: Any = getattr(module, "_gradient_checkpointing_func", None)
            if isinstance(checkpoint, CheckpointedUnderLayout):
                checkpoint = checkpoint.checkpoint
            options = getattr(checkpoint, "keywords", {})
            if options.get("use_reentrant", True) is not False:  # PyTorch's own default is True
                return True
    return False


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
