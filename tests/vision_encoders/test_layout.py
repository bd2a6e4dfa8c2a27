"""Packed sequences: where tokens stand."""

import pytest
import torch
from hypothesis import given, settings

from autogaze.errors import EncoderError
from autogaze.vision_encoders.layout import TokenLayout, check_attention_type, token_layout
from tests.vision_encoders.layouts import CPU, layouts, tokens_of


@settings(deadline=None)
@given(layout=layouts())
def test_every_token_is_a_patch_or_a_prefix_of_its_frame(layout):
    tokens = tokens_of(layout)
    assert layout.num_tokens == len(tokens)
    prefix, patches = layout.prefix_index, layout.patch_index
    assert prefix.shape == (len(layout.frame_lengths), layout.num_prefix)
    assert torch.cat([prefix.flatten(), patches]).sort().values.equal(torch.arange(len(tokens)))
    assert patches.equal(patches.sort().values)  # the order of the gaze
    T = len(layout.lengths[0])
    for index, positions in enumerate(prefix.tolist()):
        assert all(tokens[position] == divmod(index, T) for position in positions)
        # Behind all patches where a token sees only what is before it, else before them.
        own = [position for position in patches.tolist() if tokens[position] == divmod(index, T)]
        if layout.attn_type == "causal":
            assert all(p > max(own, default=-1) for p in positions)
        else:
            assert all(p < min(own, default=len(tokens)) for p in positions)
    counted = torch.tensor(
        [tokens[position] for position in patches.tolist()], dtype=torch.long
    ).view(-1, 2)
    lengths = torch.tensor(layout.lengths)
    found = torch.zeros_like(lengths).index_put_(tuple(counted.T), torch.tensor(1), accumulate=True)
    assert found.equal(lengths)


@settings(deadline=None)
@given(layout=layouts())
def test_groups_hold_every_token_once_with_segments_whole(layout):
    tokens = tokens_of(layout)
    everyone = torch.arange(layout.num_tokens)
    parts = []
    for group in layout.groups:
        rows = group.gather(everyone[:, None].float())[..., 0].long()  # (G, n)
        assert rows.shape == (len(group.segments), group.length)
        for segment, row in zip(group.segments, rows, strict=True):
            owners = [tokens[position] for position in row.tolist()]
            if layout.attn_type == "frame_independent":
                T = len(layout.lengths[0])
                assert set(owners) == {divmod(segment, T)}
            else:
                assert {clip for clip, _ in owners} == {segment}
                if layout.attn_type == "block_causal":  # frame edges are those of the group
                    expected = [f for f, n in enumerate(group.frames) for _ in range(n)]
                    assert [frame for _, frame in owners] == expected
        parts.append(rows.flatten())
    laid_out = torch.cat(parts)
    assert laid_out.sort().values.equal(everyone)
    assert laid_out[layout.from_groups].equal(everyone)


@settings(deadline=None)
@given(layout=layouts())
def test_groups_are_as_few_as_lengths_differ(layout):
    frames = {n for n in layout.frame_lengths if n}
    clips = {counts for counts in layout.clip_frames if sum(counts)}
    expected = {
        "frame_independent": len(frames),
        "block_causal": len(clips),
        "causal": len({sum(counts) for counts in clips}),
        "bidirectional": len({sum(counts) for counts in clips}),
    }
    assert layout.num_groups == len(layout.groups) == expected[layout.attn_type]


def test_neighbours_are_not_copied():
    """Equal frames are read where they stand; others are gathered."""
    layout = TokenLayout(((3, 3), (3, 3)), "frame_independent", CPU)
    tokens = torch.randn(12, 5)
    [group] = layout.groups
    assert group.gather(tokens).data_ptr() == tokens.data_ptr()
    torn = TokenLayout(((3, 2), (3, 2)), "frame_independent", CPU)
    assert [tuple(group.gather(tokens[:10]).shape) for group in torn.groups] == [
        (2, 3, 5),
        (2, 2, 5),
    ]


@settings(deadline=None)
@given(layout=layouts())
def test_patches_and_prefixes_find_their_places(layout):
    everyone = torch.arange(layout.num_tokens)
    apart = torch.cat([everyone[layout.patch_index], everyone[layout.prefix_index.flatten()]])
    assert apart[layout.from_patches].equal(everyone)


def test_equal_layouts_are_one_and_serve_gradients():
    arguments = (((3, 2), (1, 0)), "block_causal", CPU, 1)
    with torch.inference_mode():
        layout = token_layout(*arguments)
        made = [layout.patch_index, layout.prefix_index, layout.from_patches, layout.from_groups]
        made += [group.index for group in layout.groups if isinstance(group.index, torch.Tensor)]
    assert token_layout(*arguments) is layout
    assert token_layout(*arguments, "grouped") is not layout
    assert not any(index.is_inference() for index in made)


def test_unknown_attention_types_are_named():
    with pytest.raises(EncoderError, match=r"'diagonal'.*block_causal, causal, bidirectional"):
        check_attention_type("diagonal")
