"""`autogaze.gazed(model)`: a transformers vision model that encodes gazed patches only."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from autogaze.clips import FramesLike
from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.utils.device import DTYPES, DeviceOptions
from autogaze.vision_encoders import blocks
from autogaze.vision_encoders.checkpoint import GAZED_OPTIONS, SETTINGS_KEY, Checkpoint
from autogaze.vision_encoders.encode import GazedOutput, encode
from autogaze.vision_encoders.graphs import EncoderGraphs, check_graphs
from autogaze.vision_encoders.layout import AttentionType
from autogaze.vision_encoders.packed import GazedSettings, other_scales, padded_pyramid
from autogaze.vision_encoders.positions import forget_positions
from autogaze.vision_encoders.registry import adapter_class


def gazed(
    model: nn.Module,
    *,
    scales: str | tuple[int, ...] | None = None,
    attn_type: AttentionType = "block_causal",
    backend: str = "auto",
    max_tokens: int = 16384,
    empty_frames: str = "error",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    graphs: bool | None = None,
) -> "GazedVisionModel":
    """A vision model that encodes gazed patches only; its cost grows with their number.

        features = autogaze.gazed(siglip)(frames, gaze)

    The model itself stays as it is. The gazed one shares its parameters (the same
    tensors: training one trains both), under the same names.

    Args:
        model: a transformers vision model of a family in `list_encoders()`.
        scales: the scales of its gazes, e.g. "32+64+112+224"; None accepts every gaze of
            its patch size.
        attn_type: which tokens a token sees: "block_causal" (its own and earlier frames
            of the clip, AutoGaze's default), "causal", "bidirectional", or
            "frame_independent" (its own frame: what an image model was trained for).
        backend: of attention: "grouped" (SDPA), "varlen" (`torch.nn.attention.varlen`), "flash"
            (FlashAttention's), "flex" (FlexAttention), or "auto", which suits device and gaze.
        max_tokens: clips are encoded together up to this many tokens, without gradients.
        empty_frames: frames without any patch are an "error", pooled as the frame before them
            ("hold"), or as zeros ("zero").
        device: where patches are encoded: "auto" (a CUDA GPU where there is one, else the CPU),
            "cpu", "cuda", "cuda:1" or "mps". The model itself is moved there, since they share
            parameters. None: where it is.
        dtype: precision of the model, also of the one given: "float32", "float16" or "bfloat16".
            None: its own.
        graphs: on a CUDA GPU, record a call without gradients as a CUDA graph, and replay it for
            later gazes with as many patches in every frame (see `graphs.EncoderGraphs`). None: small
            calls only, once their shapes have come twice in a row, and where nothing but weights and
            arguments can change what they compute. True: always, at once. False: never.

    Raises:
        EncoderError: no adapter for this model, an unknown option, or a backend that is not
            installed; in a call, one that cannot compute on the model's device or in its precision.
        AutoGazeError: no such device or precision here.
    """
    adapter = adapter_class(getattr(model, "config", None))(model)
    if backend == "auto" and adapter.config._attn_implementation == "flex_attention":
        backend = "flex"
    pyramid = None if scales is None else PatchPyramid.parse(scales, adapter.patch_size, crop=True)
    settings = GazedSettings(
        pyramid, attn_type, backend, max_tokens=max_tokens, empty_frames=empty_frames
    )
    if device is not None or dtype is not None:
        _move(model, adapter.projection.weight, device, dtype)
    return GazedVisionModel(model, settings, graphs=graphs)


class GazedVisionModel(nn.Module):
    """A transformers vision model that takes gazes; made by `gazed` or `from_pretrained`.

    Attributes:
        model: the transformers model, with its own parameters' names.
        settings: see `GazedSettings`.
        graphs: the calls that were recorded as CUDA graphs; None where they are not wanted, or the
            model has encoded nothing on a GPU so far.
        base_model_prefix: by which PEFT and transformers ask a wrapper for the model in it.
    """

    base_model_prefix = "model"

    def __init__(
        self, model: nn.Module, settings: GazedSettings, *, graphs: bool | None = None
    ) -> None:
        super().__init__()
        self.model = _with_gazed_attention(model)
        self.training = self.model.training
        self.settings = settings
        self._adapter = adapter_class(self.model.config)(self.model)
        if graphs:
            check_graphs(self.device)
        self.graphs = EncoderGraphs() if graphs else None
        self._unasked = graphs is None

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        return self._adapter.dtype

    @property
    def device(self) -> torch.device:
        return self._adapter.projection.weight.device

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels: what a gaze must be made with."""
        return self._adapter.patch_size

    def forward(
        self, frames: FramesLike, gaze: Gaze | dict[str, Any], *, output_hidden_states: bool = False
    ) -> GazedOutput:
        """Features of the gazed patches.

        Args:
            frames: (B, T, 3, S, S) floats, S the gaze's largest scale, in the model's
                normalisation; a tensor, an array or a list of frames
                (see `autogaze.clips.as_frames`). A GPU copies page-locked ones after this returns:
                do not write to them before features are there.
            gaze: the patches to encode; also the padded dict that AutoGaze returns.
            output_hidden_states: also the embeddings and every block's output.

        Raises:
            EncoderError: frames, gaze and model do not fit together.
        """
        gaze = as_gaze(gaze, self.patch_size, self.settings.pyramid)
        # Not by `self.device`: a module turns an adapter's AttributeError within into one of its own.
        device = self._adapter.projection.weight.device
        if device.type == "meta":
            raise EncoderError(
                "the weights of this model are not in memory (device 'meta'): load them, and keep the "
                "vision encoder where it is computed (no offloading)"
            )
        on_gpu = device.type == "cuda" and not torch.compiler.is_compiling()
        if self.graphs is None and self._unasked and on_gpu:
            self.graphs = EncoderGraphs(unasked=True)
        return encode(
            self._adapter,
            frames,
            gaze,
            self.settings,
            output_hidden_states=output_hidden_states,
            by=None if self.graphs is None else self.graphs.encode_patches,
        )

    def reset(self) -> None:
        """Drop what is kept of earlier calls: position tables, and recorded graphs with their memory.

        Needed on a GPU alone, after weights were written through `.data` (see `forget_positions`), or a
        number that a module keeps beside its weights was changed, such as the `eps` of a norm. All other
        changes are noticed.
        """
        forget_positions(self)
        if self.graphs is not None:
            self.graphs.clear()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self.graphs is not None:
            self.graphs.clear()
        return super()._apply(fn, recurse)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write the model as transformers does, and its gaze options with it.

        transformers loads the folder as the plain model, `from_pretrained` as this one.
        """
        if not hasattr(self.model, "save_pretrained"):
            raise EncoderError(
                f"{type(self.model).__name__} cannot be saved alone; save the model it is part of"
            )
        settings = self.settings
        kept = {
            "scales": "+".join(map(str, settings.pyramid.scales)) if settings.pyramid else None,
            "attn_type": settings.attn_type,
            "empty_frames": settings.empty_frames,
        }
        setattr(self.model.config, SETTINGS_KEY, kept)
        self.model.save_pretrained(folder, **options)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "GazedVisionModel":
        """Load a plain or a gazed model from a folder or the hub.

        Args:
            name: folder or hub id; of an image-text model the vision part is loaded.
            options: those of `gazed`, which override saved ones; the rest, and `dtype`, goes to
                transformers' `from_pretrained`.

        Raises:
            EncoderError: it cannot be loaded, or no adapter knows its family.
            AutoGazeError: no such device or precision here.
        """
        taken = (*GAZED_OPTIONS, "device", "graphs")
        chosen = {key: options.pop(key) for key in taken if key in options}
        if chosen.get("device") is not None:  # before weights are read
            DeviceOptions.parse(chosen["device"])
        checkpoint = Checkpoint.read(name, **options)
        return gazed(checkpoint.load(**options), **{**checkpoint.saved, **chosen})

    def extra_repr(self) -> str:
        pyramid = self.settings.pyramid
        seen = f"scales={pyramid}" if pyramid else f"patch_size={self.patch_size}"
        return f"{seen}, attn_type={self.settings.attn_type}"


def as_gaze(
    gaze: Gaze | dict[str, Any], patch_size: int, pyramid: PatchPyramid | None = None
) -> Gaze:
    """The gaze itself, or the one in the padded dict that AutoGaze returns.

    Raises:
        EncoderError: neither of the two, or a dict of other scales than `pyramid`.
    """
    if isinstance(gaze, Gaze):
        return gaze
    made = padded_pyramid(gaze, patch_size)
    if made is None:
        if pyramid is None:
            raise EncoderError(
                f"the padded gaze has no 'scales', only {sorted(gaze)}; "
                "give them by gazed(model, scales=...)"
            )
        return Gaze.from_padded(dict(gaze), pyramid)
    # Two pyramids of as many patches number them differently.
    if pyramid is not None and made != pyramid:
        raise other_scales(made, pyramid)
    return Gaze.from_padded(dict(gaze), made)


def _move(
    model: nn.Module,
    weight: torch.Tensor,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
) -> None:
    """Move a model, one of whose weights is given; None leaves its device or precision."""
    where = weight.device if device is None else device
    kept = weight.dtype if weight.dtype in DTYPES.values() else torch.float32
    wanted = DeviceOptions.parse(where, kept if dtype is None else dtype)
    model.to(wanted.device)
    if dtype is not None:
        model.to(wanted.dtype)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _with_gazed_attention(model: nn.Module) -> Any:
    """A copy of the modules with the same parameters and buffers, under gazed attention."""
    shared: dict[int, Any] = {
        id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]
    }
    for module in model.modules():
        # Tensors computed of parameters, as by pruning, and objects whose methods users hooked in.
        shared |= {
            id(each): each for each in vars(module).values() if isinstance(each, torch.Tensor)
        }
        shared |= {id(hook): hook for table in _HOOKS for hook in vars(module)[table].values()}
    # PEFT's layers note which adapters were merged into weights, which both models have.
    merged = [vars(module).get("merged_adapters") for module in model.modules()]
    shared |= {id(names): names for names in merged if isinstance(names, list)}
    copied = copy.deepcopy(model, shared)
    for module in copied.modules():
        if parametrize.is_parametrized(module):
            # A class of its own: PyTorch takes properties off it where parametrizations are removed.
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
        config = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = blocks.registered()
    return copied
