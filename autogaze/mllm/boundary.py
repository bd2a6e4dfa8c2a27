"""The boundary to a transformers text model: positions and deepstack features for one call.

transformers computes positions from a dense prompt. For the time of one call a forward pre-hook on
the text model replaces them by those of a compact prompt: at the prefill, in chunks of it, at every
decoding step, with or without a cache, for rows that beam search or sampling repeated.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autogaze.errors import MLLMError
from autogaze.mllm.prompt import CompactPrompt

_in_use: WeakSet[nn.Module] = WeakSet()
_lock = threading.Lock()


def text_model_positions(
    prompt: CompactPrompt,
) -> tuple[Int[Tensor, "P B L"], Int[Tensor, "P B"]]:
    """Position ids of a prompt as the text model takes them, and those of the next token.

    M-RoPE has a first row more, the plain index of the token, by which masks are made.
    """
    positions, following = prompt.position_ids, prompt.next_position
    if positions.shape[0] == 1:
        return positions, following[None]
    text = (prompt.attention_mask.cumsum(-1) - 1).clamp(min=0)
    following = following.expand(positions.shape[0], -1)
    return torch.cat([text[None], positions]), torch.cat([text[None, :, -1] + 1, following])


@contextmanager
def exclusively(text_model: nn.Module) -> Iterator[None]:
    """One gazed call of a model at a time: calls change what its modules do.

    Raises:
        MLLMError: the model is in use by another call, as from a second thread.
    """
    with _lock:
        if text_model in _in_use:
            raise MLLMError(
                "this model is answering another gazed prompt; one model takes one call at a time: "
                "batch the prompts, or load a second model"
            )
        _in_use.add(text_model)
    try:
        yield
    finally:
        with _lock:
            _in_use.discard(text_model)


@contextmanager
def compact_positions(
    text_model: nn.Module,
    prompt: CompactPrompt,
    deepstack: tuple[Float[Tensor, "K D"], ...] = (),
) -> Iterator[None]:
    """Run the text model on a compact prompt; its calls inside are those of this prompt.

    Inside `exclusively`.

    Args:
        text_model: takes `inputs_embeds` and `position_ids`.
        prompt: on the device of the embeddings.
        deepstack: per level, features that are added at the placeholders of a layer's output.
    """
    placement = _Placement(prompt, deepstack)
    hook = text_model.register_forward_pre_hook(placement.replace, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


class _Placement:
    """Arguments of the text model for any part of a prompt and of what is generated after it."""

    def __init__(self, prompt: CompactPrompt, deepstack: tuple[Float[Tensor, "K D"], ...]) -> None:
        self.prompt = prompt
        self.length = prompt.input_ids.shape[1]
        positions, following = text_model_positions(prompt)
        self.positions, self.following = positions, following
        self.deepstack = deepstack
        # Features stand row by row: where each row's begin.
        self.offsets = [0, *prompt.visual_mask.sum(1).cumsum(0).tolist()]

    def replace(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The forward pre-hook."""
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            raise MLLMError("a gazed prompt reaches the text model as inputs_embeds, got none")
        num_rows, length = embeds.shape[:2]
        batch = self.prompt.input_ids.shape[0]
        if num_rows % batch:
            raise MLLMError(f"{num_rows} rows at the text model for a prompt of {batch}")
        # transformers 5.24 calls the cache by its name, versions before it `past_key_values`.
        cache = kwargs.get("past_key_values")
        if cache is None:
            cache = kwargs.get("cache")
        start = 0 if cache is None else int(cache.get_seq_length())
        rows = torch.arange(num_rows, device=embeds.device) // (num_rows // batch)
        positions = self._positions(start, start + length)[:, rows]
        kwargs["position_ids"] = positions if len(positions) > 1 else positions[0]
        if self.deepstack:
            kwargs["visual_pos_masks"], kwargs["deepstack_visual_embeds"] = self._deepstack(
                start, start + length, rows
            )
        return args, kwargs

    def _positions(self, start: int, end: int) -> Int[Tensor, "P B n"]:
        """Positions of tokens [start, end) of the prompt and of what follows it."""
        steps = torch.arange(max(0, end - self.length), device=self.positions.device)
        generated = self.following[..., None] + steps
        whole = torch.cat([self.positions, generated], dim=-1)
        return whole[..., start:end]

    def _deepstack(
        self, start: int, end: int, rows: Int[Tensor, " R"]
    ) -> tuple[Tensor | None, list[Tensor] | None]:
        """The mask of placeholders among tokens [start, end) and their features."""
        mask = self.prompt.visual_mask
        part = mask[:, start:end]
        if not part.any():
            return None, None
        before = mask[:, :start].sum(1).tolist()
        counts = part.sum(1).tolist()
        index = torch.cat(
            [
                torch.arange(count) + self.offsets[row] + before[row]
                for row in rows.tolist()
                for count in [counts[row]]
            ]
        ).to(mask.device)
        padding = part.new_zeros(part.shape[0], end - start - part.shape[1])
        part = torch.cat([part, padding], dim=1)[rows]
        return part, [level[index] for level in self.deepstack]
