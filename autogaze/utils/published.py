"""Helpers that AutoGaze's users import from `autogaze.utils`."""

import builtins
import logging
import os
import random
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from autogaze.checks import describe_value, is_dense, is_number, whole
from autogaze.errors import AutoGazeError, OutputError
from autogaze.utils.files import replacing
from autogaze.utils.seeding import seed_weights


class UnNormalize:
    """Pixels in [0, 1] from normalised ones: pixels * std + mean per channel, clamped.

    Args:
        rescale_factor: of the image processor. One other than 1 / 255 made values in [-1, 1]
            before they were normalised, which are halved and shifted to [0, 1].
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], rescale_factor: float | None = None
    ) -> None:
        try:
            shapes = [torch.as_tensor(each, dtype=torch.float64).shape for each in (mean, std)]
        except (RuntimeError, TypeError, ValueError):
            shapes = []
        if not shapes or shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise AutoGazeError(
                "expected one mean and one std per channel, got "
                f"{describe_value(mean)} and {describe_value(std)}"
            )
        if not (rescale_factor is None or is_number(rescale_factor)):
            raise AutoGazeError(
                f"rescale_factor must be a number or None, got {describe_value(rescale_factor)}"
            )
        self.mean = mean
        self.std = std
        self.rescale_factor = rescale_factor

    def __call__(self, pixels: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N C H W"]:
        if not (is_dense(pixels) and pixels.is_floating_point()):
            got = pixels.dtype if is_dense(pixels) else describe_value(pixels)
            raise AutoGazeError(f"expected normalised pixels, a dense tensor of floats, got {got}")
        if pixels.ndim < 3 or pixels.shape[-3] != len(self.mean):
            raise AutoGazeError(
                f"expected (..., {len(self.mean)}, height, width), got {tuple(pixels.shape)}"
            )
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        values = pixels * std + mean
        if self.rescale_factor is not None and abs(self.rescale_factor - 1 / 255) > 1e-6:
            values = values / 2 + 0.5
        return values.clamp(0, 1)


def get_gazing_pos_from_gazing_mask(
    gazing_mask: Tensor,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Indices where a mask is not 0, ascending and padded, and which of them are padding.

    Args:
        gazing_mask: (B, N) over all patches of a clip, frame after frame.

    Returns:
        `gazing_pos`, padded with -1 to the largest count K of the batch, and `if_padded_gazing`.

    Raises:
        AutoGazeError: a mask of another form, such as one per frame: flatten it.
    """
    if not is_dense(gazing_mask):
        raise AutoGazeError(
            "expected a mask of (clips, patches of all frames), a dense tensor, got "
            f"{describe_value(gazing_mask)}; masks per scale are joined by torch.cat(masks, -1).flatten(1)"
        )
    if gazing_mask.ndim != 2:
        raise AutoGazeError(
            f"expected a mask of (clips, patches of all frames), got {tuple(gazing_mask.shape)}; "
            "flatten(1) joins frames"
        )
    mask = gazing_mask != 0
    counts = mask.sum(1, keepdim=True)
    slots = int(counts.max()) if len(mask) else 0
    # Gazed places first, ascending, since the sort is stable.
    order = (~mask).to(torch.uint8).sort(dim=1, stable=True).indices[:, :slots]
    is_padding = torch.arange(slots, device=mask.device) >= counts
    return order.masked_fill(is_padding, -1), is_padding


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside of wrappers: data-parallel ones and compiled ones."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.parallel.DistributedDataParallel | nn.DataParallel
        ):
            inner = model.module
        if inner is None:
            return model
        model = inner


