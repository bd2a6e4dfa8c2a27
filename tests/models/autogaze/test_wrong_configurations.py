"""Values of config.json that no model can have, and checkpoints whose sizes do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import autogaze
from autogaze.errors import AutoGazeError, CheckpointError, TrainingError
from autogaze.models.autogaze import AutoGaze
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig, load_video_mae
from autogaze.reconstruction.video_mae.checkpoint import save_video_mae
from autogaze.training.factory import build_model
from tests.cli.commands import fails
from tests.models.autogaze.tiny import tiny_model
from tests.training.tiny import MODEL

NAN = float("nan")
DECODER, STEM = "gaze_decoder_config", "vision_model_config"

WRONG: list[tuple[str, Any]] = [
    *((f"{DECODER}.hidden_size", value) for value in (-1, 0, 2**63, 0.5, "48", None, [48], True)),
    *((f"{DECODER}.num_hidden_layers", value) for value in (0, -2, 2**63, "2")),
    *((f"{DECODER}.num_attention_heads", value) for value in (0, -4, 5, NAN)),
    *((f"{DECODER}.num_multi_token_pred", value) for value in (0, 0.5, -1, 2**40)),
    *((f"{DECODER}.head_dim", value) for value in (-2, 3, "12")),
    (f"{DECODER}.rms_norm_eps", NAN),
    (f"{DECODER}.initializer_range", -1),
    (f"{DECODER}.vocab_size", 22),
    *((f"{DECODER}.rope_parameters", value) for value in ("llama3", 5, {"rope_type": "other"})),
    (f"{DECODER}.rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}),
    (f"{DECODER}.rope_parameters", {"rope_type": "default", "rope_theta": NAN}),
    *((f"{STEM}.hidden_dim", value) for value in (0, -1, 65536, 2**63, "48")),
    *((f"{STEM}.kernel_size", value) for value in (0, -16, 2**20, "16", None)),
    *((f"{STEM}.depth", value) for value in (-1, 2**31, 1.5)),
    (f"{STEM}.out_dim", 24),
    (f"{STEM}.trunk_spatial_kernel_size", 2),
    ("connector_config.num_tokens", 2**63),
    ("input_img_size", 0),
    *((name, value) for name in (DECODER, STEM, "connector_config") for value in (5, "x", [1])),
]


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The configuration with another value at a path below `gaze_model_config`."""
    config = json.loads(json.dumps(config))
    *groups, name = ("gaze_model_config", *path.split("."))
    group = config
    for part in groups:
        group = group.setdefault(part, {})
    group[name] = value
    return config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tiny_model().save_pretrained(folder)
    return folder


def copied(checkpoint: Path, folder: Path) -> Path:
    copy = folder / "changed"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_values_that_no_model_can_have(
    path: str, value: Any, checkpoint: Path, tmp_path: Path
) -> None:
    folder = copied(checkpoint, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(changed(config, path, value)))
    for load in (autogaze.load, AutoGaze.from_pretrained):
        with pytest.raises(AutoGazeError, match="changed") as caught:
            load(str(folder))
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pair
        for pair in WRONG
        if not (pair[1] is None or pair[0].endswith(("out_dim", "vocab_size")))
    ],
)
def test_training_refuses_them_by_the_options_name(path: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=r"^model"):
        build_model(changed(MODEL, path, value))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '"x"', "[" * 100_000, '{"scales": {"a": 1}}', "\x00"]
)
def test_what_is_no_configuration(text: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(AutoGazeError, match="changed"):
        autogaze.load(str(folder))
    assert "changed" in fails("info", folder)


def test_sizes_are_compared_before_memory_is_taken(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(checkpoint, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config = changed(config, f"{DECODER}.intermediate_size", 60_000)  # 35 million weights
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", pytest.fail)
    with pytest.raises(CheckpointError, match=r"changed: .*of another shape"):
        AutoGaze.from_pretrained(folder)


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_weights_that_are_not_finite(value: float, checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "gazing_model.gaze_decoder.model.norm.weight"
    weights[name][3] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"changed: .*{name}"):
        autogaze.load(str(folder))


@pytest.mark.parametrize("size", [0, 7, 100, -10])
def test_weights_that_are_cut_short(size: int, checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="changed"):
        AutoGaze.from_pretrained(folder)


def test_pickled_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    for load in (autogaze.load, AutoGaze.from_pretrained):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*save_file"):
            load(str(folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", 2**63),
        ("num_attention_heads", 0),
        ("patch_size", -16),
        ("max_num_frames", 10**9),
        ("num_hidden_layers", 1.5),
        ("layer_norm_eps", NAN),
        ("scales", [NAN]),
    ],
)
def test_values_that_no_video_mae_can_have(name: str, value: Any, tmp_path: Path) -> None:
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = VideoMAEConfig(
        "32+64", image_size=64, **shape, decoder_hidden_size=16, decoder_num_attention_heads=2
    )
    save_video_mae(VideoMAE(config), tmp_path / "mae")
    file = tmp_path / "mae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(AutoGazeError, match="mae"):
        load_video_mae(tmp_path / "mae")
