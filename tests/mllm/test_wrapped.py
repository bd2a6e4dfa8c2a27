"""Multimodal LLMs that are wrapped, hooked or copied before they are gazed, as for training."""

import copy
import functools
import pickle

import pytest
import torch

import autogaze
from autogaze.errors import MLLMError
from tests.mllm.test_gazed import grids_of, some
from tests.mllm.tiny import FAMILIES
from tests.vision_encoders.test_lora import Peft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*falling back to its reference:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]
NAMES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm", "internvl"]


class PeftOfLLM(Peft):
    def forward(self, **inputs):
        return self.get_base_model()(**inputs)

    def generate(self, **inputs):
        return self.get_base_model().generate(**inputs)


@functools.cache
def case(name):
    """A dense input with kept units, and what the gazed model makes of it."""
    family = FAMILIES[name]
    model = family.build()
    inputs = family.rows([[3, 4, family.video, 7], [5, 9, family.second, 8, 6]])
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(model, inputs))]
    inputs = {**inputs, "kept": kept}
    with torch.no_grad():
        return inputs, autogaze.gazed_mllm(model)(**inputs).logits


@torch.no_grad()
def check(name, gazed):
    inputs, expected = case(name)
    torch.testing.assert_close(gazed(**inputs).logits, expected, atol=1e-4, rtol=0)
    answers = gazed.generate(**inputs, max_new_tokens=2)
    assert answers.shape[1] == expected.shape[1] + 2


@pytest.mark.parametrize("name", NAMES)
def test_a_model_wrapped_as_by_peft(name):
    wrapped = PeftOfLLM(FAMILIES[name].build())
    inner = wrapped.get_base_model()
    gazed = autogaze.gazed_mllm(wrapped)
    check(name, gazed)
    assert wrapped.get_base_model() is inner
    assert autogaze.gazed_mllm(PeftOfLLM(gazed.get_base_model())).get_base_model() is not inner
    assert {id(p) for p in gazed.parameters()} == {id(p) for p in wrapped.parameters()}


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm"])
def test_a_replaced_forward_runs_inside_the_gazed_one(name):
    """As accelerate's hooks of `device_map` and its mixed precision replace it."""
    model = FAMILIES[name].build()
    calls, own = [], model.forward

    def hooked(*args, **options):
        calls.append(options)
        return own(*args, **options)

    model.forward = hooked
    check(name, autogaze.gazed_mllm(model))
    assert calls
    assert "forward" in vars(model)


def test_a_replaced_forward_of_a_wrapper_is_an_error():
    wrapped = PeftOfLLM(FAMILIES["smolvlm"].build())
    wrapped.forward = wrapped.forward
    with pytest.raises(MLLMError, match="forward"):
        autogaze.gazed_mllm(wrapped)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_gazed_and_have_weights_of_their_own(copied):
    gazed = autogaze.gazed_mllm(FAMILIES["qwen3_vl"].build())
    other = copied(gazed)
    check("qwen3_vl", other)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    check("qwen3_vl", gazed)


@pytest.mark.parametrize("name", ["llava_onevision", "smolvlm", "internvl"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_of_frozen_embeddings_have_gradients(name, reentrant):
    model = FAMILIES[name].build().train()
    tower = model.model.vision_tower if name != "smolvlm" else model.model.vision_model
    # Transformers 4 has SigLIP's encoder in a wrapper.
    encoder = getattr(tower, "vision_model", tower).encoder
    blocks = getattr(encoder, "layers", None) or encoder.layer
    model.requires_grad_(False)
    trained = [weight for weight in blocks[0].parameters() if weight.ndim == 2]
    for weight in trained:
        weight.requires_grad_()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    inputs, _ = case(name)
    autogaze.gazed_mllm(model)(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(weight.grad is not None for weight in trained)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_lora_of_peft(name, when, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the package peft")
    inputs, plain = case(name)
    config = peft.LoraConfig(
        target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )

    def adapted(add):
        model = FAMILIES[name].build()
        return (
            autogaze.gazed_mllm(add(model)) if when == "before" else add(autogaze.gazed_mllm(model))
        )

    gazed = adapted(lambda model: peft.get_peft_model(model, config))
    out = gazed(**inputs, labels=inputs["input_ids"])
    out.loss.backward()
    for weight in gazed.parameters():
        assert (weight.grad is not None) == weight.requires_grad
    with torch.no_grad():
        with gazed.disable_adapter():
            torch.testing.assert_close(gazed(**inputs).logits, plain, atol=1e-4, rtol=0)
        gazed.save_pretrained(tmp_path)
        loaded = adapted(lambda model: peft.PeftModel.from_pretrained(model, tmp_path))
        torch.testing.assert_close(loaded(**inputs).logits, out.logits, atol=1e-4, rtol=0)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(**inputs).logits, out.logits, atol=1e-4, rtol=0)
