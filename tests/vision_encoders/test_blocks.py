"""Blocks that take no mask, as those of DINOv2 and ViT in many versions of transformers, are packed too.

They are made of the installed version's blocks, and are what these are when no mask is given.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from autogaze import gazed
from autogaze.errors import EncoderError
from autogaze.vision_encoders import blocks
from autogaze.vision_encoders.blocks import takes_mask
from autogaze.vision_encoders.layout import ATTENTION_TYPES
from autogaze.vision_encoders.registry import adapter_class
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames, random_gaze

WITHOUT_MASK = ["dinov2", "dinov2-swiglu", "dinov2-registers", "vit", "internvl"]
"""Families whose blocks take no mask in some version of transformers."""


def unmasked(name: str, form: str = "tokens only") -> nn.Module:
    """A model whose blocks take no mask."""
    model = FAMILIES[name].model()
    for block in adapter_class(model.config)(model).layers:
        block.__class__ = without_mask(type(block), form)
    return model


def without_mask(block: type[nn.Module], form: str) -> type[nn.Module]:
    def tokens_of(out):
        return out[0] if isinstance(out, tuple) else out

    class TokensOnly(block):
        def forward(self, hidden_states):
            return tokens_of(super().forward(hidden_states))

    class WithOptions(block):
        def forward(self, hidden_states, **options):
            return tokens_of(super().forward(hidden_states))

    class OfPairs(block):
        def forward(self, hidden_states):
            return tokens_of(super().forward(hidden_states)), None

    return {"tokens only": TokensOnly, "with options": WithOptions, "pairs": OfPairs}[form]


@pytest.fixture(scope="module")
def inputs():
    return random_frames(2, 3), random_gaze(FAMILIES["vit"].pyramid(32, 64), 2, 3)


@pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
@pytest.mark.parametrize("name", WITHOUT_MASK)
@torch.no_grad()
def test_they_see_what_others_see(name, attn_type, inputs):
    expected = gazed(FAMILIES[name].model(), attn_type=attn_type)(*inputs)
    found = gazed(unmasked(name), attn_type=attn_type)(*inputs)
    assert found.last_hidden_state.equal(expected.last_hidden_state)
    assert found.prefix_hidden_state.equal(expected.prefix_hidden_state)


@pytest.mark.parametrize("form", ["with options", "pairs"])
@torch.no_grad()
def test_other_forms_of_them(form, inputs):
    expected = gazed(FAMILIES["vit"].model())(*inputs).last_hidden_state
    assert gazed(unmasked("vit", form))(*inputs).last_hidden_state.equal(expected)


class Wrapper(nn.Module):
    """What stands around blocks when they are sharded or compiled, and has their attributes."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["block"], name)

    def forward(self, *args, **options):
        return self.block(*args, **options)


def test_a_wrapper_takes_what_its_block_takes():
    for name in ("siglip", "clip", "dinov3"):
        model = FAMILIES[name].model()
        for block in adapter_class(model.config)(model).layers:
            assert takes_mask(block)
            assert takes_mask(Wrapper(Wrapper(block)))
    for name in WITHOUT_MASK:
        model = unmasked(name)
        for block in adapter_class(model.config)(model).layers:
            assert not takes_mask(block)
            assert not takes_mask(Wrapper(block))


@pytest.mark.parametrize("name", ["dinov2-registers", "internvl"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_see_the_same_again(name, wrapped, reentrant, inputs):
    """Also where gradients are computed by another thread, as PyTorch does for a GPU."""

    def gradients(model: nn.Module) -> Iterator[torch.Tensor]:
        out = gazed(model)(*inputs)
        assert out.last_hidden_state.requires_grad
        loss = out.last_hidden_state.square().mean()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        return (p.grad for p in model.parameters() if p.grad is not None)

    model = unmasked(name).train()
    enable = getattr(model, "activation_checkpointing_enable", None)  # so called from 5.23 on
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    layers = adapter_class(model.config)(model).layers
    if wrapped:
        for number, block in enumerate(layers):
            layers[number] = Wrapper(block)
    found, expected = list(gradients(model)), list(gradients(FAMILIES[name].model().train()))
    assert len(found) == len(expected) > 20
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-5)
    assert all(block.gradient_checkpointing for block in layers)


def test_threads_do_not_see_each_others_layout(inputs):
    """Every block waits for the other thread's, so that both run at once."""
    encoder = gazed(unmasked("dinov2"))
    frames, gaze = inputs
    other = random_gaze(gaze.pyramid, 2, 3, seed=7)
    meeting = threading.Barrier(2, timeout=20)
    expected = []

    def meet(*_):
        meeting.wait()

    with torch.no_grad():
        for each in (gaze, other):
            expected.append(encoder(frames, each).last_hidden_state)
        for block in encoder._adapter.layers:
            next(block.children()).register_forward_hook(meet)

        def run(each):
            with torch.no_grad():  # of this thread
                return encoder(frames, each).last_hidden_state

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(run, (gaze, other)))
    assert [one.equal(two) for one, two in zip(found, expected, strict=True)] == [True, True]


def test_a_block_that_attends_by_itself_is_refused(inputs):
    """Its tokens would see those of all clips, and nobody would notice."""

    class ByItself(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width)

        def forward(self, hidden_states):
            query, key, value = self.qkv(hidden_states).chunk(3, -1)
            return nn.functional.scaled_dot_product_attention(query, key, value)

    model = FAMILIES["dinov2"].model()
    layers = adapter_class(model.config)(model).layers
    layers[1] = ByItself(model.config.hidden_size)
    with pytest.raises(EncoderError, match="ByItself"):
        gazed(model)(*inputs)
    # The layout is left behind by nobody.
    assert blocks._BLOCK_LAYOUT.get() is None
