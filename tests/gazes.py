"""Hypothesis strategies for gazes."""

import torch
from hypothesis import strategies as st

from autogaze import Gaze, PatchPyramid

SMALL = PatchPyramid((32, 64), 16)


@st.composite
def gazes(draw, pyramid=SMALL, clips=None, frames=None):
    """Any ragged gaze: empty frames, full frames, any order."""
    B = draw(st.integers(1, 3)) if clips is None else clips
    T = draw(st.integers(1, 4)) if frames is None else frames
    chosen = [
        draw(st.lists(st.integers(0, pyramid.num_patches - 1), unique=True, max_size=8))
        for _ in range(B * T)
    ]
    ids = torch.tensor([patch for frame in chosen for patch in frame], dtype=torch.long)
    lengths = torch.tensor([len(frame) for frame in chosen]).view(B, T)
    losses = draw(st.booleans())
    return Gaze(
        pyramid,
        ids,
        lengths,
        losses=torch.rand(B, T) if losses else None,
        metric="canvas" if losses else None,
    )


def same(one: Gaze, other: Gaze) -> bool:
    """Equal in every value."""
    losses = (one.losses is None) == (other.losses is None) and (
        one.losses is None or bool(one.losses.equal(other.losses))
    )
    return (
        one.pyramid == other.pyramid
        and one.ids.equal(other.ids)
        and one.lengths.equal(other.lengths)
        and one.ordered == other.ordered
        and one.source == other.source
        and losses
        and (one.predicted_losses is None) == (other.predicted_losses is None)
        and (
            one.predicted_losses is None
            or other.predicted_losses is None
            or bool(one.predicted_losses.allclose(other.predicted_losses, atol=1e-4))
        )
    )
