"""Position tables of a pyramid's patches, kept from call to call for as long as they hold.

Interpolating them takes some ten operators per scale, which on a GPU is as long as a block. What is
kept is used only while every weight that it was computed of is the same tensor with the same values.
CUDA graphs compute them anew; `ResizedByAxes` makes that fast.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from autogaze.errors import EncoderError
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders import patches
from autogaze.vision_encoders.adapter import EncoderAdapter, Rotary

MAX_KEPT = 8
"""Tables kept per model; those made first are dropped first."""


@dataclass(frozen=True, eq=False)
class PositionTables:
    """Positions of all V patches of a pyramid by id: embeddings, or rotary cosines and sines."""

    positions: Float[Tensor, "V C"] | None
    rotary: tuple[Float[Tensor, "V D"], Float[Tensor, "V D"]] | None

    @classmethod
    def of(cls, encoder: EncoderAdapter, pyramid: PatchPyramid) -> "PositionTables":
        """The tables of the pyramid's scales, one after another."""
        return cls.of_grids(encoder, pyramid.grids)

    @classmethod
    def of_grids(cls, encoder: EncoderAdapter, grids: Sequence[int]) -> "PositionTables":
        """The tables of square grids of these sides in patches, one after another.

        Kept for later calls, except in training, where they may be random, and where gradients
        flow through them.
        """
        model: nn.Module = encoder.model
        if model.training or torch.compiler.is_compiling():
            _KEPT.pop(model, None)
            return cls.computed(encoder, grids)
        kept = _KEPT.setdefault(model, {})
        key = _key(encoder, grids)
        known = kept.get(key)
        if known is not None and known.holds(model):
            return known.tables
        for stale in [key for key, one in kept.items() if not one.holds(model)]:
            del kept[stale]
        reads, gradients = _Reads(model), torch.is_grad_enabled()
        # Tensors made in inference mode could not be used outside of it, and leaving that mode
        # switches gradients on.
        with torch.inference_mode(False), torch.set_grad_enabled(gradients), reads:
            tables = cls.computed(encoder, grids)
        plain = all(type(one) is Tensor and not one.requires_grad for one in tables._tensors)
        if plain and (reads.are_known or encoder.reads_constants):
            if len(kept) >= MAX_KEPT:
                del kept[next(iter(kept))]
            kept[key] = _Kept(tables, tuple(_Source.of(*read) for read in reads.found.items()))
        return tables

    @classmethod
    def computed(cls, encoder: EncoderAdapter, grids: Sequence[int]) -> "PositionTables":
        """`of_grids`, of the weights as they are, and not kept.

        Raises:
            EncoderError: an adapter, as of LoRA, on the position table, past which it is read; or a
                buffer without values.
        """
        _check_adapters(encoder)
        _check_buffers(encoder.model)
        positions = [encoder.positions(grid) for grid in grids]
        embedded = [table for table in positions if table is not None]
        rotated = [tables for tables in _rotary(encoder, grids) if tables is not None]
        rotary = tuple(torch.cat(parts) for parts in zip(*rotated, strict=True)) or None
        return cls(torch.cat(embedded) if embedded else None, rotary)  # type: ignore[arg-type]

    @property
    def _tensors(self) -> Iterator[Tensor]:
        if self.positions is not None:
            yield self.positions
        yield from self.rotary or ()


def _check_buffers(model: nn.Module) -> None:
    """Raise EncoderError for a buffer that stayed on the meta device where weights have values.

    Once per model: it walks all modules.
    """
    if torch.compiler.is_compiling() or model in _CHECKED or next(model.parameters()).is_meta:
        return
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise EncoderError(
                f"{name} has no values (it is on the device 'meta'): no state dict has this buffer; "
                "make the model by from_pretrained, or not under torch.device('meta')"
            )
    _CHECKED.add(model)


_CHECKED: WeakSet[nn.Module] = WeakSet()
"""Models whose buffers have values."""


def _check_adapters(encoder: EncoderAdapter) -> None:
    embeddings = getattr(encoder.model, "embeddings", None)
    for name, part in () if embeddings is None else embeddings.named_modules():
        if not hasattr(part, "get_base_layer") or not isinstance(
            part.get_base_layer(), nn.Embedding
        ):
            continue
        # One that is switched off, too: tables that are kept would not change when it is on again.
        if not getattr(part, "merged", False):
            raise EncoderError(
                f"embeddings.{name} has an adapter ({type(part).__name__}), but positions of several "
                "scales are interpolated from its weight alone, and the adapter would have no effect: "
                f"leave {name!r} out of target_modules; modules_to_save=[{name!r}] trains the table itself"
            )


def _rotary(encoder: EncoderAdapter, grids: Sequence[int]) -> list[Rotary | None]:
    """Rotary positions of every grid; in training, from the same random numbers for all of them.

    DINOv3 jitters its positions in training, once per call. Scales show the same picture, so all
    of them are jittered alike, and the generators end where the untouched model leaves them.
    """
    if not encoder.model.training:
        return [encoder.rotary(grid) for grid in grids]
    device = encoder.projection.weight.device
    tables = []
    for grid in grids[:-1]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            tables.append(encoder.rotary(grid))
    return [*tables, encoder.rotary(grids[-1])]


