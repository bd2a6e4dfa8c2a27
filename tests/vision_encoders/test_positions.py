"""Position tables are kept for later calls, and never used when they no longer hold."""

import copy
import gc

import pytest
import torch

from autogaze import PatchPyramid, gazed
from autogaze.vision_encoders import patches
from autogaze.vision_encoders.positions import MAX_KEPT, PositionTables
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames, random_gaze

PYRAMID = PatchPyramid((32, 64), 16)
TABLE = {
    "siglip": "embeddings.position_embedding.weight",
    "dinov2": "embeddings.position_embeddings",
}


def twin(name: str = "siglip"):
    """A gazed model and the adapter whose tables are kept."""
    encoder = gazed(FAMILIES[name].model())
    return encoder, encoder._adapter


def tables(adapter) -> PositionTables:
    with torch.no_grad():
        return PositionTables.of(adapter, PYRAMID)


def fresh(adapter) -> torch.Tensor:
    """Positions computed anew."""
    with torch.no_grad():
        return torch.cat([adapter.positions(grid) for grid in PYRAMID.grids])


@pytest.fixture(params=["values", "versions"])
def _compared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on a GPU, where values cannot be compared without waiting."""
    if request.param == "versions":
        monkeypatch.setattr(patches, "may_wait", lambda device: False)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_they_are_kept_in_every_mode(name):
    _, adapter = twin(name)
    pyramid = FAMILIES[name].pyramid(FAMILIES[name].side // 2, FAMILIES[name].side)
    with torch.inference_mode():
        first = PositionTables.of(adapter, pyramid)
        assert PositionTables.of(adapter, pyramid) is first
    with torch.no_grad():
        assert PositionTables.of(adapter, pyramid) is first
        assert (
            PositionTables.of(adapter, PatchPyramid((48,), pyramid.patch_size, crop=True))
            is not first
        )
        assert PositionTables.of(adapter, pyramid) is first
    made = [first.positions] if first.positions is not None else first.rotary
    assert not any(table.is_inference() for table in made)


@pytest.mark.usefixtures("_compared")
@pytest.mark.parametrize("name", sorted(TABLE))
def test_what_changes_the_weights_is_seen(name):
    encoder, adapter = twin(name)
    weight = adapter.model.get_parameter(TABLE[name])
    saved = {key: 2 * value for key, value in encoder.model.state_dict().items()}

    def step():
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
        frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)
        encoder(frames, gaze).last_hidden_state.square().mean().backward()
        optimizer.step()

    def replaced():
        module = adapter.model.get_submodule(TABLE[name].rpartition(".")[0])
        new = torch.nn.Parameter(torch.randn_like(weight))
        setattr(module, TABLE[name].rpartition(".")[2], new)

    def copied():
        with torch.no_grad():
            weight.copy_(torch.randn_like(weight))

    changes = [
        copied,
        step,
        lambda: encoder.model.load_state_dict(saved),
        lambda: encoder.model.load_state_dict(copy.deepcopy(saved), assign=True),
        lambda: encoder.to(torch.bfloat16),
        lambda: encoder.to(torch.float32),
        replaced,
    ]
    before = tables(adapter).positions
    for change in changes:
        change()
        found = tables(adapter).positions
        assert found.dtype == adapter.dtype
        assert found.equal(fresh(adapter))
        assert found is not before
        assert tables(adapter).positions is found
        before = found


def test_there_and_back_again_is_seen(monkeypatch):
    """Another precision in between rounds the weights, and may put them where they lay."""
    monkeypatch.setattr(patches, "may_wait", lambda device: False)
    encoder, adapter = twin()
    for _ in range(5):
        torch.nn.init.normal_(adapter.model.get_parameter(TABLE["siglip"]))
        tables(adapter)
        encoder.to(torch.bfloat16)
        encoder.to(torch.float32)
        assert tables(adapter).positions.equal(fresh(adapter))


def test_what_is_written_past_the_counter_is_seen_on_a_cpu():
    _, adapter = twin()
    weight = adapter.model.get_parameter(TABLE["siglip"])
    before = tables(adapter).positions
    version = weight._version
    weight.data.mul_(2)
    assert weight._version == version
    assert_close(tables(adapter).positions, 2 * before)


def test_on_a_gpu_it_is_seen_after_a_reset(monkeypatch):
    """Where values are not compared, neither address nor version tells of it."""
    monkeypatch.setattr(patches, "may_wait", lambda device: False)
    encoder, adapter = twin()
    before = tables(adapter)
    adapter.model.get_parameter(TABLE["siglip"]).data.mul_(2)
    assert tables(adapter) is before
    encoder.reset()
    assert_close(tables(adapter).positions, fresh(adapter))
    assert not tables(adapter).positions.equal(before.positions)


def test_gradients_flow_through_tables_that_were_kept():
    encoder, adapter = twin()
    frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)
    with torch.no_grad():
        expected = encoder(frames, gaze).pooler_output
    weight = adapter.model.get_parameter(TABLE["siglip"])
    found = encoder(frames, gaze).pooler_output  # in eval mode
    assert found.equal(expected)
    found.sum().backward()
    assert weight.grad.abs().sum() > 0
    # Frozen, they are kept, and may be in the way of no other gradient.
    encoder.requires_grad_(False)
    kept = PositionTables.of(adapter, PYRAMID)
    assert PositionTables.of(adapter, PYRAMID) is kept
    pixels = frames.clone().requires_grad_()
    encoder(pixels, gaze).pooler_output.sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_rotary_tables_made_in_inference_mode_take_gradients():
    encoder, _ = twin("dinov3")
    frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)
    with torch.inference_mode():
        expected = encoder(frames, gaze).pooler_output.clone()
    pixels = frames.clone().requires_grad_()
    found = encoder(pixels, gaze).pooler_output
    found.sum().backward()
    assert_close(found.detach(), expected, 1e-6)
    assert pixels.grad.abs().sum() > 0


def test_training_keeps_none():
    encoder, adapter = twin()
    kept = tables(adapter)
    encoder.train()
    assert tables(adapter) is not kept
    assert tables(adapter) is not tables(adapter)
    encoder.eval()
    assert tables(adapter) is not kept


def test_few_are_kept_and_they_go_with_the_model():
    from autogaze.vision_encoders.positions import _KEPT

    encoder, adapter = twin()
    for side in range(1, MAX_KEPT + 3):
        with torch.no_grad():
            PositionTables.of_grids(adapter, [side])
    assert len(_KEPT[adapter.model]) == MAX_KEPT
    assert copy.deepcopy(adapter.model) not in _KEPT
    number = len(_KEPT)
    del encoder, adapter
    gc.collect()
    assert len(_KEPT) < number


def test_precisions_do_not_share_tables():
    _, adapter = twin()
    plain = tables(adapter)
    with torch.autocast("cpu", torch.bfloat16):
        assert tables(adapter) is not plain
    assert tables(adapter) is plain


def test_positions_that_read_what_is_no_weight_are_not_kept():
    """Nobody would notice that it has changed."""
    _, adapter = twin()
    table = torch.randn(16, 48)

    class Foreign(type(adapter)):
        def positions(self, grid):
            return table[: grid * grid]

    foreign = Foreign(adapter.model)
    first = tables(foreign)
    assert tables(foreign) is not first
    table.mul_(2)
    assert_close(tables(foreign).positions, 2 * first.positions)
