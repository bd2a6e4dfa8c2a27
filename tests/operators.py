"""Operators that a call launches, and how often it makes the host wait for the device.

On a GPU each operator is a kernel that the host launches, and what asks a tensor for its values
waits until all of them have run. Both can be counted on a CPU:

    python -m tests.operators

counts a frame of the learned selector's static path and a call of a gazed SigLIP.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

FREE = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view", "lift_fresh"}
"""Operators that launch nothing, besides views."""

WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
"""Operators that return numbers to the host, or tensors of a shape that it must be told."""

ONE_KERNEL = {F.rms_norm, F.layer_norm, F.scaled_dot_product_attention}
"""Functions that are one kernel on a GPU, whatever a CPU makes of them."""

READING = {Tensor.tolist, Tensor.numpy, Tensor.cpu}
"""Methods that copy to the host; a CPU only looks at its memory for them."""


class Operators:
    """Counts operators, and waits for tensors that a device would hold.

        with Operators(model, video) as counted:
            model(video)
        counted.launches, counted.waits

    A device would hold what is computed from the tensors and modules that are given here; other
    tensors are the host's own.

    Attributes:
        names: how often each operator was launched.
        waiting: how often each operator waited.
    """

    def __init__(self, *on_device: Any) -> None:
        self.names: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        for part in on_device:
            mark(part)
        self._modes = (_Functions(self), _Dispatched(self))
        self.paused = False

    @property
    def launches(self) -> int:
        return self.names.total()

    @property
    def waits(self) -> int:
        return self.waiting.total()

    def __enter__(self) -> "Operators":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class Copies(TorchDispatchMode):
    """Counts copies from the host to a device that holds no data (`meta`).

    What asks such a device for its values is an error, so a call that returns waits for nothing but
    for blocking copies. On a GPU these wait for all that was launched before them.

    Attributes:
        blocking, not_blocking: how many copies there were of each kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocking = self.not_blocking = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        tensors = [part for part in tree_iter((args, kwargs)) if isinstance(part, Tensor)]
        from_host = any(tensor.device.type == "cpu" and tensor.ndim for tensor in tensors)
        made = [part for part in tree_iter(result) if isinstance(part, Tensor)]
        if from_host and any(part.device.type == "meta" for part in made):
            copies = operator.name().startswith(("aten::_to_copy", "aten::to.", "aten::copy_"))
            if copies and (kwargs.get("non_blocking") or True in args[2:]):
                self.not_blocking += 1
            else:
                self.blocking += 1
        return result


def mark(part: Any) -> None:
    """Count tensors as a device's: one, those of a module, or those among an object's attributes."""
    if isinstance(part, nn.Module):
        for tensor in [*part.parameters(), *part.buffers()]:
            tensor.on_device = True  # type: ignore[attr-defined]
    elif isinstance(part, Tensor):
        part.on_device = True  # type: ignore[attr-defined]
    else:
        for value in vars(part).values():
            if isinstance(value, Tensor):
                mark(value)


def _is_marked(*parts: Any) -> bool:
    return any(
        isinstance(part, Tensor) and getattr(part, "on_device", False) for part in tree_iter(parts)
    )


class _Functions(TorchFunctionMode):
    """Sees whole functions of PyTorch, and reads that dispatch no operator on a CPU."""

    def __init__(self, counted: Operators) -> None:
        self.counted = counted

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, counted = kwargs or {}, self.counted
        if function in READING and _is_marked(args):
            counted.waiting[function.__name__] += 1
        if function not in ONE_KERNEL or counted.paused:
            return function(*args, **kwargs)
        counted.names[function.__name__] += 1
        counted.paused = True
        try:
            return function(*args, **kwargs)
        finally:
            counted.paused = False


class _Dispatched(TorchDispatchMode):
    """Sees every operator."""

    def __init__(self, counted: Operators) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, counted = kwargs or {}, self.counted
        name = operator.name().removeprefix("aten::").partition(".")[0]
        marked = _is_marked(args, kwargs)
        if not (counted.paused or operator.is_view or name in FREE):
            counted.names[name] += 1
        # Indexing by a mask makes a shape that the host must be told.
        by_mask = name in ("index", "index_put_", "index_put") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if marked and (name in WAITING or by_mask):
            counted.waiting[f"{name} by a mask" if by_mask else name] += 1
        result = operator(*args, **kwargs)
        if marked:
            for part in tree_iter(result):
                if isinstance(part, Tensor):
                    mark(part)
        return result


def count(call: Callable[[], object], *on_device: Any) -> Operators:
    """What a call launches and waits for."""
    with Operators(*on_device) as counted:
        call()
    return counted


def main() -> None:
    """Print what a frame and a clip of the learned selector take, and a call of a gazed SigLIP."""
    import autogaze
    from autogaze.models.autogaze import AutoGaze, AutoGazeConfig
    from autogaze.vision_encoders import patches
    from tests.vision_encoders.families import FAMILIES, random_gaze

    model, video = AutoGaze(AutoGazeConfig()).eval(), torch.randn(1, 16, 3, 224, 224)
    model.static_shapes = True
    caps = [26] * 16  # a tenth of the patches
    print("| what | operators | waits |\n|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        model, video = model.to(dtype), video.to(dtype)
        for threshold in (None, -1e9):
            select = partial(model.generate, video, caps=caps, threshold=threshold)
            select()  # what is recorded once
            counted = count(select, model, video)
            name = f"learned, {str(dtype).removeprefix('torch.')}, ratio 0.1"
            name += "" if threshold is None else " or a loss"
            weights = counted.waiting["equal"]
            print(f"| {name} | {counted.launches} | {counted.waits - weights} |", flush=True)
    family = FAMILIES["siglip"]
    pyramid = family.pyramid()
    frames = torch.randn(2, 3, 3, pyramid.side, pyramid.side)
    gaze = random_gaze(pyramid, 2, 3)
    patches.may_wait = lambda device: False  # as on a GPU
    for attn_type in ("block_causal", "frame_independent"):
        encoder = autogaze.gazed(family.model(0), attn_type=attn_type)  # type: ignore[arg-type]
        with torch.no_grad():
            encoder(frames, gaze)  # which makes what is kept
            counted = count(partial(encoder, frames, gaze), encoder, frames, gaze.ids)
            counted.waiting["_local_scalar_dense"] -= 1  # on a CPU: are the frames finite?
        print(f"| small SigLIP, {attn_type} | {counted.launches} | {counted.waits} |", flush=True)


if __name__ == "__main__":
    main()
