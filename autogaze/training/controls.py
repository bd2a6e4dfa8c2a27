"""Controls: gazes that know nothing of the clip they are judged on.

A selector may learn where patches usually pay and nothing of what is in a clip. Its loss
then falls far below that of random gazes, and stays the same when clips swap their gazes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
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
    pyramid: PatchPyramid, lengths: Int[Tensor, "B T"], generators: Sequence[torch.Generator]
) -> Gaze:
    """Random patches, so many in every frame.

    Args:
        generators: one a clip.
    """
    ids = [
        torch.randperm(pyramid.num_patches, generator=generator)[:count]
        for generator, counts in zip(generators, lengths.tolist(), strict=True)
        for count in counts
    ]
    return Gaze(pyramid, torch.cat(ids), lengths)
