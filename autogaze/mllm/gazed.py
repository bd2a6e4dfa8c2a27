"""`autogaze.gazed_mllm(model)`: a transformers multimodal LLM that takes gazed prompts.

transformers computes positions from a dense prompt. For the time of one call a forward pre-hook on
the text model replaces them by those of the compact prompt: at the prefill, in chunks of it, at every
decoding step, with or without a cache, for rows that beam search or sampling repeated.
"""

import copy
import functools
import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autogaze.checks import describe_value
from autogaze.errors import MLLMError
from autogaze.mllm.adapter import GazedPrompt, VisualFeatures, VisualInput
from autogaze.mllm.checks import check_choice, check_kind, check_prompt
from autogaze.mllm.prompt import CompactPrompt, Kind, assemble, read_rows, side_of_padding
from autogaze.mllm.registry import adapter_of
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.utils.checkpoints import check_loaded
from autogaze.utils.hub import load_pretrained
from autogaze.vision_encoders.adapter import without_peft

Kept = Sequence[KeptUnits | None]


def gazed_mllm(model: nn.Module | str | Path, **options: Any) -> Any:
    """A multimodal LLM whose vision encoder and prompt pay for kept units only.

        model = autogaze.gazed_mllm(Qwen3VLForConditionalGeneration.from_pretrained(...))
        answer = model.generate(**processor(text=..., videos=...))  # a GazedProcessor

    The result is of the model's class and shares its modules and parameters; the model itself
    stays as it is. Besides the model's own inputs, which it takes as before, `forward` and
    `generate` take what a `GazedProcessor` makes, or a dense input with `kept=`, the units to
    keep of every video (see `GazedMLLM`).

    Args:
        model: a transformers model of a family in `list_mllms()`, or the folder or hub id of one. A
            `PeftModel` of one gives a `PeftModel` of the gazed one.
        options: of transformers' `from_pretrained`, for a folder or hub id.

    Raises:
        MLLMError: no adapter for this model.
        CheckpointError: no checkpoint there, one whose weights are missing, of other shapes, or in
            pickles, which are not read.
    """
    if isinstance(model, str | Path):
        model = _load(str(model), options)
    elif options:
        raise MLLMError(
            f"options of from_pretrained were given with a model: {', '.join(sorted(options))}"
        )
    check_kind(model, nn.Module, "a multimodal LLM")
    adapter_of(model)  # refuses a family without one
    if isinstance(inner := without_peft(model), GazedMLLM):
        return model
    if inner is not model:
        return _replaced(model, inner, gazed_mllm(inner))
    gazed = copy.copy(model)
    gazed.__class__ = gazed_class(type(model))  # type: ignore[arg-type]
    # What replaced the forward (accelerate's hooks, autocast) runs inside, where accelerate won't undo it.
    state = vars(gazed)
    if "forward" in state:
        state["_replaced_forward"] = state.pop("forward")
    for name in ("_hf_hook", "_old_forward", "_original_forward"):
        state.pop(name, None)
    return gazed


def _replaced(model: nn.Module, inner: nn.Module, by: nn.Module) -> nn.Module:
    """A model that wraps `by`, as this one wraps `inner`; all else is shared."""
    if model is inner:
        return by
    if "forward" in vars(model):
        raise MLLMError(
            f"the forward of this {type(model).__name__} was replaced, as mixed precision and hooks do, by "
            "one that calls the model as it is; gaze the model first, then wrap or prepare it"
        )
    name, part = next(child for child in model.named_children() if inner in child[1].modules())
    wrapper = copy.copy(model)
    wrapper._modules = {**model._modules, name: _replaced(part, inner, by)}
    return wrapper


def _load(source: str, options: dict[str, Any]) -> nn.Module:
    """The model of a folder or hub id, all of whose weights are there."""
    from transformers import AutoModelForImageTextToText

    # Wrong shapes are collected with what is missing and refused below.
    asked = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
    hint = "give the folder or hub id of a multimodal LLM with safetensors weights"
    loaded = load_pretrained(AutoModelForImageTextToText, source, hint, **asked)
    check_loaded(source, loaded[1])
    return loaded[0]  # type: ignore[no-any-return]


