"""Bicubic resizing axis by axis: the same bits as PyTorch's, and parallel over channels on a GPU.

PyTorch's kernel has a thread for every resized place, which goes through all channels: for a position
table, with hundreds of channels and a few places, a third of a millisecond, as long as all blocks of a
small call.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


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
