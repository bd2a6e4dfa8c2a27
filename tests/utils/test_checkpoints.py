"""Reading checkpoints in every form they come in, and loading them strictly."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autogaze.errors import CheckpointError
from autogaze.models.autogaze import AutoGaze
from autogaze.models.autogaze.gazing import PlainAutoGaze
from autogaze.reconstruction.video_mae import save_video_mae
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.utils.checkpoints import (
    describe_mismatch,
    load_strictly,
    read_config,
    read_state,
    under_prefix,
    wrapper_prefix,
)
from autogaze.utils.hub import find_checkpoint
from tests.models.autogaze.tiny import tiny_model
from tests.tasks.material import tiny_mae

PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "a.b."]


@pytest.fixture
def state():
    return {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_folders_and_files(tmp_path, state):
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "videomae.pt")
    assert_same(read_state(tmp_path), state)
    assert_same(read_state(tmp_path / "model.safetensors"), state)
    assert_same(read_state(tmp_path / "videomae.pt"), state)


def test_shards(tmp_path, state):
    for number, (name, value) in enumerate(state.items(), 1):
        save_file({name: value}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    assert_same(read_state(tmp_path), state)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_refused_with_what_to_do(tmp_path, state, name):
    torch.save(state, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=rf"{name}.*save_file"):
            read_state(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(state, value):
    module = torch.nn.Linear(3, 2)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    state["bias"][1] = value
    with pytest.raises(CheckpointError, match=r"here: 1 .*\(bias\)"):
        load_strictly(module, state, "here")
    assert_same(module.state_dict(), before)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, b"\x08" + b"\0" * 7 + b"{[{[{[{["])
def test_damaged_safetensors(tmp_path, damage):
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_state(tmp_path)


def test_what_cannot_be_read(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("executed",)

    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"weight": Code()}, tmp_path / "code.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    for name in ("list.pt", "code.pt", "broken.safetensors", "broken.pt", "empty", "none"):
        with pytest.raises(CheckpointError, match=name):
            read_state(tmp_path / name)


def test_configurations(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"width": 3}))
    assert read_config(tmp_path) == read_config(tmp_path / "weights.pt") == {"width": 3}
    for text in ("{", "[]"):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read_config(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


def test_finding_them(tmp_path, monkeypatch):
    import huggingface_hub

    def snapshot(name, allow_patterns):
        if name != "owner/name":
            raise OSError("no network\nmore")
        assert "pytorch_model.bin" not in allow_patterns  # pickles are not even fetched
        return tmp_path

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find_checkpoint(str(tmp_path)) == tmp_path
    assert find_checkpoint("owner/name") == tmp_path
    with pytest.raises(CheckpointError, match=r"owner/other.*\(no network\)"):
        find_checkpoint("owner/other")
    for path in ("./nowhere/model", "nowhere", "a/b/c", "owner/model.pt", "x" * 300, "x" * 5000):
        with pytest.raises(CheckpointError, match=path):
            find_checkpoint(path)


def test_strict_loading(state):
    module = torch.nn.Linear(3, 2)
    load_strictly(module, state, "here")
    assert_same(module.state_dict(), state)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrong = {"weight": torch.zeros(2, 4), "other": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(module, wrong, "here", hint="Look there")
    for word in ("here", "missing (bias)", "unexpected (other)", "weight (2, 4)", "(2, 3)", "Look"):
        assert word in str(caught.value)
    assert_same(module.state_dict(), before)


def test_loading_some_of_a_module(state):
    module = torch.nn.Linear(3, 2)
    bias = module.bias.detach().clone()
    load_strictly(module, {"weight": state["weight"]}, "here", names=["weight"])
    assert torch.equal(module.weight, state["weight"])
    assert torch.equal(module.bias, bias)
    with pytest.raises(CheckpointError, match="bias"):
        load_strictly(module, state, "here", names=["weight"])


def test_mismatches_in_words():
    assert describe_mismatch(missing=[], unexpected=(), misshapen=iter(())) == ""
    text = describe_mismatch(missing=map(str, range(9)), unexpected=["a"], misshapen=[])
    assert text == "9 missing (0, 1, 2, 3, 4, ...); 1 unexpected (a)"


def test_prefixes(state):
    assert_same(under_prefix({f"a.{name}": v for name, v in state.items()}, "a."), state)
    assert under_prefix(state, "a.") == {}


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("own", ["", "module."])
def test_names_of_wrapped_modules(prefix, own):
    """As `DistributedDataParallel`, `torch.compile` and Lightning save them."""
    part = nn.Linear(2, 3)
    state = {f"{prefix}{own}{name}": value for name, value in part.state_dict().items()}
    module = nn.Linear(2, 3)
    if own:
        module = nn.ModuleDict({"module": module})
    load_strictly(module, state, "here")
    assert_same(dict(zip(state, module.state_dict().values(), strict=True)), state)


def test_prefixes_that_are_not_those_of_wrappers():
    own = {"weight", "bias"}.__contains__
    assert wrapper_prefix([], own) == ""
    assert wrapper_prefix(["a.weight", "b.bias"], own) == ""  # two parts
    assert wrapper_prefix(["a.other", "a.else"], own) == ""
    assert wrapper_prefix(["a", "a.weight"], own) == ""
    assert wrapper_prefix(["weight", "module.bias"], own) == ""


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrapped_selectors_and_video_maes_load(tmp_path, prefix):
    def wrap(folder):
        state = load_file(folder / "model.safetensors")
        named = {prefix + name: value for name, value in state.items()}
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})

    model, mae = tiny_model(), tiny_mae()
    model.save_pretrained(tmp_path / "selector")
    save_video_mae(mae, tmp_path / "mae")
    wrap(tmp_path / "selector")
    wrap(tmp_path / "mae")
    found = AutoGaze.from_pretrained(tmp_path / "selector")
    found.save_pretrained(tmp_path / "again")  # under its own names
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == model.state_dict().keys()
    assert_same(found.state_dict(), model.state_dict())
    plain = PlainAutoGaze.load(tmp_path / "selector", torch.float32)
    assert_same(plain.state_dict(), model.state_dict())
    task = VideoMAETask.from_checkpoint(tmp_path / "mae")
    assert_same(task.mae.state_dict(), mae.state_dict())
    task.load_weights(tmp_path / "mae")