class GazedMLLM:
    """Mixin of gazed models: what it adds to `forward` and `generate` of the model's own class.

    Both take, besides all arguments of the model:

        gazed: a `GazedPrompt`, as a `GazedProcessor` makes it.
        kept: for a dense input (placeholders for every unit, pixels of every patch) the
            `KeptUnits` of its videos in reading order; None keeps a video whole.
        kept_images: likewise of its images, which are kept whole without it.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By the model's own class: the gazed one is made while a program runs, and has its name.
        kinds = type(self).__mro__
        model_class = kinds[kinds.index(GazedMLLM) + 1]
        if type(self) is not gazed_class(model_class):
            return super().__reduce_ex__(protocol)
        return _unfilled, (model_class,), self.__getstate__()

    def compact(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        kept: Kept | None = None,
        kept_images: Kept | None = None,
        padding_side: str = "left",
        **dense: Any,
    ) -> GazedPrompt:
        """A dense input without the units that are not kept.

        Args:
            input_ids: (B, L) with a placeholder for every unit.
            attention_mask: (B, L) 0 in padding.
            kept, kept_images: see the class.
            padding_side: "left" or "right".
            dense: what the model takes with it (`pixel_values_videos`, `video_grid_thw`, ...).

        Raises:
            MLLMError: kept units are of other grids than the input's, or too many or few.
        """
        check_prompt(input_ids, attention_mask)
        check_choice(padding_side, ("left", "right"), "padding_side")
        adapter = adapter_of(self)  # type: ignore[arg-type]
        dense = {"input_ids": input_ids, "attention_mask": attention_mask, **dense}
        found = adapter.dense(dense)
        chosen: dict[Kind, list[KeptUnits]] = {
            kind: _chosen(kind, [visual.grid for visual in found[kind]], given)
            for kind, given in (("video", kept), ("image", kept_images))  # type: ignore[misc]
            if kind in found
        }
        rows, order = read_rows(input_ids, attention_mask, adapter.placeholders, chosen)
        visuals = []
        for kind, number in order:
            one, units = found[kind][number], chosen[kind][number]
            pixels = adapter.cut(kind, one.pixels, units)
            visuals.append(VisualInput(kind, units, pixels, one.interval, one.size))
        prompt = assemble(
            rows,
            [visual.kept for visual in visuals],
            adapter.rule(visuals),
            pad_id=getattr(adapter.text_config, "pad_token_id", None) or 0,
            padding_side=padding_side,
        )
        return GazedPrompt(prompt, tuple(visuals)).to(input_ids.device)

    def _compacted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GazedPrompt | None:
        """The gazed prompt of a call, whose arguments are taken out of `kwargs`; None: dense."""
        if args and ("kept" in kwargs or "kept_images" in kwargs or "gazed" in kwargs):
            raise MLLMError("give a gazed model's arguments by their names")
        gazed = kwargs.pop("gazed", None)
        kept, kept_images = kwargs.pop("kept", None), kwargs.pop("kept_images", None)
        if gazed is not None:
            if kept is not None or kept_images is not None:
                raise MLLMError("give either a gazed prompt or kept units of a dense input")
            if not isinstance(gazed, GazedPrompt):
                raise MLLMError(f"expected a GazedPrompt, got {type(gazed).__name__}")
            ids = kwargs.get("input_ids")
            if ids is not None and not torch.equal(ids, gazed.prompt.input_ids.to(ids.device)):
                raise MLLMError(
                    "input_ids are not those of the gazed prompt, whose positions they would not have: "
                    "write the whole prompt before the processor is called"
                )
            return gazed.placed(adapter_of(self).rule(gazed.visuals))  # type: ignore[arg-type]
        if kept is None and kept_images is None:
            return None
        adapter = adapter_of(self)  # type: ignore[arg-type]
        dense = {name: kwargs.pop(name, None) for name in adapter.dense_inputs}
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is None:
            raise MLLMError("kept units need the dense prompt: give input_ids")
        check_prompt(ids, mask)
        side = "left" if mask is None else side_of_padding(mask)
        gazed = self.compact(
            ids, mask, kept=kept, kept_images=kept_images, padding_side=side, **dense
        )
        if kwargs.get("labels") is not None:
            mask = torch.ones_like(ids) if mask is None else mask
            kwargs["labels"] = gazed.prompt.gather(kwargs["labels"], mask, fill=-100)
        return gazed

    @contextmanager
    def _answering(
        self, gazed: GazedPrompt, kwargs: dict[str, Any], new_tokens: int = 0
    ) -> Iterator[None]:
        """Write a gazed prompt's embeddings into `kwargs`; calls inside have its positions."""
        for cache in (kwargs.get("past_key_values"), kwargs.get("cache")):
            if cache is not None and int(cache.get_seq_length()):
                raise MLLMError(
                    "a gazed prompt begins with an empty cache; give the whole conversation as one "
                    "prompt"
                )
        if kwargs.get("inputs_embeds") is not None:
            raise MLLMError("a gazed prompt is given as token ids, not as inputs_embeds")
        kwargs.pop("position_ids", None)
        adapter = adapter_of(self)  # type: ignore[arg-type]
        prompt = gazed.prompt
        adapter.check_length(gazed, new_tokens)
        with exclusively(adapter.text_model):
            features = adapter.encode_all(gazed.visuals)
            embeds = embed_prompt(self, prompt, features)
            kwargs["inputs_embeds"] = embeds
            kwargs["attention_mask"] = prompt.attention_mask
            deepstack = tuple(x.to(embeds.device, embeds.dtype) for x in features.deepstack)
            with compact_positions(adapter.text_model, prompt, deepstack):
                yield