@dataclass(frozen=True, eq=False)
class _Source:
    """A weight as it was when a table was computed of it.

    Attributes:
        name: in the model.
        memory: of the weight; held, so that no other weight comes to lie at its address.
        version: how often the weight had been written to.
        values: a copy on a CPU, where comparing costs little. It also shows what was written through
            `.data`, which PyTorch does not count.
    """

    name: str
    tensor: "ref[Tensor]"
    memory: Tensor
    version: int | None
    values: Tensor | None

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "_Source":
        with torch.inference_mode(False):
            memory = tensor.detach()
            values = memory.clone() if patches.may_wait(tensor.device) else None
        return cls(name, ref(tensor), memory, _version(tensor), values)

    def holds(self, model: nn.Module) -> bool:
        """Whether the model has this weight still, with these values, and no gradient is wanted."""
        owner, _, name = self.name.rpartition(".")
        try:
            found = getattr(model.get_submodule(owner), name)
        except AttributeError:
            return False
        if (
            not isinstance(found, Tensor)
            or found is not self.tensor()
            or (found.requires_grad and torch.is_grad_enabled())
        ):
            return False
        if (found.data_ptr(), _version(found)) != (self.memory.data_ptr(), self.version):
            return False
        if self.values is None or not patches.may_wait(found.device):
            return True
        return torch.equal(found, self.values)


def _version(tensor: Tensor) -> int | None:
    """How often the tensor was written to; None for those of inference mode, which do not count."""
    return None if tensor.is_inference() else tensor._version


@dataclass(frozen=True, eq=False)
class _Kept:
    """Tables, and all weights that they were computed of."""

    tables: PositionTables
    sources: tuple[_Source, ...]

    def holds(self, model: nn.Module) -> bool:
        return all(source.holds(model) for source in self.sources)


def forget_positions(model: nn.Module) -> None:
    """Drop the tables kept for a model and its parts: they are computed anew by the next call.

    For weights on a GPU that were written through `.data`, which neither an address nor a version
    tells of, and whose values cannot be compared without waiting.
    """
    for part in model.modules():
        _KEPT.pop(part, None)


_KEPT: "WeakKeyDictionary[nn.Module, dict[Hashable, _Kept]]" = WeakKeyDictionary()


def _key(encoder: EncoderAdapter, grids: Sequence[int]) -> Hashable:
    """What tables depend on besides weights: the rules, the grids, and the precision."""
    rules: tuple[Callable[..., object], ...] = (type(encoder).positions, type(encoder).rotary)
    device, dtype = encoder.projection.weight.device, encoder.dtype
    autocast = torch.amp.is_autocast_available(device.type)
    autocast = autocast and torch.is_autocast_enabled(device.type)
    cast_to = torch.get_autocast_dtype(device.type) if autocast else None
    return (*rules, tuple(grids), device, dtype, cast_to)


_SHAPES_ONLY = {"new_empty", "new_zeros", "new_ones", "new_full"}
_SHAPES_ONLY |= {"empty_like", "zeros_like", "ones_like", "full_like"}
"""Operators that read no values of their argument."""


class _Reads(TorchDispatchMode):
    """Collects the weights and buffers of a model whose values operators read.

    Attributes:
        found: them, by name.
        are_known: whether nothing else was read that had been there before.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in named}
        self._made: dict[int, Tensor] = {}  # held, so that no other tensor gets one's number
        self.found: dict[str, Tensor] = {}
        self.are_known = True

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        name = operator.name().removeprefix("aten::").partition(".")[0]
        tensors = [part for part in tree_iter((args, kwargs)) if isinstance(part, Tensor)]
        for tensor in tensors if name not in _SHAPES_ONLY else ():
            if (weight := self._names.get(id(tensor))) is not None:
                self.found[weight] = tensor
            elif id(tensor) not in self._made and name != "lift_fresh":  # which makes constants
                self.are_known = False
        result = operator(*args, **kwargs)
        self._made |= {id(part): part for part in tree_iter(result) if isinstance(part, Tensor)}
        return result


def resized_by_axes(
    pictures: Float[Tensor, "n C h w"], size: tuple[int, int]
) -> Float[Tensor, "n C H W"]:
    """`F.interpolate(..., mode="bicubic", align_corners=False)` of finite values, bit for bit.

    Along an axis whose size stays, all weights are 0 but one, which is 1. So channels can lie along it,
    and one channel is resized. PyTorch, too, resizes rows first, and on a GPU rounds half precision at
    the end only.
    """
    n, channels, height, width = pictures.shape
    new_height, new_width = size
    half = pictures.dtype in (torch.float16, torch.bfloat16)
    values = pictures.float() if half else pictures
    values = _resized(values.reshape(1, 1, -1, width), (n * channels * height, new_width))
    values = values.view(n * channels, height, new_width).transpose(0, 1).reshape(1, 1, height, -1)
    values = _resized(values, (new_height, n * channels * new_width))
    values = values.view(new_height, n, channels, new_width).permute(1, 2, 0, 3)
    # PyTorch's result lies as the pictures do.
    last = pictures.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    return values.to(pictures.dtype).contiguous(memory_format=order)


def _resized(picture: Float[Tensor, "1 1 h w"], size: tuple[int, int]) -> Float[Tensor, "1 1 H W"]:
    return F.interpolate(picture, size=size, mode="bicubic", align_corners=False)


class ResizedByAxes(TorchFunctionMode):
    """Context in which modules that resize to a size (bicubic) do it axis by axis.

    Half precision on a CPU is left as it is: there PyTorch rounds in between.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.interpolate and len(args) in (1, 2):
            options = dict(kwargs)
            size = args[1] if len(args) == 2 else options.pop("size", None)
            mode, corners = options.pop("mode", "nearest"), options.pop("align_corners", None)
            plain = not any(options.values())  # no scale factor, no antialiasing
            plain = plain and (args[0].is_cuda or args[0].dtype.itemsize > 2)
            if plain and mode == "bicubic" and not corners and isinstance(size, (tuple, list)):
                return resized_by_axes(args[0], (int(size[0]), int(size[1])))
        return function(*args, **kwargs)
