"""Adapters: the parts of a family of multimodal LLMs that gazed prompts use.

A subclass says where the text model is, which tokens are placeholders, how positions go, how a
dense input is cut, and how kept units are encoded, by calling the model's own modules.
`register_mllm` makes it known (see docs/mllm.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.mllm.prompt import (
    CompactPrompt,
    Context,
    Kind,
    Placeholder,
    PositionRule,
    Row,
    SequencePositions,
    assemble,
    sequence_lengths,
    side_of_padding,
)
from autogaze.mllm.units import KeptUnits, UnitGrid

IS_TRANSFORMERS_4 = int(transformers.__version__.split(".")[0]) < 5
"""Whether the library is of the last version but one, whose processors and positions differ."""


@dataclass(frozen=True, eq=False)
class VisualInput:
    """The kept units of one video or image, as a model's vision encoder takes them.

    Args:
        kind: what it is.
        kept: which units.
        pixels: normalised pixels of the patches of kept units, in the family's order.
        interval: seconds between tubelets; None where the family does not ask.
        size: (height, width) of an image before its preparation, where the family asks.
    """

    kind: Kind
    kept: KeptUnits
    pixels: Float[Tensor, "N *values"]
    interval: float | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class DenseVisual:
    """A video or image of a dense input.

    Args:
        grid: its units.
        pixels: of all of them, as the family's inputs have them.
        interval, size: as those of `VisualInput`.
    """

    grid: UnitGrid
    pixels: Float[Tensor, "N *values"]
    interval: float | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class VisualFeatures:
    """What the LLM sees of kept units.

    Args:
        embeds: (N, D) one row per placeholder.
        deepstack: per level (N, D), added after the LLM's first layers; empty in most families.
    """

    embeds: Float[Tensor, "N D"]
    deepstack: tuple[Float[Tensor, "N D"], ...] = ()


@dataclass(frozen=True, eq=False)
class GazedPrompt:
    """A batch of compact prompts, and the pixels of what is kept of their videos and images.

    Args:
        prompt: token ids, positions and masks.
        visuals: in the order in which they begin in the batch.
        rows: the text and blocks that the prompt was written from, where it was written without
            the model.
    """

    prompt: CompactPrompt
    visuals: tuple[VisualInput, ...]
    rows: tuple[Row, ...] = ()

    def placed(self, rule: PositionRule) -> "GazedPrompt":
        """The same at the positions of a model's own rule."""
        if not self.rows:
            return self
        mask = self.prompt.attention_mask
        kept = [visual.kept for visual in self.visuals]
        written = assemble(self.rows, kept, rule, padding_side=side_of_padding(mask)).to(
            mask.device
        )
        prompt = replace(
            self.prompt, position_ids=written.position_ids, next_position=written.next_position
        )
        return replace(self, prompt=prompt)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "GazedPrompt":
        """The same on another device, its pixels in another precision."""
        moved = [replace(visual, pixels=visual.pixels.to(device, dtype)) for visual in self.visuals]
        return GazedPrompt(self.prompt.to(device), tuple(moved), self.rows)


class MLLMAdapter:
    """Interface to the parts of one multimodal LLM.

    Args:
        model: the transformers model, `...ForConditionalGeneration`.
    """

    any_size: bool = True
    """Whether frames may be of other sizes, or only of one."""

    dense_inputs: tuple[str, ...] = ()
    """Names of the model's arguments that describe dense videos and images."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.config: Any = model.config

    @property
    def text_model(self) -> nn.Module:
        """The part that takes `inputs_embeds` and `position_ids`."""
        return self.model.model.language_model

    @property
    def text_config(self) -> Any:
        """Configuration of the LLM."""
        return self.config.get_text_config()

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """Tokens that stand for units."""
        raise NotImplementedError

    def rule(self, visuals: Sequence[VisualInput]) -> PositionRule:
        """Positions of the units of these visuals."""
        raise NotImplementedError

    def dense(self, inputs: Mapping[str, Any]) -> dict[Kind, list[DenseVisual]]:
        """The videos and images of a dense input, each in reading order.

        `inputs` are those of `dense_inputs`, `input_ids` and `attention_mask`.
        """
        raise NotImplementedError

    def cut(self, kind: Kind, pixels: Tensor, kept: KeptUnits) -> Float[Tensor, "N *values"]:
        """What `encode` takes as pixels of kept units, from those of a dense video or image."""
        raise NotImplementedError

    def encode(self, visual: VisualInput) -> VisualFeatures:
        """Features of kept units, and of the tokens that always follow them."""
        raise NotImplementedError

    def encode_all(self, visuals: Sequence[VisualInput]) -> VisualFeatures:
        """Features of several visuals, one after another."""
        if not visuals:  # a prompt of text only
            return VisualFeatures(torch.empty(0, self.text_config.hidden_size))
        parts = [self.encode(visual) for visual in visuals]
        levels = zip(*(part.deepstack for part in parts), strict=True)
        return VisualFeatures(
            torch.cat([part.embeds for part in parts]), tuple(map(torch.cat, levels))
        )

    def check_length(self, gazed: GazedPrompt, new_tokens: int = 0) -> None:
        """Raise `MLLMError` where a prompt, and what is to be generated, exceeds the LLM's context."""
        limit = getattr(self.text_config, "max_position_embeddings", None)
        if limit is None:
            return
        prompt, frames, per_frame = gazed.prompt, None, 1.0
        in_sequence = isinstance(self.rule(gazed.visuals), SequencePositions)
        if in_sequence and [visual.kind for visual in gazed.visuals] == ["video"]:
            grid = gazed.visuals[0].kept.grid
            frames, per_frame = grid.tubelets, float(grid.dense_units)
            if gazed.rows:
                per_frame = sequence_lengths(gazed.rows[0], grid)[1]
        Context(limit, new_tokens).check(
            int(prompt.next_position.max()),
            tokens=int(prompt.attention_mask.sum(1).max()),
            frames=frames,
            per_frame=per_frame,
            any_size=self.any_size,
        )
