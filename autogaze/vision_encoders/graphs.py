"""Gazed calls of shapes that were seen before as CUDA graphs: one launch in place of hundreds.

A graph reads the addresses that it was recorded with. So frames and ids are copied to where they lay
then, positions are computed in the graph from the weights as they are, and all graphs are dropped when
weights have moved.
"""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.errors import EncoderError, first_line
from autogaze.utils.cuda_graphs import CudaGraphs, Operations, Recorder
from autogaze.utils.device import sent
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.encode import EncodingPlan, Features, encode_packed, encode_patches
from autogaze.vision_encoders.layout import KEPT_LAYOUTS
from autogaze.vision_encoders.packed import GazedSettings, PackedPatches, check_fit
from autogaze.vision_encoders.positions import PositionTables

MAX_GRAPHS = 8
"""Shapes that are kept at most; the one that was used longest ago is dropped."""


class EncoderGraphs:
    """Encodes as `encode_patches` does, by a graph for every kind of lengths, frames and options.

    Calls with gradients, in training mode and under autocast run as they are, and so do those of more
    batches than layouts are kept. Hooks on modules run while a graph is recorded only. Copies and
    pickles have no graphs.

    Attributes:
        recorder: records and counts graphs; made with the first one.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._weights: tuple[int, ...] = ()
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
            EncoderError: see there; or the model is on no CUDA GPU.
        """
        device = encoder.projection.weight.device
        if self.recorder is None:
            check_graphs(device)
        plan = None
        if not (torch.is_grad_enabled() or encoder.model.training or _autocast(device)):
            plan = EncodingPlan.of(encoder, gaze, settings, device)
        if plan is None or len(plan.batches) > KEPT_LAYOUTS // 2:
            return encode_patches(
                encoder, frames, gaze, settings, output_hidden_states=output_hidden_states
            )
        check_fit(encoder, frames, gaze, settings)
        frames, gaze = sent(frames, device), gaze.on(device)
        shape = tuple(frames.shape), frames.dtype, gaze.clips, gaze.pyramid
        key = (*shape, settings, output_hidden_states)
        with self._lock:
            weights = _addresses(encoder.model)
            if weights != self._weights:
                self._graphs.clear()
                self._weights = weights
            graph = self._graphs.get(key)
            if graph is None:
                if self.recorder is None:
                    self.recorder = CudaGraphs(device)
                graph = _Graph(encoder, frames, gaze, settings, plan, output_hidden_states)
                graph.record(self.recorder)
                if len(self._graphs) >= MAX_GRAPHS:
                    self._graphs.popitem(last=False)
                self._graphs[key] = graph
            self._graphs.move_to_end(key)
            return graph.replayed(frames, gaze)

    def clear(self) -> None:
        """Drop all graphs, and their memory."""
        with self._lock:
            self._graphs.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> "EncoderGraphs":
        return EncoderGraphs()

    def __reduce__(self) -> Any:
        return EncoderGraphs, ()


class _Graph:
    """One recorded call, with the memory of its inputs and outputs."""

    def __init__(
        self,
        encoder: EncoderAdapter,
        frames: Tensor,
        gaze: PackedPatches,
        settings: GazedSettings,
        plan: EncodingPlan,
        output_hidden_states: bool,
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():  # to be written in every mode
            self.frames, self.gaze = frames.clone(), gaze.copied()
        self._arguments = (encoder, self.frames, self.gaze, settings, plan)
        self._output_hidden_states = output_hidden_states
        self._features: Features | None = None
        self._replay: Operations | None = None

    def record(self, recorder: Recorder) -> None:
        """Run once as it is, which also sets up what is kept, and record that."""
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._replay = recorder.run_and_record(self._run)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            model = type(self._arguments[0].model).__name__
            raise EncoderError(
                f"a call of this {model} cannot be recorded as a CUDA graph, perhaps because it asks "
                f"the GPU for values ({first_line(error)}); leave graphs out"
            ) from error

    def _run(self) -> None:
        encoder, frames, gaze, settings, plan = self._arguments
        # Tables that are kept would be those of the weights as they are now.
        tables = PositionTables.computed(encoder, gaze.pyramid.grids)
        self._features = encode_packed(
            encoder,
            frames,
            gaze,
            settings,
            plan,
            tables,
            output_hidden_states=self._output_hidden_states,
        )

    def replayed(self, frames: Tensor, gaze: PackedPatches) -> Features:
        """The features of other pixels and ids; copies, since the next replay writes over them."""
        self.frames.copy_(frames)
        self.gaze.ids.copy_(gaze.ids)
        if self._replay is None or self._features is None:
            raise EncoderError("this graph was not recorded")
        self._replay()
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


def _addresses(model: nn.Module) -> tuple[int, ...]:
    """Where the weights and buffers lie.

    By modules' own tables, for every replay asks: `parameters()` names all of them, which takes a third
    of a millisecond for a SigLIP, as long as its layers.
    """
    found: list[int] = []
    modules: list[nn.Module | None] = [model]
    while modules:
        module = modules.pop()
        if module is not None:
            for tensors in (module._parameters, module._buffers):
                found += [tensor.data_ptr() for tensor in tensors.values() if tensor is not None]
            modules += module._modules.values()
    return tuple(found)
