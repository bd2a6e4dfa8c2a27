"""Controls: gazes that know nothing of the clip they are judged on.

A selector may learn where patches usually pay and nothing of what is in a clip. Its loss
then falls far below that of random gazes, and stays the same when clips swap their gazes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid


def shuffled(gaze: Gaze) -> Gaze:
    """The same gazes at other clips of the batch.

    Clips change places with those half a batch away: neighbours may be of one video.
    """
    half = len(gaze) // 2
    clips = list(gaze)
    return Gaze.cat_clips([*clips[half:], *clips[:half]])


def random_gaze(
    pyramid: PatchPyramid,
    lengths: Int[Tensor, "B T"],
    generators: Sequence[torch.Generator],
    weights: Float[Tensor, "B V"] | None = None,
) -> Gaze:
    """Random patches, so many in every frame.

    Args:
        generators: one a clip.
        weights: how likely a clip's patches are, each above 0; evenly by default.
    """
    V = pyramid.num_patches
    ids = []
    for clip, (generator, counts) in enumerate(zip(generators, lengths.tolist(), strict=True)):
        for count in counts:
            if weights is None:
                order = torch.randperm(V, generator=generator)
            else:  # the first of exponential clocks with these rates
                clocks = torch.empty(V).exponential_(generator=generator) / weights[clip]
                order = clocks.argsort()
            ids.append(order[:count])
    return Gaze(pyramid, torch.cat(ids), lengths)
