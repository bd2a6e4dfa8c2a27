"""Multimodal LLMs that are wrapped, hooked or copied before they are gazed, as for training."""

import copy
import functools
import inspect
import pickle
from types import MethodType

import pytest
import torch
import transformers

import autogaze
from autogaze.errors import MLLMError
from autogaze.mllm.gazed import gazed_class
from tests.mllm.test_gazed import grids_of, some
from tests.mllm.tiny import FAMILIES
from tests.vision_encoders.test_lora import Peft, Tuner

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*falling back to its reference:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]
NAMES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm", "internvl"]


class TunerOfLLM(Tuner):
    def forward(self, **inputs):
        return self.model.forward(**inputs)


class PeftOfLLM(Peft):
    def __init__(self, model):
        super().__init__(model)
        self.base_model = TunerOfLLM(model)

    def forward(self, **inputs):
        return self.base_model(**inputs)

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


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_a_replaced_forward_of_a_wrapper_is_an_error(which):
    wrapped = PeftOfLLM(FAMILIES["smolvlm"].build())
    replaced = wrapped if which == "outer" else wrapped.base_model
    replaced.forward = replaced.forward
    with pytest.raises(
        MLLMError, match=f"{type(replaced).__name__} was replaced.* gaze the model first, then"
    ):
        autogaze.gazed_mllm(wrapped)


def test_wrappers_hooked_around_a_gazed_model_are_gazed():
    wrapped = PeftOfLLM(autogaze.gazed_mllm(FAMILIES["smolvlm"].build()))
    wrapped.base_model.forward = wrapped.base_model.forward
    check("smolvlm", wrapped)
    assert autogaze.gazed_mllm(wrapped) is wrapped


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm"])
def test_hooks_of_accelerate_come_and_go(name):
    hooks = pytest.importorskip("accelerate.hooks", reason="needs the package accelerate")
    model = FAMILIES[name].build()
    hooks.add_hook_to_module(model, hooks.AlignDevicesHook(io_same_device=True))
    gazed = autogaze.gazed_mllm(model)
    check(name, gazed)
    hooks.add_hook_to_module(gazed, hooks.AlignDevicesHook(io_same_device=True), append=True)
    check(name, gazed)
    check(name, hooks.remove_hook_from_module(gazed))
    check(name, hooks.remove_hook_from_module(autogaze.gazed_mllm(model)))
    assert hasattr(model, "_hf_hook")


@pytest.mark.parametrize("prepared", ["before", "after", "both"])
def test_mixed_precision_of_accelerate_comes_and_goes(prepared):
    tools = pytest.importorskip("accelerate.utils", reason="needs the package accelerate")
    calls = []

    def prepare(model):
        """As `Accelerator.prepare_model` does, but in float32."""

        def counted(self, *args, **options):
            calls.append(options)
            return own(self, *args, **options)

        model._original_forward, own = model.forward, model.forward.__func__
        new = tools.convert_outputs_to_fp32(functools.wraps(own)(counted))
        model.forward = MethodType(new, model)
        return model

    model = FAMILIES["qwen3_vl"].build()
    gazed = autogaze.gazed_mllm(model if prepared == "after" else prepare(model))
    if prepared != "before":
        prepare(gazed)
    check("qwen3_vl", gazed)
    assert calls
    check("qwen3_vl", tools.extract_model_from_parallel(gazed, keep_fp32_wrapper=False))


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_of_forward_is_the_models(name):
    model = FAMILIES[name].build()
    gazed = autogaze.gazed_mllm(model)
    assert inspect.signature(gazed.forward) == inspect.signature(model.forward)
    assert inspect.signature(type(gazed).forward) == inspect.signature(type(model).forward)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_gazed_and_have_weights_of_their_own(copied):
    gazed = autogaze.gazed_mllm(FAMILIES["qwen3_vl"].build())
    other = copied(gazed)
    check("qwen3_vl", other)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    check("qwen3_vl", gazed)


class Derived(gazed_class(transformers.Qwen3VLForConditionalGeneration)):
    pass


def test_copies_of_a_derived_class_are_of_it():
    gazed = autogaze.gazed_mllm(FAMILIES["qwen3_vl"].build())
    gazed.__class__ = Derived
    for other in (copy.copy(gazed), copy.deepcopy(gazed), pickle.loads(pickle.dumps(gazed))):
        assert type(other) is Derived
        check("qwen3_vl", other)


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
