"""What a canvas shows where nobody ever looked: its surroundings, smoothly carried on.

Mid grey is an honest answer of a decoder that knows nothing but the patches, and a costly
one; the least that any learned decoder does is to fill holes with what is around them.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from autogaze.gaze import Gaze
from autogaze.reconstruction.canvas import GREY, replay


def fill_holes(
    pictures: Float[Tensor, "N 3 S S"], painted: Bool[Tensor, "N S S"]
) -> Float[Tensor, "N 3 S S"]:
    """Pictures whose unpainted pixels are filled from the painted ones.

    Push and pull: means of painted pixels are taken over ever larger squares; then, from
    large to small, a square's mean replaces what the larger ones made of it, the more of it
    is painted the more so (by the root of the share). Painted pixels stay; a picture
    without any is grey.
    """
    if bool(painted.all()):
        return pictures
    known = painted[:, None].to(pictures.dtype)
    stack = [(pictures * known, known)]  # sums of paint, and shares of the area painted
    while stack[-1][0].shape[-1] > 1:
        half = -(-stack[-1][0].shape[-1] // 2)
        stack.append(tuple(F.adaptive_avg_pool2d(part, half) for part in stack[-1]))  # type: ignore[arg-type]
    filled = torch.where(stack[-1][1] > 0, stack[-1][0] / stack[-1][1].clamp_min(1e-6), GREY)
    for sums, shares in reversed(stack):
        if filled.shape[-1] != sums.shape[-1]:
            filled = F.interpolate(filled, sums.shape[-2:], mode="bilinear")
        means = sums / shares.clamp_min(1e-6)
        filled = torch.lerp(filled, means, shares.sqrt())  # a little paint says nearly all
    return torch.where(painted[:, None], pictures, filled)


def filled_canvas(
    frames: Shaped[Tensor, "B T 3 S S"], gaze: Gaze, wanted: list[int]
) -> Float[Tensor, "B F 3 S S"]:
    """Some frames as the canvas shows them (`reconstruct`), their holes filled.

    Args:
        frames, gaze: see `reconstruct`.
        wanted: numbers of the frames to show.

    Raises:
        GeometryError: see `reconstruct`.
    """
    shown = {
        number: fill_holes(canvas.frames, canvas.painted).clone()  # it is painted over next
        for number, (canvas, _) in enumerate(replay(frames, gaze))
        if number in wanted
    }
    return torch.stack([shown[number] for number in wanted], 1)