def embed_prompt(
    model: Any, prompt: CompactPrompt, features: VisualFeatures
) -> Float[Tensor, "B L D"]:
    """Embeddings of a prompt, with the features of kept units at their placeholders."""
    count = int(prompt.visual_mask.sum())
    if count != len(features.embeds):
        raise MLLMError(
            f"the prompt has {count} placeholders, the vision encoder made {len(features.embeds)} "
            "features"
        )
    embeds = model.get_input_embeddings()(prompt.input_ids)
    rows = features.embeds.to(embeds.device, embeds.dtype)
    return embeds.masked_scatter(prompt.visual_mask[..., None].to(embeds.device), rows)


def _chosen(kind: str, grids: Sequence[UnitGrid], given: Kept | None) -> list[KeptUnits]:
    """Kept units of every visual of a kind; whole ones where none are given."""
    if given is None:
        given = [None] * len(grids)
    if not isinstance(given, list | tuple):
        raise MLLMError(
            f"kept units are given as a list, one KeptUnits or None per {kind}, got "
            f"{describe_value(given)}"
        )
    if len(given) != len(grids):
        raise MLLMError(f"kept units of {len(given)} {kind}s for an input of {len(grids)} {kind}s")
    chosen = []
    for number, (units, grid) in enumerate(zip(given, grids, strict=True)):
        units = KeptUnits.everything(grid) if units is None else units
        check_kind(units, KeptUnits, f"what is kept of {kind} {number}")
        if units.grid != grid:
            raise MLLMError(
                f"{kind} {number}: the kept units are of {units.grid}, the input is of {grid}"
            )
        chosen.append(units)
    return chosen


@functools.cache
def gazed_class(model_class: type) -> type:
    """The model's class, with `GazedMLLM` before it; of the same name, as checkpoints write it."""

    @functools.wraps(model_class.forward)  # type: ignore[attr-defined]
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = functools.partial(model_class.forward, self)  # type: ignore[attr-defined]
        own = vars(self).get("_replaced_forward", own)
        gazed = self._compacted(args, kwargs)
        if gazed is None:
            return own(*args, **kwargs)
        kwargs.pop("input_ids", None)
        with self._answering(gazed, kwargs):
            return own(**kwargs)

    # accelerate's unwrap_model would follow `__wrapped__` to the model's own forward.
    forward.__signature__ = inspect.signature(model_class.forward)  # type: ignore[attr-defined]
    del forward.__wrapped__

    @functools.wraps(model_class.generate)  # type: ignore[attr-defined]
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        gazed = self._compacted(args, kwargs)
        if gazed is None:
            return model_class.generate(self, *args, **kwargs)  # type: ignore[attr-defined]
        # With ids beside the embeddings generate returns prompt and answer, as for a dense prompt.
        kwargs["input_ids"] = gazed.prompt.input_ids
        with torch.no_grad(), self._answering(gazed, kwargs, _new_tokens(self, kwargs)):
            return model_class.generate(self, *args, **kwargs)  # type: ignore[attr-defined]

    named = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    members = {"forward": forward, "generate": generate, **named}
    return type(model_class.__name__, (GazedMLLM, model_class), members)


def _unfilled(model_class: type) -> Any:
    """A gazed model of a class, whose state is still to be set."""
    return object.__new__(gazed_class(model_class))


def _new_tokens(model: Any, kwargs: Mapping[str, Any]) -> int:
    """How many tokens a call of `generate` asks for, where it or the model's settings say so."""
    config = kwargs.get("generation_config") or model.generation_config
    length = kwargs["input_ids"].shape[1]
    given = {name: getattr(config, name, None) for name in ("max_new_tokens", "max_length")}
    for asked in (kwargs, given):
        new, whole = asked.get("max_new_tokens"), asked.get("max_length")
        if new is not None:
            return int(new)
        if whole is not None:
            return max(0, int(whole) - length)
    return 0


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
    """Run the text model on a compact prompt; its calls inside, and inside `exclusively`, are its own.

    `deepstack` holds, per level, features that are added at the placeholders of a layer's output.
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
