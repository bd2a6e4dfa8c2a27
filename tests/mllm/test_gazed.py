"""Gazed multimodal LLMs against the untouched models, for every family."""

import dataclasses
import functools
import threading

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import autogaze
from autogaze.errors import MLLMError
from autogaze.mllm import KeptUnits, UnitGrid
from autogaze.mllm.registry import adapter_of
from tests.mllm.tiny import FAMILIES, skip_where_time_stands_still

pytestmark = pytest.mark.filterwarnings("ignore:.*falling back to its reference:UserWarning")


@functools.cache
def model_of(name):
    return FAMILIES[name].build()


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def model(family):
    return model_of(next(name for name, known in FAMILIES.items() if known is family))


@pytest.fixture
def inputs(family):
    """Two rows of different lengths: a video, and another with an image where there are images."""
    picture = [] if family.image is None else [family.image]
    return family.rows([[3, 4, family.video, 7], [5, *picture, 9, family.second, 8, 6]])


def grids_of(model, inputs):
    return [video.grid for video in adapter_of(model).dense(inputs)["video"]]


def some(grid: UnitGrid, share: float, seed: int = 0) -> KeptUnits:
    """A share of all units at random; one tubelet keeps nothing where there are several."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(grid.tubelets, grid.num_units, generator=generator) < share
    mask[0, 0] = True
    if grid.tubelets > 1:
        mask[1] = False
    return KeptUnits.from_mask(grid, mask)


@torch.no_grad()
def test_keeping_everything_is_the_untouched_model(model, inputs):
    skip_where_time_stands_still(model.config.model_type)
    gazed = autogaze.gazed_mllm(model)
    whole = [None] * len(grids_of(model, inputs))
    real = inputs["attention_mask"].bool()
    expected = model(**inputs).logits[real]
    torch.testing.assert_close(
        gazed(**inputs, kept=whole).logits[real], expected, atol=1e-4, rtol=0
    )
    assert torch.equal(
        gazed.generate(**inputs, kept=whole, max_new_tokens=5),
        model.generate(**inputs, max_new_tokens=5),
    )


@torch.no_grad()
def test_two_videos_and_an_image_in_one_prompt(model, family):
    skip_where_time_stands_still(model.config.model_type)
    picture = [] if family.image is None else [family.image]
    inputs = family.rows([[3, family.video, 7, *picture, 9, family.second, 8], [4, 6]])
    gazed = autogaze.gazed_mllm(model)
    grids = grids_of(model, inputs)
    real = inputs["attention_mask"].bool()
    whole = gazed(**inputs, kept=[None] * len(grids)).logits
    expected = model(**inputs).logits
    torch.testing.assert_close(whole[real], expected[real], atol=1e-4, rtol=0)
    kept = [some(grid, 0.3, seed) for seed, grid in enumerate(grids)]
    prompt = gazed.compact(**inputs, kept=kept).prompt
    left = prompt.attention_mask.sum(1)
    dropped = sum(units.dense_units - units.num_units for units in kept)
    assert (inputs["attention_mask"].sum(1) - left).tolist() == [dropped, 0]
    assert gazed(**inputs, kept=kept).logits.isfinite().all()


def test_what_is_dropped_leaves_the_prompt_and_the_rest_keeps_its_position(model, inputs):
    gazed = autogaze.gazed_mllm(model)
    kept = [some(grid, 0.3, seed) for seed, grid in enumerate(grids_of(model, inputs))]
    dense = gazed.compact(**inputs, kept=[None] * len(kept)).prompt
    prompt = gazed.compact(**inputs, kept=kept).prompt
    dropped = sum(units.dense_units - units.num_units for units in kept)
    assert int(dense.attention_mask.sum() - prompt.attention_mask.sum()) == dropped > 0
    assert prompt.dense_lengths == dense.dense_lengths
    for row, index in enumerate(prompt.dense_index):
        left, real = index[index >= 0], dense.dense_index[row] >= 0
        where = index >= 0
        assert torch.equal(
            prompt.position_ids[:, row, where], dense.position_ids[:, row, real][:, left]
        )
        assert torch.equal(prompt.input_ids[row, where], dense.input_ids[row, real][left])


def test_dense_positions_are_those_of_the_untouched_model(model, inputs):
    skip_where_time_stands_still(model.config.model_type)
    prompt = autogaze.gazed_mllm(model).compact(**inputs).prompt
    real = inputs["attention_mask"].bool()
    if not hasattr(model.model, "get_rope_index"):
        index = (inputs["attention_mask"].cumsum(-1) - 1)[real]
        assert torch.equal(prompt.position_ids[0][real], index)
        return
    known = ("input_ids", "attention_mask", "image_grid_thw", "video_grid_thw")
    known += ("second_per_grid_ts", "mm_token_type_ids")
    expected, deltas = model.model.get_rope_index(
        **{name: inputs[name] for name in known if name in inputs}
    )
    assert torch.equal(prompt.position_ids[:, real], expected[:, real])
    first = inputs["attention_mask"].sum(1) + deltas[:, 0]
    if not deltas.equal(deltas.new_zeros(deltas.shape)):
        longest = inputs["input_ids"].shape[1]
        # transformers 4 counts padding in the deltas.
        assert torch.equal(prompt.next_position, first) or torch.equal(
            prompt.next_position, longest + deltas[:, 0]
        )


@torch.no_grad()
def test_a_batch_is_its_rows(model, family):
    gazed = autogaze.gazed_mllm(model)
    picture = [] if family.image is None else [family.image]
    rows = [[3, 4, family.video, 7], [5, *picture, 9, family.second, 8, 6]]
    both = family.rows(rows)
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(model, both))]
    together = gazed.compact(**both, kept=kept)
    logits = gazed(gazed=together).logits
    answers = gazed.generate(gazed=together, max_new_tokens=4)
    number = 0
    for row in range(2):
        # The pixels of the single row are those of the batch.
        videos = 1 if row == 0 else len(together.visuals) - 1
        alone = _row(together, row, together.visuals[number : number + videos])
        number += videos
        real = together.prompt.attention_mask[row].bool()
        single = gazed(gazed=alone).logits[0]
        torch.testing.assert_close(single, logits[row, real], atol=1e-4, rtol=0)
        answer = gazed.generate(gazed=alone, max_new_tokens=4)
        assert torch.equal(answer[0, -4:], answers[row, -4:])


def _row(gazed, row, visuals):
    """One row of a gazed prompt."""
    from autogaze.mllm import GazedPrompt
    from autogaze.mllm.prompt import CompactPrompt

    prompt = gazed.prompt
    real = prompt.attention_mask[row].bool()
    alone = CompactPrompt(
        prompt.input_ids[row : row + 1, real],
        prompt.attention_mask[row : row + 1, real],
        prompt.position_ids[:, row : row + 1, real],
        prompt.visual_mask[row : row + 1, real],
        prompt.dense_index[row : row + 1, real],
        prompt.next_position[row : row + 1],
        prompt.dense_lengths[row : row + 1],
    )
    return GazedPrompt(alone, tuple(visuals))


@torch.no_grad()
def test_a_unit_sees_what_is_kept_and_nothing_else(model, inputs, family):
    """Pixels of dropped units do not matter; those of kept ones do."""
    gazed = autogaze.gazed_mllm(model)
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(model, inputs))]
    before = gazed.compact(**inputs, kept=kept)
    logits = gazed(gazed=before).logits
    name = next(n for n in ("pixel_values_videos", "pixel_values") if n in inputs)
    flipped = {**inputs, name: -inputs[name]}
    changed = gazed(**flipped, kept=kept).logits
    assert not torch.allclose(changed, logits, atol=1e-4)
    # Put back the pixels of kept units alone.
    after = gazed.compact(**flipped, kept=kept)
    same = [
        dataclasses.replace(new, pixels=old.pixels)
        for new, old in zip(after.visuals, before.visuals, strict=True)
    ]
    restored = gazed(gazed=type(after)(after.prompt, tuple(same))).logits
    assert torch.equal(restored, logits)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"use_cache": False}, {}], ids=str)
def test_decoding_goes_on_as_a_whole_pass_says(model, inputs, options):
    """What generate makes step by step is what one forward pass over the whole says."""
    gazed = autogaze.gazed_mllm(model)
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(model, inputs))]
    prompt = gazed.compact(**inputs, kept=kept)
    answers = gazed.generate(gazed=prompt, max_new_tokens=4, **options)
    length = prompt.prompt.input_ids.shape[1]
    assert answers.shape == (2, length + 4)
    assert torch.equal(answers[:, :length], prompt.prompt.input_ids)
    if options.get("num_beams"):
        plain = gazed.generate(gazed=prompt, max_new_tokens=4, num_beams=1)
        assert _score(gazed, prompt, answers).ge(_score(gazed, prompt, plain) - 1e-4).all()
        return
    for step in range(4):
        logits = gazed(gazed=_longer(prompt, answers[:, length : length + step])).logits
        assert torch.equal(logits[:, -1].argmax(-1), answers[:, length + step])


def _longer(gazed, tokens):
    """The prompt with answered tokens behind it, at the positions of decoding."""
    prompt = gazed.prompt
    count = tokens.shape[1]
    steps = prompt.next_position[:, None] + torch.arange(count)
    positions = steps.expand(len(prompt.position_ids), -1, -1)
    longer = dataclasses.replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, tokens], 1),
        attention_mask=torch.cat([prompt.attention_mask, torch.ones_like(tokens)], 1),
        position_ids=torch.cat([prompt.position_ids, positions], 2),
        visual_mask=torch.cat([prompt.visual_mask, torch.zeros_like(tokens).bool()], 1),
        dense_index=torch.cat(
            [prompt.dense_index, torch.tensor(prompt.dense_lengths)[:, None] + torch.arange(count)],
            1,
        ),
        next_position=prompt.next_position + count,
    )
    return type(gazed)(longer, gazed.visuals)


def _score(gazed, prompt, answers):
    """Log-likelihood of the four answered tokens."""
    tokens = answers[:, -4:]
    logits = gazed(gazed=_longer(prompt, tokens)).logits[:, -5:-1].log_softmax(-1)
    return logits.gather(-1, tokens[..., None]).sum((1, 2))


def test_gradients_reach_vision_encoder_and_llm(model, inputs):
    gazed = autogaze.gazed_mllm(model)
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(model, inputs))]
    labels = inputs["input_ids"].where(inputs["attention_mask"].bool(), torch.tensor(-100))
    loss = gazed(**inputs, kept=kept, labels=labels).loss
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    model.zero_grad(set_to_none=True)
    assert torch.isfinite(loss)
    assert all("pos" in name or "post" in name or "head" in name for name in without), without


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_checkpointed_gradients_are_those_without(family, inputs):
    model = family.build().train()
    gazed = autogaze.gazed_mllm(model)
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(model, inputs))]
    prompt = gazed.compact(**inputs, kept=kept)

    def gradients():
        model.zero_grad(set_to_none=True)
        adapter_of(gazed).encode_all(prompt.visuals).embeds.square().sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": False}}
    model.gradient_checkpointing_enable(**options)
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-4, rtol=1e-3)
    assert any(m.gradient_checkpointing for m in model.modules() if hasattr(m, "mlp"))


@torch.no_grad()
def test_the_vision_encoder_computes_kept_units_only(model, inputs, family):
    gazed = autogaze.gazed_mllm(model)

    def linear(kept):
        prompt = gazed.compact(**inputs, kept=kept)
        with FlopCounterMode(display=False) as counter:
            adapter_of(gazed).encode_all(prompt.visuals)
        counts = counter.get_flop_counts()["Global"]
        skipped = ("attention", "bmm")  # quadratic in a segment
        return sum(n for op, n in counts.items() if not any(word in str(op) for word in skipped))

    grids = grids_of(model, inputs)
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids)]
    images = adapter_of(model).dense(inputs).get("image", [])
    whole = sum(family.tokens(KeptUnits.everything(image.grid)) for image in images)
    total = whole + sum(family.tokens(KeptUnits.everything(grid)) for grid in grids)
    share = (whole + sum(map(family.tokens, kept))) / total
    assert linear(kept) / linear([None] * len(grids)) == pytest.approx(share, rel=0.05)


def test_the_model_keeps_its_class_and_its_parameters(model, inputs, tmp_path):
    skip_where_time_stands_still(model.config.model_type)
    before = dict(model.__dict__)
    gazed = autogaze.gazed_mllm(model)
    assert isinstance(gazed, type(model))
    assert autogaze.gazed_mllm(gazed) is gazed
    shared = {name: p.data_ptr() for name, p in model.named_parameters()}
    assert {name: p.data_ptr() for name, p in gazed.named_parameters()} == shared
    assert (gazed.device, gazed.dtype, gazed.config) == (model.device, model.dtype, model.config)
    gazed.save_pretrained(tmp_path)
    again = type(gazed).from_pretrained(tmp_path).eval()
    plain = type(model).from_pretrained(tmp_path).eval()
    assert type(plain) is type(model)
    assert plain.config.architectures == [type(model).__name__]
    whole = [None] * len(grids_of(model, inputs))
    with torch.no_grad():
        expected = model(**inputs).logits
        loaded = again(**inputs, kept=whole).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(loaded[real], expected[real], atol=1e-4, rtol=0)
    assert model.__dict__.keys() == before.keys()


@torch.no_grad()
def test_nothing_is_left_behind(model, inputs):
    """After a call, and after one that failed, the untouched model is the untouched model."""
    gazed = autogaze.gazed_mllm(model)
    expected = model(**inputs).logits
    kept = [some(grid, 0.4) for grid in grids_of(model, inputs)]
    gazed(**inputs, kept=kept)
    text = adapter_of(model).text_model
    assert not text._forward_pre_hooks
    assert torch.equal(model(**inputs).logits, expected)
    broken = text.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gazed(**inputs, kept=kept)
    broken.remove()
    assert not text._forward_pre_hooks
    assert torch.equal(gazed(**inputs).logits, expected)  # and without a gaze


def test_a_second_thread_is_refused(model, inputs):
    gazed = autogaze.gazed_mllm(model)
    kept = [some(grid, 0.4) for grid in grids_of(model, inputs)]
    raised = []

    def second():
        try:
            gazed(**inputs, kept=kept)
        except MLLMError as error:
            raised.append(error)

    def inside(*_):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    handle = adapter_of(model).text_model.register_forward_hook(inside)
    try:
        with torch.no_grad():
            gazed(**inputs, kept=kept)
    finally:
        handle.remove()
    assert len(raised) == 1
    assert "one call at a time" in str(raised[0])
    gazed(**inputs, kept=kept)  # and afterwards it is free


class TestRefusals:
    def test_a_family_without_an_adapter(self):
        with pytest.raises(MLLMError, match=r"None.*qwen3_vl.*register_mllm"):
            autogaze.gazed_mllm(torch.nn.Linear(2, 2))

    def test_options_beside_a_model(self, model):
        with pytest.raises(MLLMError, match="dtype"):
            autogaze.gazed_mllm(model, dtype="auto")

    def test_units_of_another_grid(self, model, inputs):
        kept = [KeptUnits.everything(UnitGrid(7, ((2, 9),))) for _ in grids_of(model, inputs)]
        with pytest.raises(MLLMError, match=r"video 0.*7"):
            autogaze.gazed_mllm(model)(**inputs, kept=kept)

    def test_units_of_more_videos(self, model, inputs):
        count = len(grids_of(model, inputs))
        with pytest.raises(MLLMError, match=f"{count + 1} videos.*{count} videos"):
            autogaze.gazed_mllm(model)(**inputs, kept=[None] * (count + 1))

    def test_a_prompt_with_too_few_placeholders(self, model, inputs):
        adapter = adapter_of(model)
        token = adapter.placeholders[0].token
        ids, mask = inputs["input_ids"].clone(), inputs["attention_mask"].clone()
        ids[0, int((ids[0] == token).nonzero()[0])] = 9
        whole = [None] * len(grids_of(model, inputs))
        with pytest.raises(MLLMError, match=str(token)):
            autogaze.gazed_mllm(model)(
                **{**inputs, "input_ids": ids, "attention_mask": mask}, kept=whole
            )

    def test_a_prompt_without_placeholders(self, model, inputs):
        adapter = adapter_of(model)
        ids = inputs["input_ids"].clone()
        for placeholder in adapter.placeholders:
            ids[ids == placeholder.token] = 9
        whole = [None] * len(grids_of(model, inputs))
        with pytest.raises(MLLMError, match=r"0 whole ones|0, 0.*placeholders"):
            autogaze.gazed_mllm(model)(**{**inputs, "input_ids": ids}, kept=whole)

    def test_a_context_that_is_too_long(self, model, inputs):
        whole = [None] * len(grids_of(model, inputs))
        limit = adapter_of(model).text_config.max_position_embeddings
        with pytest.raises(MLLMError, match=str(limit)):
            autogaze.gazed_mllm(model).generate(**inputs, kept=whole, max_new_tokens=limit)

    def test_a_cache_with_something_in_it(self, model, inputs):
        from transformers import DynamicCache

        cache = DynamicCache()
        cache.update(torch.zeros(2, 2, 1, 8), torch.zeros(2, 2, 1, 8), 0)
        whole = [None] * len(grids_of(model, inputs))
        with pytest.raises(MLLMError, match="empty cache"):
            autogaze.gazed_mllm(model)(**inputs, kept=whole, past_key_values=cache)

    def test_other_ids_than_those_of_the_prompt(self, model, inputs):
        gazed = autogaze.gazed_mllm(model)
        prompt = gazed.compact(**inputs)
        ids = prompt.prompt.input_ids
        with pytest.raises(MLLMError, match="input_ids"):
            gazed.generate(gazed=prompt, input_ids=torch.cat([ids, ids[:, -1:]], 1))
        with pytest.raises(MLLMError, match="names"):
            gazed.generate(ids, gazed=prompt)

    def test_a_length_that_is_too_long(self, model, inputs):
        gazed = autogaze.gazed_mllm(model)
        prompt = gazed.compact(**inputs)
        limit = adapter_of(model).text_config.max_position_embeddings
        with pytest.raises(MLLMError, match=str(limit)):
            gazed.generate(gazed=prompt, max_length=prompt.prompt.input_ids.shape[1] + limit)

    def test_embeddings_in_place_of_ids(self, model, inputs):
        gazed = autogaze.gazed_mllm(model)
        prompt = gazed.compact(**inputs)
        with pytest.raises(MLLMError, match="inputs_embeds"):
            gazed(gazed=prompt, inputs_embeds=torch.zeros(2, 3, 32))

    def test_something_else_as_a_prompt(self, model):
        with pytest.raises(MLLMError, match=r"GazedPrompt.*dict"):
            autogaze.gazed_mllm(model)(gazed={})


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in FAMILIES if n.startswith("qwen")])
def test_coarser_grids_are_videos_of_their_own(name):
    """With several grids every one is encoded as the video of that size alone would be."""
    from autogaze.mllm.adapter import VisualInput

    adapter = adapter_of(model_of(name))
    grid = UnitGrid(2, ((2, 2), (4, 6)))
    kept = some(grid, 0.5)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(kept.num_units * 4, 3 * 2 * 4 * 4, generator=generator)
    together = adapter.encode(VisualInput("video", kept, pixels))
    scale = kept.places[:, 0]
    for number, sides in enumerate(grid.grids):
        mine = scale == number
        mask = torch.zeros(2, grid.num_units, dtype=torch.bool)
        mask[kept.tubelet[mine], kept.ids[mine]] = True
        first = sum(r * c for r, c in grid.grids[:number])
        alone = KeptUnits.from_mask(
            UnitGrid(2, (sides,)), mask[:, first : first + sides[0] * sides[1]]
        )
        rows = pixels.unflatten(0, (-1, 4))[mine].flatten(0, 1)
        expected = adapter.encode(VisualInput("video", alone, rows))
        torch.testing.assert_close(together.embeds[mine], expected.embeds, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sampling_repeats_rows(model, inputs):
    gazed = autogaze.gazed_mllm(model)
    kept = [some(grid, 0.4, seed) for seed, grid in enumerate(grids_of(model, inputs))]
    prompt = gazed.compact(**inputs, kept=kept)
    greedy = gazed.generate(gazed=prompt, max_new_tokens=4)
    # The likeliest token alone may be drawn: every repeated row is the greedy answer.
    options = {"do_sample": True, "top_k": 1, "num_return_sequences": 3}
    drawn = gazed.generate(gazed=prompt, max_new_tokens=4, **options)
    assert torch.equal(drawn, greedy.repeat_interleave(3, dim=0))


@torch.no_grad()
def test_half_precision_stays_half(family, inputs):
    model = family.build().to(torch.bfloat16)
    gazed = autogaze.gazed_mllm(model)
    whole = [None] * len(grids_of(model, inputs))
    real = inputs["attention_mask"].bool()
    logits = gazed(**inputs, kept=whole).logits
    assert logits.dtype == torch.bfloat16
    expected = model(**inputs).logits
    torch.testing.assert_close(logits[real], expected[real], atol=0.03, rtol=0.05)
