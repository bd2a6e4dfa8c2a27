"""NVILA's prompts as embeddings: a server of its LLM that counts positions itself gives its answer."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from autogaze.errors import MLLMError
from autogaze.mllm import prompt_embeddings
from tests.mllm.nvila.tiny import make_frames, make_model, make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def inputs(processor):
    """Two prompts of different lengths."""
    texts = ["<vila/video> word3 word4", "word7 <vila/video> word5 word6 word2 word8"]
    return processor(text=texts, videos=[make_frames(), make_frames()])


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
def test_the_llm_alone_answers_from_them(model, processor, inputs, tmp_path, published):
    if published:  # whose keys do not say which token stands for the video
        made = processor(text="<vila/video> word3 word4", videos=make_frames(), published=True)
        inputs = {**made, "video_token_id": processor.video_token_id}
    made = prompt_embeddings(model, inputs)
    assert made.needs == frozenset()
    model.llm.save_pretrained(tmp_path)
    server = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    expected = model(**inputs).logits
    for row, embeds in enumerate(made.rows()):
        logits = server(inputs_embeds=embeds[None]).logits[0]
        real = made.attention_mask[row].bool()
        torch.testing.assert_close(logits, expected[row, real], atol=1e-5, rtol=1e-5)


def test_features_stand_for_their_videos(model, inputs):
    made = prompt_embeddings(model, inputs)
    counts = [video.num_tokens(9) for video in inputs["gazed_videos"]]
    assert [len(visual.embeds) for visual in made.visuals] == counts
    rows = torch.cat([visual.embeds for visual in made.visuals])
    assert torch.equal(made.inputs_embeds[made.visual_mask], rows)


def test_text_alone(model, processor):
    made = prompt_embeddings(model, processor(text="word3 word4 word5"))
    assert made.needs == frozenset()
    assert not made.visual_mask.any()
    embeds = model.get_input_embeddings()(made.input_ids)
    assert torch.equal(made.inputs_embeds, embeds)


def test_placeholders_of_no_video(model, inputs):
    with pytest.raises(MLLMError, match="placeholders"):
        prompt_embeddings(model, {**inputs, "gazed_videos": inputs["gazed_videos"][:1]})
