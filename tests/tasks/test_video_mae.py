"""VideoMAE reconstruction as a task, and the checkpoints it comes from."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from autogaze.errors import CheckpointError, OutputError, TrainingError
from autogaze.reconstruction.video_mae import load_video_mae
from autogaze.reconstruction.video_mae.checkpoint import PUBLISHED_PIXELS
from autogaze.tasks import losses as loss_networks
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae import VideoMAETask
from tests.tasks.material import (
    TINY,
    published_names,
    some_clips,
    some_gaze,
    tiny_dinov2,
    tiny_mae,
    tiny_siglip,
)


def published_state(mae):
    """A `videomae.pt`: the task's parameters, its frozen networks among them."""
    dinov2 = published_names(tiny_dinov2().state_dict())
    siglip = tiny_siglip().state_dict()
    siglip = {name.removeprefix("vision_model."): value for name, value in siglip.items()}
    return {
        **{f"mae.{name}": value for name, value in mae.state_dict().items()},
        **{f"mae.dinov2_reg.{name}": value for name, value in dinov2.items()},
        **{f"mae.siglip2.vision_model.{name}": value for name, value in siglip.items()},
    }


@pytest.fixture
def videomae_pt(tmp_path):
    path = tmp_path / "videomae.pt"
    torch.save(published_state(tiny_mae()), path)
    return path


def task(**options):
    return VideoMAETask(tiny_mae(), FrameLosses.parse("l1", 1), **options)


def test_losses_are_those_of_the_reconstruction():
    scorer, frames, gaze = task(), some_clips(), some_gaze(TINY.pyramid)
    output = scorer(frames, gaze, [3, 1])
    pixels = scorer.statistics.normalise(frames)
    wanted = (scorer.mae(pixels, gaze, [3, 1]) - pixels[:, [3, 1]]).abs().mean((2, 3, 4))
    torch.testing.assert_close(output.losses, wanted)
    assert output.reconstruction.shape == (2, 2, 3, 32, 32)
    assert not output.reconstruction.requires_grad
    assert output.reconstruction.min() >= 0
    assert output.reconstruction.max() <= 1


def test_it_learns():
    torch.manual_seed(0)
    scorer, gaze = task(), some_gaze(TINY.pyramid)
    frames = some_clips(side=2).repeat_interleave(16, 3).repeat_interleave(16, 4)
    optimizer = torch.optim.Adam(scorer.mae.parameters(), 1e-2)
    first = None
    for _ in range(60):
        loss = scorer(frames, gaze, [1]).loss.mean()
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first


def test_published_file(videomae_pt, monkeypatch):
    monkeypatch.setattr(
        loss_networks, "load_pretrained", lambda *_: pytest.fail("reached for the hub")
    )
    recipe = {"loss_type": "l1+dinov2_reg+siglip2", "loss_weights": "1+0.3+0.3"}
    scorer = VideoMAETask.from_checkpoint(videomae_pt, config=TINY, **recipe)
    frames, gaze = some_clips(), some_gaze(TINY.pyramid)
    found = scorer(frames, gaze, [2])
    own = task(statistics=PUBLISHED_PIXELS)(frames, gaze, [2])
    torch.testing.assert_close(found.reconstruction, own.reconstruction)
    assert list(found.metrics()) == ["loss", "l1", "dinov2_reg", "siglip2"]
    # The same weights under another task's: replaced, networks included.
    other = VideoMAETask.from_checkpoint(videomae_pt, config=TINY, **recipe)
    for parameter in other.parameters():
        parameter.data += 0.1
    other.load_weights(videomae_pt)
    torch.testing.assert_close(other(frames, gaze, [2]).losses, found.losses)


def test_a_file_needs_a_configuration(videomae_pt):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        VideoMAETask.from_checkpoint(videomae_pt)
    with pytest.raises(TrainingError, match=r"'l1'.*loss_weights"):
        VideoMAETask.from_checkpoint(videomae_pt, config=TINY, loss_type="l1")


def test_folder_round_trip(tmp_path):
    losses = FrameLosses.parse("l1", 0.5)
    scorer = VideoMAETask(tiny_mae(), losses)
    scorer.save_pretrained(tmp_path / "deep" / "model")
    read = VideoMAETask.from_checkpoint(tmp_path / "deep" / "model")
    frames, gaze = some_clips(), some_gaze(TINY.pyramid)
    assert torch.equal(read(frames, gaze, [3]).losses, scorer(frames, gaze, [3]).losses)
    assert read.losses.recipe == losses.recipe


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = tmp_path / "evil.pt"
    torch.save({"vit.x": Evil()}, path)
    with pytest.raises(CheckpointError, match="code"):
        load_video_mae(path, TINY)
    assert not (tmp_path / "written").exists()


def test_safetensors_with_and_without_prefix(tmp_path):
    state = tiny_mae().state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    save_file({f"mae.{name}": value for name, value in state.items()}, tmp_path / "m.safetensors")
    for name in ("plain", "m"):
        loaded = load_video_mae(tmp_path / f"{name}.safetensors", TINY)
        assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_an_unknown_term_is_named_before_its_weight_is_asked_for(tmp_path):
    task().save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="'l3'"):
        VideoMAETask.from_checkpoint(tmp_path, loss_type="l3")


def test_half_the_size_on_disk_and_float32_in_memory(tmp_path):
    scorer = task()
    scorer.save_pretrained(tmp_path / "half", half=True)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    back = VideoMAETask.from_checkpoint(tmp_path / "half")
    for name, value in scorer.mae.state_dict().items():
        found = back.mae.state_dict()[name]
        assert found.dtype == value.dtype == torch.float32
        assert torch.equal(found, value.half().float()), name
    assert back.losses.recipe == scorer.losses.recipe


def test_what_half_precision_cannot_hold_is_not_written(tmp_path):
    scorer = task()
    scorer.mae.decoder.mask_token.data[0, 0, 0] = 1e5
    with pytest.raises(OutputError, match=r"decoder\.mask_token.*float16"):
        scorer.save_pretrained(tmp_path / "half", half=True)
    assert not list((tmp_path / "half").iterdir())
    scorer.save_pretrained(tmp_path / "half")
