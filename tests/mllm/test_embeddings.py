"""Embeddings and positions of gazed prompts, fed to the untouched models."""

import functools
import inspect

import pytest
import torch

import autogaze
from autogaze.errors import MLLMError
from autogaze.mllm import prompt_embeddings
from autogaze.mllm.registry import adapter_of
from tests.mllm.test_gazed import grids_of, some
from tests.mllm.tiny import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:.*falling back to its reference:UserWarning")


@functools.cache
def stock_of(name):
    return FAMILIES[name].build()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def stock(family):
    return stock_of(family)


@pytest.fixture
def gazed(stock):
    return autogaze.gazed_mllm(stock)


@pytest.fixture
def prompt(family, gazed):
    """Two prompts of different lengths; a video, and another with an image where there are some."""
    known = FAMILIES[family]
    picture = [] if known.image is None else [known.image]
    inputs = known.rows([[3, 4, known.video, 7], [5, *picture, 9, known.second, 8, 6]])
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(gazed, inputs))]
    return gazed.compact(**inputs, kept=kept)


@torch.no_grad()
def test_the_stock_text_model_gives_the_gazed_models_logits(stock, gazed, prompt):
    made = prompt_embeddings(gazed, prompt)
    text = adapter_of(stock).text_model
    hidden = text(**made.text_model_inputs()).last_hidden_state
    real = made.attention_mask.bool()
    expected = gazed(gazed=prompt).logits[real]
    assert torch.equal(stock.lm_head(hidden)[real], expected)


@torch.no_grad()
def test_generation_from_them_is_the_gazed_models(stock, gazed, prompt):
    made = prompt_embeddings(gazed, prompt)
    text, embed = adapter_of(stock).text_model, stock.get_input_embeddings()
    inputs, mask, answer = made.text_model_inputs(), made.attention_mask, []
    out = text(**inputs, use_cache=True)
    takes = inspect.signature(text.forward).parameters
    cache_name = "cache" if "cache" in takes else "past_key_values"
    for step in range(4):
        answer.append(stock.lm_head(out.last_hidden_state[:, -1]).argmax(-1))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        place = (made.next_position + step)[..., None]
        out = text(
            inputs_embeds=embed(answer[-1])[:, None],
            attention_mask=mask,
            position_ids=place if len(place) > 1 else place[0],
            use_cache=True,
            **{cache_name: out.past_key_values},
        )
    expected = gazed.generate(gazed=prompt, max_new_tokens=4)[:, -4:]
    assert torch.equal(torch.stack(answer, 1), expected)


@torch.no_grad()
def test_the_stock_model_takes_embeddings_and_positions(stock, gazed, prompt):
    """Where nothing but embeddings and positions is needed, the whole stock model takes them."""
    made = prompt_embeddings(gazed, prompt)
    if made.needs - {"positions"}:
        pytest.skip("deepstack features go to the text model only")
    logits = stock(**made.text_model_inputs()).logits
    real = made.attention_mask.bool()
    torch.testing.assert_close(logits[real], gazed(gazed=prompt).logits[real], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_a_server_loses_that_takes_embeddings_only(stock, gazed, prompt):
    made = prompt_embeddings(gazed, prompt)
    assert "positions" in made.needs
    assert ("deepstack" in made.needs) == bool(made.deepstack)
    expected = gazed(gazed=prompt).logits
    for row, embeds in enumerate(made.rows()):
        index = torch.arange(len(embeds)).expand(len(made.position_ids), 1, -1)
        positions = index if len(index) > 1 else index[0]
        hidden = adapter_of(stock).text_model(
            inputs_embeds=embeds[None],
            attention_mask=torch.ones(1, len(embeds), dtype=torch.long),
            position_ids=positions,
        )
        real = made.attention_mask[row].bool()
        logits = stock.lm_head(hidden.last_hidden_state)[0]
        assert (logits - expected[row, real]).abs().max() > 1e-3


def test_a_prompt_of_text_needs_nothing_else(family, gazed):
    inputs = FAMILIES[family].rows([[3, 4, 7], [5, 9, 8, 6, 11]])
    made = prompt_embeddings(gazed, gazed.compact(**inputs))
    assert made.needs == frozenset()
    assert not made.visuals
    assert [len(row) for row in made.rows()] == [3, 5]


def test_features_are_those_of_each_video(gazed, prompt):
    made = prompt_embeddings(gazed, prompt)
    assert len(made.visuals) == len(prompt.visuals)
    rows = torch.cat([visual.embeds for visual in made.visuals])
    assert torch.equal(made.inputs_embeds[made.visual_mask], rows)
    assert int(made.visual_mask.sum()) == len(rows)
    again = prompt_embeddings(gazed, {"gazed": prompt})
    assert torch.equal(again.inputs_embeds, made.inputs_embeds)


def test_what_is_no_gazed_model_or_prompt_is_refused(stock, gazed, prompt):
    with pytest.raises(MLLMError, match=r"autogaze\.gazed_mllm"):
        prompt_embeddings(stock, prompt)
    with pytest.raises(MLLMError, match="GazedPrompt"):
        prompt_embeddings(gazed, {"input_ids": prompt.prompt.input_ids})
