"""VideoMAE: exact, and blind to everything that must not matter."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from autogaze.errors import CheckpointError, GeometryError, OutputError
from autogaze.gaze import Gaze
from autogaze.reconstruction.video_mae import (
    VideoMAE,
    VideoMAEConfig,
    load_video_mae,
    save_video_mae,
)
from autogaze.reconstruction.video_mae.checkpoint import VIDEO_PARAMETERS
from autogaze.reconstruction.video_mae.layers import (
    DecoderCells,
    grid_positions,
    resized_1d,
    resized_2d,
)
from tests.disks import small_disk
from tests.tasks.material import TINY

SMALL = replace(TINY, scales="32+64", max_num_frames=8, image_size=64, patch_size=16)


@pytest.fixture(scope="module")
def mae():
    torch.manual_seed(0)
    model = VideoMAE(SMALL).eval()
    for parameter in model.parameters():  # embeddings large enough that mistakes show
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def some_gaze(clips=2, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    V = SMALL.pyramid.num_patches
    lengths = torch.randint(1, V, (clips, frames), generator=generator)
    ids = [torch.randperm(V, generator=generator)[:n] for n in lengths.flatten().tolist()]
    return Gaze(SMALL.pyramid, torch.cat(ids), lengths)


def some_video(clips=2, frames=4, seed=0):
    return torch.randn(clips, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_clip_in_a_ragged_batch_is_as_alone(mae):
    video, gaze = some_video(), some_gaze()
    both = mae(video, gaze, [1, 3])
    for clip in range(2):
        alone = mae(video[clip : clip + 1], gaze[clip], [1, 3])
        torch.testing.assert_close(alone[0], both[clip], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_gazed_patches_and_earlier_frames_are_seen(mae):
    video, gaze = some_video(), some_gaze()
    reference = mae(video, gaze, [2])
    later = video.clone()
    later[:, 3] += 1
    torch.testing.assert_close(mae(later, gaze, [2]), reference)
    earlier = video.clone()
    earlier[:, 0] += 1
    assert (mae(earlier, gaze, [2]) - reference).abs().max() > 1e-3
    # Pixels of the finest scale that no patch of any scale was cut from.
    fine = Gaze.from_mask(SMALL.pyramid, torch.arange(20).expand(2, 4, 20) == 4)
    unseen = video.clone()
    unseen[..., 16:, 16:] += 1
    torch.testing.assert_close(mae(unseen, fine, [2]), mae(video, fine, [2]))


@torch.no_grad()
def test_the_order_of_gazes_in_a_frame_does_not_matter(mae):
    video, gaze = some_video(), some_gaze()
    parts = [gaze.frame(clip, frame).flip(0) for clip in range(2) for frame in range(4)]
    flipped = Gaze(gaze.pyramid, torch.cat(parts), gaze.lengths)
    torch.testing.assert_close(
        mae(video, flipped, [0, 3]), mae(video, gaze, [0, 3]), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_frames_come_in_the_order_asked_for(mae):
    video, gaze = some_video(), some_gaze()
    there, back = mae(video, gaze, [0, 3]), mae(video, gaze, [3, 0])
    torch.testing.assert_close(there.flip(1), back)


def test_decoder_cells_hold_everything_once():
    gaze = some_gaze(seed=3)
    cells = DecoderCells.of(gaze, [1], torch.device("cpu"))
    V = SMALL.pyramid.num_patches
    assert cells.lengths[:, 1].tolist() == [V, V]
    assert torch.equal(cells.lengths[:, [0, 2, 3]], gaze.lengths[:, [0, 2, 3]])
    assert torch.equal(cells.ids[cells.gazed], gaze.ids)
    assert len(cells.gazed.unique()) == gaze.num_patches
    whole = cells.ids[cells.is_target].view(2, V)
    assert torch.equal(whole, torch.arange(V).expand(2, V))


def test_position_tables():
    # ViT-MAE's layout: sines and cosines of the column, then of the row.
    table = grid_positions(16, 24)
    assert not table[0].any()
    for cell in range(16):
        row, column = divmod(cell, 4)
        rates = [10000 ** (-k / 6) for k in range(6)]
        wanted = [
            function(place * rate)
            for place in (column, row)
            for function in (math.sin, math.cos)
            for rate in rates
        ]
        torch.testing.assert_close(table[cell + 1], torch.tensor(wanted))


def test_resized_tables():
    table = grid_positions(16, 24)[1:]
    assert resized_2d(table, 4) is table
    assert resized_2d(table, 2).shape == (4, 24)
    assert resized_1d(table, 4).shape == (4, 24)


@pytest.mark.parametrize("scales", ["32+64+112+224", "16+48+80+224", "64+192+256"])
def test_tables_have_a_row_for_every_patch(scales):
    side = int(scales.split("+")[-1])
    model = VideoMAE(replace(SMALL, scales=scales, image_size=side))
    patches = model.config.pyramid.num_patches
    assert model.encoder_positions().shape == (patches, 24)
    assert model.decoder_positions().shape == (patches, 16)


def test_real_scales_reconstruct():
    config = replace(SMALL, scales="32+64+112+224", image_size=224)
    video = torch.randn(1, 1, 3, 224, 224)
    gaze = Gaze.everything(config.pyramid, 1, 1)
    with torch.no_grad():
        assert VideoMAE(config)(video, gaze, [0]).shape == video.shape


def test_every_parameter_learns(mae):
    model = VideoMAE(SMALL)
    video, gaze = some_video(), some_gaze()
    (model(video, gaze, [0, 3]) - video[:, [0, 3]]).abs().mean().backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert still == []


@pytest.mark.parametrize(
    ("video", "gaze", "frames", "message"),
    [
        (some_video(), some_gaze(), [4], r"lie in \[0, 4\), got \[4\]"),
        (some_video(), some_gaze(), [], "got \\[\\]"),
        (some_video(frames=3), some_gaze(), [0], "expected video"),
        (some_video(frames=9), some_gaze(frames=9), [0], "9 frames, this VideoMAE knows 8"),
    ],
)
def test_bad_input(mae, video, gaze, frames, message):
    with pytest.raises(GeometryError, match=message):
        mae(video, gaze, frames)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(CheckpointError, match="decoder_hidden_size 512 is no multiple of 7 heads"):
        VideoMAEConfig(decoder_num_attention_heads=7)


@torch.no_grad()
def test_half_precision_comes_near(mae):
    video, gaze = some_video(), some_gaze()
    exact = mae(video, gaze, [1, 3])
    with torch.autocast("cpu", torch.bfloat16):
        rough = mae(video, gaze, [1, 3]).float()
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()


# Checkpoints.


def image_mae(folder):
    """A tiny ViT-MAE as transformers writes it."""
    import transformers as tf

    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    values = {name: value for name, value in SMALL.values().items() if name not in ("scales",)}
    values = {k: v for k, v in values.items() if k in kept or k.startswith("decoder_")}
    values["num_hidden_layers"] = 1
    torch.manual_seed(1)
    model = tf.ViTMAEForPreTraining(
        tf.ViTMAEConfig(**values, image_size=64, patch_size=16, mask_ratio=0.0)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def test_image_maes_become_video_models(tmp_path):
    image = image_mae(tmp_path)
    model = load_video_mae(tmp_path, scales="64", max_num_frames=3).eval()
    assert model.config.pyramid.scales == (64,)
    assert model.decoder.time_embed.shape == (3, 16)
    # Without the new embeddings, a single frame seen whole is what the image MAE makes.
    for name, parameter in model.named_parameters():
        if name.split(".")[-1] in ("scale_embed", "time_embed", "decoder_scale_embed"):
            torch.nn.init.zeros_(parameter)
    video = some_video(1, 1)
    gaze = Gaze.everything(model.config.pyramid, 1, 1)
    with torch.no_grad():
        encoded = model.encode(video, gaze)
        # Masking nothing still shuffles: noise that ascends keeps the order.
        noise = torch.arange(16.0)[None]
        wanted = image.vit(video[:, 0], noise=noise).last_hidden_state[0]
    # With one layer only: here the class token sees itself alone, there it sees everything.
    torch.testing.assert_close(encoded[1:], wanted[1:], atol=1e-5, rtol=1e-4)
    state = model.state_dict()
    for name in ("decoder.decoder_pred.weight", "decoder.mask_token", "decoder.decoder_pos_embed"):
        assert torch.equal(state[name], image.state_dict()[name])


def test_every_naming_of_an_image_mae_is_read(tmp_path):
    wanted = {
        name: value
        for name, value in VideoMAE(SMALL).state_dict().items()
        if name not in VIDEO_PARAMETERS
    }
    modules = {  # as transformers 5 names them in memory
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "vit.encoder.layer": "vit.layers",
    }
    saved = {"decoder.decoder_layers": "decoder.decoder_encoder.layer"}  # as it writes them
    for renaming in ({}, modules, saved):
        state = {}
        for name, value in wanted.items():
            for ours, theirs in renaming.items():
                name = name.replace(ours, theirs)
            state[name] = value
        save_file(state, tmp_path / "model.safetensors")
        loaded = load_video_mae(tmp_path / "model.safetensors", SMALL).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in wanted.items())


def test_folders_are_written_and_read(tmp_path, mae):
    save_video_mae(mae, tmp_path / "mae", loss_type="l1", loss_weights="1")
    assert json.loads((tmp_path / "mae" / "config.json").read_text())["loss_type"] == "l1"
    read = load_video_mae(tmp_path / "mae")
    assert read.config == SMALL
    own = mae.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in read.state_dict().items())


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, mae):
    save_video_mae(mae, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = VideoMAE(SMALL)
    with small_disk(kilobytes=16), pytest.raises(OutputError, match="cannot be written"):
        save_video_mae(other, tmp_path, note="new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made a folder"):
        save_video_mae(other, tmp_path / "file")


def test_weights_in_parts(tmp_path, mae):
    save_video_mae(mae, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_video_mae(tmp_path)
    names = sorted(state)
    for part, chosen in enumerate((names[::2], names[1::2]), start=1):
        path = tmp_path / f"model-0000{part}-of-00002.safetensors"
        save_file({name: state[name] for name in chosen}, path)
    loaded = load_video_mae(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_checkpoints_that_do_not_fit(tmp_path, mae):
    state = mae.state_dict()

    def load(changed, config=SMALL):
        save_file(changed, tmp_path / "model.safetensors")
        return load_video_mae(tmp_path / "model.safetensors", config)

    without = {k: v for k, v in state.items() if k != "decoder.mask_token"}
    with pytest.raises(CheckpointError, match=r"1 missing \(decoder.mask_token\)"):
        load(without)
    # A video model that has lost one of its embeddings is no image MAE.
    without = {k: v for k, v in state.items() if k != "decoder.time_embed"}
    with pytest.raises(CheckpointError, match=r"1 missing \(decoder.time_embed\)"):
        load(without)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(vit.extra\)"):
        load({**state, "vit.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"time_embed \(8, 16\) instead of \(4, 16\)"):
        load(state, replace(SMALL, max_num_frames=4))
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"broken.safetensors: cannot be read"):
        load_video_mae(tmp_path / "broken.safetensors", SMALL)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds list, not a state dict"):
        load_video_mae(tmp_path / "list.pt", SMALL)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_video_mae(tmp_path / "none.pt", SMALL)


def test_configurations_that_cannot_be_used(tmp_path, mae):
    save_video_mae(mae, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())

    def load(text):
        (tmp_path / "config.json").write_text(text)
        return load_video_mae(tmp_path)

    with pytest.raises(CheckpointError, match="'bert'"):
        load(json.dumps({**values, "model_type": "bert"}))
    with pytest.raises(CheckpointError, match="from_canvas"):
        load(json.dumps({**values, "from_canvas": True}))
    assert load(json.dumps({**values, "from_canvas": False})).config == SMALL
    with pytest.raises(CheckpointError, match=r"hidden_size .* type int, got '24'"):
        load(json.dumps({**values, "hidden_size": "24"}))
    with pytest.raises(CheckpointError, match="only GELU"):
        load(json.dumps({**values, "hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load("{")
    with pytest.raises(CheckpointError, match="not both"):
        load_video_mae(tmp_path, SMALL, scales="64")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config.json"):
        load_video_mae(tmp_path)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("no network\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"facebook/vit-mae-large: .*hub \(no network\)"):
        load_video_mae("facebook/vit-mae-large")
    with pytest.raises(CheckpointError, match="no such checkpoint file or folder"):
        load_video_mae("./nowhere/model")