def seed_everything(seed: Any) -> None:
    """Seed the global generators of Python, NumPy and PyTorch on all devices.

    Also makes cuDNN choose deterministic kernels, and gives Python processes that are started
    later the seed of their hashes. In this package only initial weights and the crops of the published
    `VideoFolder` are drawn from global generators (see `autogaze.utils.seeding`).
    """
    number = whole(seed)  # NumPy's too
    if number is None:
        raise AutoGazeError(f"seed must be a whole number, got {describe_value(seed)}")
    seed = number
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    np.random.seed(seed % 2**32)
    seed_weights(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def seed_worker(worker_id: int) -> None:
    """Seed the global generators of a data loader's worker: its `worker_init_fn`."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed + worker_id)


def get_scheduled_temperature(
    step: float, total_steps: float, temp_schedule_args: Mapping[str, Any]
) -> float:
    """Sampling temperature at a step of training: start * (end / start)^(step / total_steps).

    Args:
        temp_schedule_args: {"mode": "exp", "exp": {"temp_start": 3.0, "temp_end": 0.3}}.

    Raises:
        AutoGazeError: a `ValueError`: another mode.
    """
    mode = temp_schedule_args["mode"]
    if mode != "exp":
        raise AutoGazeError(f"the temperature's mode must be exp, got {mode!r}")
    start, end = (float(temp_schedule_args["exp"][name]) for name in ("temp_start", "temp_end"))
    return start * (end / start) ** (step / total_steps)


class AverageScalarMeter:
    """Mean of the newest values, as many as `window_size`."""

    def __init__(self, window_size: int) -> None:
        if window_size < 1:
            raise AutoGazeError(f"window_size must be at least 1, got {window_size}")
        self.window_size = window_size
        self.clear()

    def clear(self) -> None:
        self.current_size = 0
        self.mean = 0.0

    def update(self, values: Tensor | float) -> None:
        """Add values; of those before, as many count as the window has room for beside them."""
        new = torch.as_tensor(values, dtype=torch.float64).flatten()
        if not new.numel():
            return
        size = min(new.numel(), self.window_size)
        old = min(self.window_size - size, self.current_size)
        self.current_size = size + old
        self.mean = (self.mean * old + float(new.mean()) * size) / self.current_size

    def get_mean(self) -> float:
        return self.mean

    def __len__(self) -> int:
        return self.current_size


def move_inputs_to_cuda(inputs: Any) -> Any:
    """The inputs with all tensors, in dicts, lists and tuples too, on the current CUDA device.

    Dicts are changed in place and returned, as their users expect. Without a CUDA device tensors
    stay where they are.
    """
    if isinstance(inputs, Tensor):
        return inputs.cuda(non_blocking=True) if torch.cuda.is_available() else inputs
    if isinstance(inputs, MutableMapping):
        for key, value in inputs.items():
            inputs[key] = move_inputs_to_cuda(value)
        return inputs
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):
        return type(inputs)(*map(move_inputs_to_cuda, inputs))
    if isinstance(inputs, list | tuple):
        return type(inputs)(map(move_inputs_to_cuda, inputs))
    return inputs


# Around logs and options.


def suppress_print() -> None:
    """Make `print` do nothing in this process, for ranks other than the first."""
    builtins.print = _nothing


def suppress_logging() -> None:
    """Silence the log of this package, and loguru's where it is installed, in this process."""
    log = logging.getLogger("autogaze")
    log.handlers = [logging.NullHandler()]
    log.propagate = False
    if find_spec("loguru") is not None:
        import_module("loguru").logger.remove()


def suppress_wandb() -> None:
    """Make all functions of wandb do nothing in this process; without wandb nothing is to be done."""
    if find_spec("wandb") is None:
        return
    wandb = import_module("wandb")
    for name, value in list(vars(wandb).items()):
        if callable(value) and not name.startswith("_"):
            setattr(wandb, name, _nothing)


def plot_grad_norms(
    named_parameters: Iterable[tuple[str, Tensor]], name_prefix: str = ""
) -> dict[str, float]:
    """Norms of the gradients by parameter name; logged where a run of wandb is active.

    Args:
        named_parameters: `model.named_parameters()`; those without a gradient are left out.
        name_prefix: put before the names.
    """
    norms = {
        f"{name_prefix}{name}": float(torch.linalg.vector_norm(parameter.grad))
        for name, parameter in named_parameters
        if parameter.grad is not None
    }
    log_to_wandb(norms)
    return norms


def has_wandb_run() -> bool:
    """Whether wandb is installed and a run of it is active."""
    return find_spec("wandb") is not None and import_module("wandb").run is not None


def log_to_wandb(values: Mapping[str, Any]) -> None:
    """Log values to the active run of wandb, if there is one."""
    if has_wandb_run():
        import_module("wandb").log(dict(values))


def dump_cfg(cfg: Any, logdir: str | Path) -> Path:
    """Write options to `config.yaml` in a folder that exists; returns its path.

    Args:
        cfg: an OmegaConf configuration, whose interpolations are resolved, or mappings and lists.

    Raises:
        OutputError: it cannot be written.
    """
    import yaml

    path = Path(logdir) / "config.yaml"
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder does not exist; create it first")
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(_plain(cfg), sort_keys=False, allow_unicode=True))
    return path


def format_kwargs(cfg: Any, optional_args: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """The options that a configuration has, under the names of arguments.

    Args:
        cfg: its groups are attributes or keys, and so are their options.
        optional_args: (argument, group, option) of each; those that `cfg` lacks are left out.
    """
    found = {}
    for argument, group, option in optional_args:
        values = _option(cfg, group)
        value = _ABSENT if values is _ABSENT else _option(values, option)
        if value is not _ABSENT:
            found[argument] = value
    return found


_ABSENT = object()


def _option(cfg: Any, name: str) -> Any:
    if isinstance(cfg, Mapping):
        return cfg.get(name, _ABSENT)
    return getattr(cfg, name, _ABSENT)


def _plain(value: Any) -> Any:
    """Dicts, lists and values that YAML knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _nothing(*_: Any, **__: Any) -> None:
    """Takes anything and does nothing."""
