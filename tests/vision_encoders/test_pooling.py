"""SigLIP's head pools frames of any lengths in one call, as it pools each of them alone."""

import pytest
import torch
from hypothesis import example, given, settings

from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.siglip.adapter import pool_frames
from tests.operators import count
from tests.vision_encoders.families import FAMILIES, assert_close
from tests.vision_encoders.layouts import CPU, layouts

HEADS = {name: FAMILIES[name].model().eval() for name in ("siglip", "siglip2-naflex")}


def head_of(name: str) -> torch.nn.Module:
    model = HEADS[name]
    return getattr(model, "vision_model", model).head


@pytest.mark.parametrize("name", HEADS)
@settings(max_examples=30, deadline=None)
@given(layout=layouts())
@example(layout=TokenLayout(((3, 0, 5), (0, 0, 0), (4, 70, 0)), "block_causal", CPU))
@example(layout=TokenLayout(((0, 0),), "block_causal", CPU))
def test_a_frame_is_pooled_as_alone(name: str, layout: TokenLayout) -> None:
    head, lengths = head_of(name), layout.frame_lengths
    tokens = torch.randn(sum(lengths), head.probe.shape[-1])
    with torch.no_grad():
        found = pool_frames(head, tokens, layout)
        parts = zip(found, tokens.split(lengths), strict=True)
        assert found.isfinite().all()
        for one, alone in parts:
            if len(alone):
                assert_close(one, head(alone[None])[0], 1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_frames_of_one_length_are_the_untouched_models(name: str) -> None:
    head = head_of(name)
    tokens = torch.randn(6 * 7, head.probe.shape[-1])
    with torch.no_grad():
        found = pool_frames(head, tokens, TokenLayout(((7,) * 3,) * 2, "block_causal", CPU))
        assert found.equal(head(tokens.unflatten(0, (6, 7))))


def test_gradients_are_those_of_frames_alone_and_finite() -> None:
    head = head_of("siglip")
    layout = TokenLayout(((3, 0, 5), (2, 0, 0)), "frame_independent", CPU)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(10, head.probe.shape[-1], generator=generator, requires_grad=True)
    real = [frame for frame, n in enumerate(layout.frame_lengths) if n]
    inputs = [tokens, *head.parameters()]
    found = torch.autograd.grad(pool_frames(head, tokens, layout)[real].square().sum(), inputs)
    alone = torch.cat([head(part[None]) for part in tokens.split([3, 5, 2])])
    expected = torch.autograd.grad(alone.square().sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert_close(one / other.abs().max(), other / other.abs().max(), 1e-5)


def test_it_costs_no_more_for_many_lengths_than_for_two() -> None:
    head, launches = head_of("siglip"), []
    for lengths in ((3, 5), (1, 2, 3, 4, 5, 6, 7, 8)):
        layout = TokenLayout((lengths,), "frame_independent", CPU)
        tokens = torch.randn(sum(lengths), head.probe.shape[-1])
        with torch.no_grad():
            pool_frames(head, tokens, layout)  # which makes what is kept
            counted = count(lambda t=tokens, of=layout: pool_frames(head, t, of), tokens)
        launches.append(counted.launches)
        assert counted.waits == 0
    assert launches[0] == launches[1]
