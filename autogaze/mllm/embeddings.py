"""A gazed prompt as embeddings and positions, for servers that take these instead of pixels.

What a server must take to answer as the gazed model does: embeddings of text and kept units, the
position of every token, and, where the family has them, deepstack features. Many servers count
positions themselves and know no deepstack; `PromptEmbeddings.needs` says what is lost there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import GazedPrompt, VisualFeatures
from autogaze.mllm.gazed import GazedMLLM, embed_prompt, exclusively, text_model_positions
from autogaze.mllm.registry import adapter_of
from autogaze.vision_encoders.adapter import without_peft


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """A batch of gazed prompts, ready for a text model.

    Args:
        input_ids: (B, L) token ids, a placeholder for every kept unit.
        inputs_embeds: (B, L, D) embeddings of text, features of kept units.
        attention_mask: (B, L) 0 where a row is padded.
        position_ids: (P, B, L) as the text model takes them: P is 1, or 4 for M-RoPE, whose first
            row is the token's index among the real ones of its row and the others time, row and
            column.
        next_position: (P, B) positions of the first generated token; each step adds 1.
        visual_mask: (B, L) True at kept units.
        visuals: features of every video and image, in the order in which they begin in the batch.
    """

    input_ids: Int[Tensor, "B L"]
    inputs_embeds: Float[Tensor, "B L D"]
    attention_mask: Int[Tensor, "B L"]
    position_ids: Int[Tensor, "P B L"]
    next_position: Int[Tensor, "P B"]
    visual_mask: Bool[Tensor, "B L"]
    visuals: tuple[VisualFeatures, ...]

    @property
    def deepstack(self) -> tuple[Float[Tensor, "K D"], ...]:
        """Per level the features of all kept units; empty in families without."""
        levels = zip(*(visual.deepstack for visual in self.visuals), strict=True)
        return tuple(torch.cat(level) for level in levels)

    @property
    def needs(self) -> frozenset[str]:
        """What a server has to take besides embeddings to answer as the gazed model does.

        "positions": they are not 0, 1, 2, ... in every row. "deepstack": there are features for
        layers behind the first.
        """
        index = (self.attention_mask.cumsum(-1) - 1).clamp(min=0)
        real = self.attention_mask.bool()
        plain = torch.equal(self.position_ids[:, real], index.expand_as(self.position_ids)[:, real])
        found = {"positions": not plain, "deepstack": self.deepstack}
        return frozenset(name for name, is_needed in found.items() if is_needed)

    def text_model_inputs(self) -> dict[str, Any]:
        """Arguments of the stock model's text model, `forward(**inputs)`."""
        positions = self.position_ids
        inputs: dict[str, Any] = {
            "inputs_embeds": self.inputs_embeds,
            "attention_mask": self.attention_mask,
            "position_ids": positions if len(positions) > 1 else positions[0],
        }
        if self.deepstack:
            inputs["visual_pos_masks"] = self.visual_mask
            inputs["deepstack_visual_embeds"] = list(self.deepstack)
        return inputs

    def rows(self) -> list[Float[Tensor, "n D"]]:
        """Embeddings of every prompt without padding, as vLLM's `prompt_embeds`."""
        masks = self.attention_mask.bool()
        return [row[mask] for row, mask in zip(self.inputs_embeds, masks, strict=True)]


@torch.no_grad()
def prompt_embeddings(model: Any, inputs: GazedPrompt | Mapping[str, Any]) -> PromptEmbeddings:
    """Encode the kept units of prompts and write them into the prompts' embeddings.

    Args:
        model: a gazed model (`autogaze.gazed_mllm`), or an NVILA of `autogaze.mllm.nvila`. Only its
            vision encoder and its token embeddings are run.
        inputs: what the processor returns; of a gazed model also a `GazedPrompt`, as of `model.compact(...)`.

    Raises:
        MLLMError: no gazed model, no gazed prompt, or a context longer than the LLM's.
    """
    own = getattr(model, "prompt_embeddings", None)
    if own is not None and isinstance(inputs, Mapping):
        return own(**inputs)  # type: ignore[no-any-return]
    if not isinstance(without_peft(model), GazedMLLM):
        raise MLLMError(
            f"expected a gazed model, got {type(model).__name__}; make one with "
            "autogaze.gazed_mllm(model)"
        )
    gazed = inputs.get("gazed") if isinstance(inputs, Mapping) else inputs
    if not isinstance(gazed, GazedPrompt):
        raise MLLMError(
            f"expected what a GazedProcessor returns, or a GazedPrompt, got {type(inputs).__name__}"
            + (f" of {', '.join(map(str, inputs))}" if isinstance(inputs, Mapping) else "")
        )
    adapter = adapter_of(model)  # type: ignore[arg-type] # a model that has the mixin
    gazed = gazed.placed(adapter.rule(gazed.visuals))
    prompt = gazed.prompt
    adapter.check_length(gazed)
    with exclusively(adapter.text_model):
        visuals = tuple(adapter.encode_all([visual]) for visual in gazed.visuals)
    joined = [features.embeds for features in visuals] or [adapter.encode_all([]).embeds]
    embeds = embed_prompt(model, prompt, VisualFeatures(torch.cat(joined)))
    positions, following = text_model_positions(prompt)
    return PromptEmbeddings(
        input_ids=prompt.input_ids,
        inputs_embeds=embeds,
        attention_mask=prompt.attention_mask,
        position_ids=positions,
        next_position=following,
        visual_mask=prompt.visual_mask,
        visuals=tuple(_like(features, embeds) for features in visuals),
    )


def _like(features: VisualFeatures, embeds: Tensor) -> VisualFeatures:
    """Features on the device and in the precision of the embeddings."""
    levels = tuple(level.to(embeds) for level in features.deepstack)
    return replace(features, embeds=features.embeds.to(embeds), deepstack=levels)
