"""The weights that come with the package."""

import json
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import autogaze
from autogaze.clips import Clips
from autogaze.datasets.clip import ClipKey
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.gazing import PlainAutoGaze
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.selectors import registry
from autogaze.selectors.learned import Learned
from autogaze.training.checkpoints import load_gaze
from autogaze.training.mixture import read_dataset
from autogaze.weights import SELECTOR
from tests.models.autogaze.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def learned():
    return autogaze.load("learned")


@pytest.fixture(scope="module")
def clips():
    """Drawn scenes that nobody has seen: six of four frames."""
    source = read_dataset({"name": "procedural", "num_clips": 6, "clip_len": 4})
    drawn = source.clips("val", PatchPyramid(), 12345)
    return torch.stack([drawn[ClipKey(0, number)].frames for number in range(6)])


def mean_loss(clips, gaze):
    return float(canvas_losses(clips, gaze).mean())


def test_they_are_small_on_disk_and_exact_in_memory(learned):
    stored = load_file(SELECTOR / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert (SELECTOR / "model.safetensors").stat().st_size < 8e6
    assert {p.dtype for p in learned.model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in learned.model.parameters()) == 3_258_240
    assert learned.model.config.decode_positions == "sequential"
    assert learned.model.config.inhibition_of_return == 0.05
    for name, value in learned.model.state_dict().items():
        assert torch.equal(value, stored[name].float()), name


def test_they_are_loaded_as_by_transformers(learned):
    """Without it, which is imported when the model is asked for."""
    plain, model = PlainAutoGaze.load(SELECTOR, torch.float32), learned.model
    expected = AutoGaze.from_pretrained(SELECTOR, dtype=torch.float32)
    for found in (plain, model):
        assert found.config.to_dict() == expected.config.to_dict()
        assert found.state_dict().keys() == expected.state_dict().keys()
        assert (found.device, found.dtype) == (expected.device, expected.dtype)
        assert not found.training
        wanted = expected.state_dict()
        assert all(value.equal(wanted[name]) for name, value in found.state_dict().items())
    assert isinstance(model, AutoGaze)
    assert learned.model is model


@pytest.mark.parametrize("saved", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asked", [{}, {"dtype": torch.float32}, {"dtype": "auto"}])
@pytest.mark.parametrize("is_told", [True, False])
def test_folders_are_loaded_as_by_transformers(saved, asked, is_told, tmp_path):
    tiny_model().to(saved).save_pretrained(tmp_path)
    if not is_told:  # in which precision: it is that of the weights
        config = json.loads((tmp_path / "config.json").read_text())
        del config["dtype"]
        (tmp_path / "config.json").write_text(json.dumps(config))
    selector = Learned.from_pretrained(tmp_path, **asked)
    assert isinstance(selector._model, PlainAutoGaze)
    expected = AutoGaze.from_pretrained(tmp_path, **{"dtype": "auto", **asked})
    told = {"dtype": expected.dtype}  # which transformers 4 writes down only where it was given
    assert {**selector.config.to_dict(), **told} == {**expected.config.to_dict(), **told}
    wanted, found = expected.state_dict(), selector.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(found[name].dtype == value.dtype for name, value in wanted.items())
    assert all(found[name].equal(value) for name, value in wanted.items())
    assert all(parameter.requires_grad for parameter in selector.model.parameters())


def test_choosing_imports_no_models_of_transformers(tmp_path):
    """Which take seconds and 170 MiB; nor does counting what it saves, for the page."""
    shutil.copytree(SELECTOR, tmp_path / "own")
    code = (
        "import sys, torch, autogaze; from autogaze.evaluation.flops import SavingsCounter; frames = torch.zeros(1, 1, 3, 224, 224, dtype=torch.uint8); "
        "selector = autogaze.load(sys.argv[1], device='cpu', dtype='float32'); "
        "gaze = selector.select(frames, ratio=0.01); print(gaze.num_patches, selector.dtype); "
        "SavingsCounter(selector).add(gaze); "
        "print(*{'transformers.modeling_utils', 'torch._dynamo', 'triton'} & set(sys.modules))"
    )
    for name in ("learned", tmp_path / "own"):
        command = [sys.executable, "-c", code, str(name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["2 torch.float32", ""]


def test_loading_draws_no_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    registry.load("learned")
    assert torch.rand(3).equal(expected)


def test_a_training_can_start_from_the_selector():
    model = registry.load("learned").model
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data.zero_()
    load_gaze(model, "learned")
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_nothing_is_fetched(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *a, **k: pytest.fail("network"))
    assert registry.load("learned").model is not registry.load("learned").model


def test_the_wheel_holds_them():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = options["tool"]["setuptools"]["package-data"]["autogaze"]
    packed = {path for pattern in patterns for path in (ROOT / "autogaze").glob(pattern)}
    files = {path for path in (ROOT / "autogaze" / "weights").rglob("*") if path.is_file()}
    wanted = {path for path in files if path.suffix not in (".py", ".pyc")}
    assert SELECTOR / "model.safetensors" in wanted
    assert wanted <= packed


@pytest.mark.parametrize(("ratio", "share"), [(0.03, 0.9), (0.1, 0.97)])
def test_they_see_what_they_choose(learned, clips, ratio, share):
    seen = Clips(clips)
    own = learned.select(seen, ratio=ratio)
    loss = mean_loss(clips, own)
    # What other selectors take at random or in the middle, and what it takes of another clip.
    rolled = autogaze.Gaze.cat_clips([own[number - 1] for number in range(6)])
    generator = torch.Generator().manual_seed(0)
    for name in ("random", "centre", "run-length"):
        other = autogaze.load(name).select(seen, ratio=ratio, generator=generator)
        assert loss < mean_loss(clips, other), name
    assert loss < share * mean_loss(clips, rolled)


def test_they_stop_earlier_where_more_may_be_lost(learned, clips):
    gazes = {loss: learned.select(Clips(clips), loss=loss) for loss in (0.02, 0.05)}
    taken = [gaze.num_patches for gaze in gazes.values()]
    assert taken[0] > 1.5 * taken[1]
    assert mean_loss(clips, gazes[0.02]) < mean_loss(clips, gazes[0.05]) < 0.08


def test_they_stop_unasked_where_they_say(learned, clips):
    assert learned.default_loss == 0.02
    unasked, asked = learned.select(Clips(clips)), learned.select(Clips(clips), loss=0.02)
    assert torch.equal(unasked.ids, asked.ids)
    # And so does the call that AutoGaze's users know.
    video = normalise(clips.float() / 255)
    called = learned.model({"video": video}, generate_only=True)
    assert torch.equal(called.gaze.ids, asked.ids)
    assert 24 < asked.num_patches < 0.7 * 24 * 265
