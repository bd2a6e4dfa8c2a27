"""Gazed calls of shapes that were seen before as CUDA graphs: one launch in place of hundreds.

A graph reads the addresses that it was recorded with. So gazed patches, which are cut before, and ids are
copied to where they lay then, positions are computed in the graph from the weights as they are, and all graphs are dropped when
weights have moved.

A graph sees no Python. Who asks for graphs says that nothing else decides what the model computes; who
does not must get what the call itself would give (`addresses_if_known`, `is_observed`, `choices`).
"""

import logging
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from autogaze.errors import EncoderError, first_line
from autogaze.utils.cuda_graphs import CudaGraphs, Operations, Recorder
from autogaze.utils.device import sent
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.attention import note_backends, recorded_backends
from autogaze.vision_encoders.encode import (
    EncodingPlan,
    Features,
    cut_packed,
    encode_packed,
    encode_patches,
)
from autogaze.vision_encoders.layout import KEPT_LAYOUTS
from autogaze.vision_encoders.packed import GazedSettings, PackedPatches, check_fit
from autogaze.vision_encoders.positions import PositionTables, ResizedByAxes

MAX_GRAPHS = 8
"""Shapes that are kept at most; the one that was used longest ago is dropped."""
MOST_VALUES = 6 * 2**20
"""Tokens times channels up to which calls are recorded unasked: 8192 tokens of a SigLIP2-base. With more
of them a GPU is busy for as long as the host, and graphs would keep much memory."""
ENOUGH = 8
"""Replays after which a recording, which takes as long as three calls, has paid."""

log = logging.getLogger(__name__)


