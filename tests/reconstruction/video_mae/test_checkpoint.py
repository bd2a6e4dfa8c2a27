"""Reading and writing VideoMAEs."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from autogaze.errors import CheckpointError, OutputError
from autogaze.gaze import Gaze
from autogaze.reconstruction.video_mae import (
    VideoMAE,
    load_video_mae,
    save_video_mae,
)
from autogaze.reconstruction.video_mae.checkpoint import VIDEO_PARAMETERS
from tests.disks import small_disk
from tests.reconstruction.video_mae.material import SMALL, some_video, tiny_video_mae


@pytest.fixture(scope="module")
def mae():
    return tiny_video_mae()


def image_mae(folder):
    """A tiny ViT-MAE as transformers writes it."""
    import transformers as tf

    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    values = {name: value for name, value in asdict(SMALL).items() if name not in ("scales",)}
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
    with small_disk(kilobytes=16), pytest.raises(OutputError):
        save_video_mae(other, tmp_path, note="new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_video_mae(other, tmp_path / "file")


def test_weights_in_parts(tmp_path, mae):
    save_video_mae(mae, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
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
    with pytest.raises(CheckpointError, match=r"missing.*decoder\.mask_token"):
        load(without)
    # A video model that has lost one of its embeddings is no image MAE.
    without = {k: v for k, v in state.items() if k != "decoder.time_embed"}
    with pytest.raises(CheckpointError, match=r"missing.*decoder\.time_embed"):
        load(without)
    with pytest.raises(CheckpointError, match=r"unexpected.*vit\.extra"):
        load({**state, "vit.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"time_embed \(8, 16\).*\(4, 16\)"):
        load(state, replace(SMALL, max_num_frames=4))
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"broken.safetensors"):
        load_video_mae(tmp_path / "broken.safetensors", SMALL)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="list"):
        load_video_mae(tmp_path / "list.pt", SMALL)
    with pytest.raises(CheckpointError, match=r"none.pt"):
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
    with pytest.raises(CheckpointError, match=r"hidden_size.*int.*'24'"):
        load(json.dumps({**values, "hidden_size": "24"}))
    with pytest.raises(CheckpointError):
        load(json.dumps({**values, "hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match=r"config.json"):
        load("{")
    with pytest.raises(CheckpointError, match="scales"):
        load_video_mae(tmp_path, SMALL, scales="64")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config.json"):
        load_video_mae(tmp_path)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("no network\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"facebook/vit-mae-large.*\(no network\)"):
        load_video_mae("facebook/vit-mae-large")
    with pytest.raises(CheckpointError, match=r"./nowhere/model"):
        load_video_mae("./nowhere/model")
