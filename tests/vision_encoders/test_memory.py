"""Memory follows the gazed patches: nothing made on the way is as large as tokens squared."""

import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.vision_encoders.attention import grouped_attention
from autogaze.vision_encoders.key_ranges import visible_blocks, visible_bounds
from autogaze.vision_encoders.layout import TokenLayout
from tests.vision_encoders.families import FAMILIES
from tests.vision_encoders.layouts import CPU


class Largest(TorchDispatchMode):
    """Remembers the most bytes behind any tensor that an operation returned."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return out


def test_the_measure_sees_what_it_should_forbid():
    with Largest() as largest:
        x = torch.zeros(2000, 4)
        x @ x.T
    assert largest.bytes == 2000 * 2000 * 4


def ragged(frames, clips, tokens):
    """About `tokens` tokens in all, every frame of another length."""
    generator = random.Random(0)
    mean = tokens // (frames * clips)
    return tuple(
        tuple(generator.randint(1, 2 * mean - 1) for _ in range(frames)) for _ in range(clips)
    )


@pytest.mark.parametrize(
    ("attn_type", "lengths"),
    [
        ("frame_independent", ragged(1500, 1, 40_000)),
        ("block_causal", ragged(15, 100, 40_000)),
        # One clip of as many frames: more arithmetic, so fewer tokens.
        ("block_causal", ragged(600, 1, 15_000)),
        ("bidirectional", ragged(600, 1, 15_000)),
        ("causal", ragged(600, 1, 15_000)),
    ],
)
def test_attention_makes_no_mask(attn_type, lengths):
    layout = TokenLayout(lengths, attn_type, CPU)
    N = layout.num_tokens
    assert N > 14_000
    query, key, value = torch.randn(3, 1, N, 8).unbind(0)
    with torch.no_grad(), Largest() as largest:
        out = grouped_attention(query, key, value, layout)
    assert out.shape == (N, 1, 8)
    # Views of the inputs, which lie in one storage, are the largest.
    assert largest.bytes <= 3 * out.nbytes < N * N / 100


def test_blocks_are_found_without_a_mask():
    layout = TokenLayout(ragged(1500, 1, 40_000), "block_causal", CPU)
    N = layout.num_tokens
    with Largest() as largest:
        partly, _ = visible_blocks(visible_bounds(layout))
    assert partly.numel() == (-(-N // 128)) ** 2
    assert largest.bytes <= 4 * 8 * N < N * N / 1000


@pytest.mark.parametrize("attn_type", ["frame_independent", "block_causal"])
def test_encoding_is_linear_in_gazed_patches(attn_type):
    """Frames are resized some at a time, and only chosen cells are cut from them."""
    side, clips, frames = 224, 24, 16
    pyramid = PatchPyramid((32, 64, 112, side), 16)
    generator = torch.Generator().manual_seed(0)

    def ten_a_frame(first, count):
        drawn = [torch.randperm(count, generator=generator)[:10] for _ in range(clips * frames)]
        return Gaze(pyramid, first + torch.cat(drawn), torch.full((clips, frames), 10))

    gaze = ten_a_frame(0, pyramid.num_patches)
    video = torch.randn(1, 1, 3, side, side).expand(clips, frames, 3, side, side)
    encoder = gazed(FAMILIES["siglip"].model(), attn_type=attn_type)
    with torch.no_grad(), Largest() as largest:
        out = encoder(video, gaze)
    N = gaze.num_patches
    assert len(out.last_hidden_state) == N
    # The video takes six times as much, and unfolded at every scale even more.
    frame_bytes, patch_bytes = 3 * side * side * 4, 3 * 16 * 16 * 4
    assert largest.bytes <= 64 * frame_bytes
    assert largest.bytes < clips * frames * frame_bytes / 5
    # Whatever follows a patch is no larger than its pixels.
    with torch.no_grad(), Largest() as finest_only:
        encoder(video, ten_a_frame(pyramid.offsets[-1], pyramid.cells[-1]))
    assert finest_only.bytes <= N * patch_bytes