class EncoderGraphs:
    """Encodes as `encode_patches` does, by a graph for every kind of lengths, frames and options.

    Calls with gradients, in training mode, under autocast and on other streams than the first run as they
    are, and so do those of more batches than layouts are kept. Hooks on modules run while a graph is
    recorded only. Copies and pickles have no graphs.

    Args:
        recorder: records and counts graphs; made with the first one.
        unasked: only calls of up to `MOST_VALUES` are recorded, of models that compute the same in every call
            (`addresses_if_known`), and on a GPU; whatever else happens, the call runs as it is. A kind
            of call is recorded where it comes twice in a row, or more often where recordings before were
            replayed fewer than `ENOUGH` times: twice as often with each of these.

    Attributes:
        patience: how often a kind of call must have come in a row, before it is recorded unasked.
    """

    def __init__(self, recorder: Recorder | None = None, *, unasked: bool = False) -> None:
        self.recorder, self.unasked = recorder, unasked
        self.patience = 1
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._weights: tuple[int, ...] = ()
        self._stream: Any = None
        self._last: tuple[Hashable, int] = (None, 0)
        self._failed = False
        self._lock = Lock()

    def encode_patches(
        self,
        encoder: EncoderAdapter,
        frames: Float[Tensor, "B T 3 H W"],
        gaze: PackedPatches,
        settings: GazedSettings,
        *,
        output_hidden_states: bool = False,
    ) -> Features:
        """`encode.encode_patches`, replayed where the same shapes were recorded.

        Raises:
            EncoderError: see there; or, where graphs were asked for, the model is on no CUDA GPU.
        """
        device = encoder.projection.weight.device
        if self.recorder is None and not self.unasked:
            check_graphs(device)
        found = None
        if not (torch.is_grad_enabled() or encoder.model.training or _autocast(device)):
            try:
                found = self._recorded(
                    encoder, frames, gaze, settings, device, output_hidden_states
                )
            except torch.OutOfMemoryError:
                if not self.unasked:
                    raise  # else as it is, where batches are halved
        if found is not None:
            return found
        return encode_patches(
            encoder, frames, gaze, settings, output_hidden_states=output_hidden_states
        )

    def _recorded(
        self,
        encoder: EncoderAdapter,
        frames: Float[Tensor, "B T 3 H W"],
        gaze: PackedPatches,
        settings: GazedSettings,
        device: torch.device,
        output_hidden_states: bool,
    ) -> Features | None:
        """Features by a graph; None where the call is to run as it is."""
        if self.unasked and not self._may_record(encoder, gaze, device):
            return None
        weights = addresses_if_known(encoder) if self.unasked else addresses(encoder.model)
        if weights is None:
            return None
        plan = EncodingPlan.of(encoder, gaze, settings, device)
        if len(plan.batches) > (1 if self.unasked else KEPT_LAYOUTS // 2):
            return None
        shape = tuple(frames.shape), frames.dtype, gaze.clips, gaze.pyramid, gaze.checked
        key = (*shape, settings, output_hidden_states, choices() if self.unasked else None)
        with self._lock:
            stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
            if self._graphs and stream != self._stream:  # its kernels could overtake the others'
                return None
            if weights != self._weights:
                self._graphs.clear()
                self._weights, self._last = weights, (None, 0)
            graph = self._graphs.get(key)
            if graph is None and self.unasked and not self._is_due(key):
                return None
            check_fit(encoder, frames, gaze, settings)
            frames, gaze = sent(frames, device), gaze.on(device)
            cut = list(cut_packed(encoder, frames, gaze, settings, plan))
            if graph is None:
                graph = _Graph(encoder, cut, gaze, plan, output_hidden_states)
                if not self._record(graph, device):
                    return None
                self._stream = stream
                self._keep(key, graph)
            self._graphs.move_to_end(key)
            return graph.replayed(cut, gaze)

    def _may_record(
        self, encoder: EncoderAdapter, gaze: PackedPatches, device: torch.device
    ) -> bool:
        """Whether a call is recorded unasked, if its kind comes again."""
        if self._failed or (device.type != "cuda" and self.recorder is None):
            return False
        num_tokens = gaze.offsets[-1] + encoder.num_prefix * gaze.lengths.numel()
        if not 0 < num_tokens * encoder.width <= MOST_VALUES:
            return False
        return not is_observed(device)

    def _is_due(self, key: Hashable) -> bool:
        """Whether a kind of call has come often enough to be recorded; counts this call."""
        last, times = self._last
        times = times + 1 if key == last else 0
        self._last = key, times
        return times >= self.patience

    def _record(self, graph: "_Graph", device: torch.device) -> bool:
        """Record a graph; False where that fails and nobody has asked for it."""
        recorder = self.recorder
        if recorder is None or (isinstance(recorder, CudaGraphs) and recorder.device != device):
            self.recorder = recorder = CudaGraphs(device)  # a model may move to another GPU
        try:
            graph.record(recorder)
        except (EncoderError, torch.OutOfMemoryError) as error:
            if not self.unasked:
                raise
            self._failed = True
            self._graphs.clear()
            log.warning("gazed calls are no longer recorded as CUDA graphs: %s", first_line(error))
            return False
        return True

    def _keep(self, key: Hashable, graph: "_Graph") -> None:
        """Keep a graph, in place of the one that was used longest ago where there are many."""
        if self.unasked and self._graphs:
            newest = self._graphs[next(reversed(self._graphs))]
            self.patience = 1 if newest.num_replayed >= ENOUGH else 2 * self.patience
        if len(self._graphs) >= MAX_GRAPHS:
            self._graphs.popitem(last=False)
        self._graphs[key] = graph

    def clear(self) -> None:
        """Drop all graphs, and their memory."""
        with self._lock:
            self._graphs.clear()
            self._failed = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "EncoderGraphs":
        return EncoderGraphs(unasked=self.unasked)

    def __reduce__(self) -> Any:
        return _without_graphs, (self.unasked,)


def _without_graphs(unasked: bool) -> EncoderGraphs:
    return EncoderGraphs(unasked=unasked)


class _Graph:
    """One recorded call, with the memory of its inputs and outputs."""

    def __init__(
        self,
        encoder: EncoderAdapter,
        patches: list[Tensor],
        gaze: PackedPatches,
        plan: EncodingPlan,
        output_hidden_states: bool,
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():  # to be written in every mode
            self.patches, self.gaze = [one.clone() for one in patches], gaze.copied()
        self._encoder, self._plan = encoder, plan
        self._output_hidden_states = output_hidden_states
        self._features: Features | None = None
        self._backends: set[str] = set()
        self.num_replayed = 0
        self._replay: Operations | None = None

    def record(self, recorder: Recorder) -> None:
        """Run once as it is, which also sets up what is kept, and record that."""
        try:
            with torch.inference_mode(False), torch.no_grad(), recorded_backends() as backends:
                self._replay = recorder.run_and_record(self._run)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            model = type(self._encoder.model).__name__
            raise EncoderError(
                f"a call of this {model} cannot be recorded as a CUDA graph, perhaps because it asks "
                f"the GPU for values ({first_line(error)}); leave graphs out"
            ) from error
        self._backends = backends

    def _run(self) -> None:
        # Tables that are kept would be those of the weights as they are now.
        with ResizedByAxes():
            tables = PositionTables.computed(self._encoder, self.gaze.pyramid.grids)
        self._features = encode_packed(
            self._encoder,
            self.patches,
            self.gaze,
            self._plan,
            tables,
            output_hidden_states=self._output_hidden_states,
        )

    def replayed(self, patches: list[Tensor], gaze: PackedPatches) -> Features:
        """The features of other pixels and ids; copies, since the next replay writes over them."""
        for kept, new in zip(self.patches, patches, strict=True):
            kept.copy_(new)
        self.gaze.ids.copy_(gaze.ids)
        if self._replay is None or self._features is None:
            raise EncoderError("this graph was not recorded")
        self._replay()
        self.num_replayed += 1
        note_backends(self._backends)
        found = self._features
        return Features(
            found.patches.clone(),
            None if found.prefix is None else found.prefix.clone(),
            None if found.pooled is None else found.pooled.clone(),
            [layer.clone() for layer in found.layers],
        )


def check_graphs(device: torch.device) -> None:
    """Raise `EncoderError` unless a device has CUDA graphs."""
    if device.type != "cuda":
        raise EncoderError(
            f"CUDA graphs need a CUDA GPU, and the model is on {device}; move it before, as "
            "gazed(model, device='cuda', graphs=True) does, or leave graphs out"
        )


def _autocast(device: torch.device) -> bool:
    available = torch.amp.is_autocast_available(device.type)
    return available and torch.is_autocast_enabled(device.type)


KNOWN = ("torch", "transformers", "autogaze")
"""Packages whose modules compute the same of the same weights in every call of evaluation mode. Others,
such as adapters that can be switched off, may go by attributes of their own."""

_PLAIN = (Tensor, nn.Parameter)


def addresses(model: nn.Module) -> tuple[int, ...]:
    """Where the modules, weights and buffers lie: others take their place elsewhere.

    By modules' own tables, for every replay asks: `parameters()` names all of them, which takes a third
    of a millisecond for a SigLIP, as long as its layers.
    """
    found: list[int] = []
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None:
            found.append(id(module))
            for tensors in (module._parameters, module._buffers):
                found += [tensor.data_ptr() for tensor in tensors.values() if tensor is not None]
            waiting += module._modules.values()
    return tuple(found)


def addresses_if_known(encoder: EncoderAdapter) -> tuple[int, ...] | None:
    """`addresses` of a model of whose computation weights and arguments alone decide; None of others.

    Those have hooks, modules in training mode, or modules of foreign packages. A module whose `forward` was replaced counts as
    foreign, and so do weights that are no plain tensors. One pass, for every call asks.
    """
    if global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks:
        return None
    if not _is_known(type(encoder).__module__):
        return None
    found: list[int] = []
    waiting: list[nn.Module | None] = [encoder.model]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:
            return None
        if own["training"]:  # alone, in a model of evaluation mode: it may drop out
            return None
        if not _is_known(type(module).__module__):
            return None
        found.append(id(module))
        for tensors in (own["_parameters"], own["_buffers"]):
            for tensor in tensors.values():
                if tensor is not None:
                    if type(tensor) not in _PLAIN:
                        return None
                    found.append(tensor.data_ptr())
        waiting += own["_modules"].values()
    return tuple(found)


@lru_cache(maxsize=512)
def _is_known(module: str) -> bool:
    """Whether the package that a class's module is in is one of `KNOWN`."""
    return module.partition(".")[0] in KNOWN


def is_observed(device: torch.device) -> bool:
    """Whether somebody sees single operators: a compiler, another recording, or a mode of PyTorch's.

    Also where weights that are computed of others are kept for a while, and not computed in the graph.
    """
    return bool(
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode_stack()
        or _get_current_function_mode_stack()
        or torch.jit.is_tracing()
        or parametrize._cache_enabled
        or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def choices() -> Hashable:
    """PyTorch's switches by which a kernel is chosen."""
    cuda = torch.backends.cuda
    # From PyTorch 2.9 on. The older names are errors there where this one was set.
    precision = getattr(cuda.matmul, "fp32_precision", None)
    return (
        precision == "tf32" if precision else torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        cuda.matmul.allow_bf16_reduced_precision_reduction,
        cuda.matmul.allow_fp16_reduced_precision_reduction,
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    )
