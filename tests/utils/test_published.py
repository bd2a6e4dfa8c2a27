"""The helpers that AutoGaze's users import from `autogaze.utils`."""

import builtins
import logging
import os
import random
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from autogaze.errors import AutoGazeError, OutputError
from autogaze.utils import (
    AverageScalarMeter,
    UnNormalize,
    dump_cfg,
    format_kwargs,
    get_gazing_pos_from_gazing_mask,
    get_scheduled_temperature,
    move_inputs_to_cuda,
    plot_grad_norms,
    seed_everything,
    seed_worker,
    suppress_logging,
    suppress_print,
    suppress_wandb,
    unwrap_model,
)
from autogaze.utils.normalization import IMAGENET


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 6, 3, 4, 5)])
def test_unnormalize_is_the_inverse(shape):
    rgb = torch.rand(shape)
    pixels = IMAGENET.normalise(rgb)
    before = pixels.clone()
    assert torch.allclose(UnNormalize(IMAGENET.mean, IMAGENET.std)(pixels), rgb, atol=1e-6)
    assert pixels.equal(before)


@pytest.mark.parametrize(
    ("rescale_factor", "expected"),
    [(None, [0.0, 0.5, 1.0]), (1 / 255, [0.0, 0.5, 1.0]), (1 / 127.5, [0.25, 0.75, 1.0])],
)
def test_unnormalized_pixels_lie_between_0_and_1(rescale_factor, expected):
    pixels = torch.tensor([-2.0, 0.0, 4.0]).view(1, 1, 3)  # * 0.5 + 0.5: -0.5, 0.5, 2.5
    values = UnNormalize((0.5,), (0.5,), rescale_factor)(pixels).flatten()
    assert values.tolist() == pytest.approx(expected)


def test_unnormalize_refuses_other_channels():
    with pytest.raises(AutoGazeError, match=r"3.*\(2, 4, 4\)"):
        UnNormalize(IMAGENET.mean, IMAGENET.std)(torch.rand(2, 4, 4))
    with pytest.raises(AutoGazeError):
        UnNormalize((0.5,), (0.5, 0.5))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_positions_of_a_mask(clips, patches, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(clips, patches, generator=generator) < 0.3
    for given_mask in (mask, mask.float(), mask.long()):
        gazing_pos, if_padded_gazing = get_gazing_pos_from_gazing_mask(given_mask)
        assert gazing_pos.shape == if_padded_gazing.shape == (clips, int(mask.sum(1).max()))
        assert gazing_pos.dtype == torch.long
        for row in range(clips):
            expected = mask[row].nonzero().flatten().tolist()
            padding = [-1] * (gazing_pos.shape[1] - len(expected))
            assert gazing_pos[row].tolist() == expected + padding
        assert if_padded_gazing.equal(gazing_pos == -1)


def test_positions_of_no_clip():
    assert [x.shape for x in get_gazing_pos_from_gazing_mask(torch.zeros(0, 5))] == [(0, 0), (0, 0)]


def test_a_mask_of_another_form_is_refused():
    with pytest.raises(AutoGazeError, match=r"\(3, 2, 20\).*flatten"):
        get_gazing_pos_from_gazing_mask(torch.zeros(3, 2, 20))


def test_wrapped_models_are_unwrapped():
    model = nn.Linear(1, 1)
    assert unwrap_model(model) is model
    assert unwrap_model(nn.DataParallel(model)) is model
    assert unwrap_model(torch.compile(nn.DataParallel(model), backend="eager")) is model
    holder = nn.Module()
    holder.module = model  # a model of one's own may have a part of this name
    assert unwrap_model(holder) is holder


@pytest.fixture
def global_state(monkeypatch):
    """What seeding changes, put back afterwards."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    for name in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeds_repeat_all_generators(global_state):
    torch.backends.cudnn.benchmark = True
    seed_everything(7)
    assert os.environ["PYTHONHASHSEED"] == "7"
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    seed_everything(2**40)


def test_workers_draw_by_the_seed_of_their_process(global_state):
    torch.manual_seed(5)
    seed_worker(1)
    first = draw()
    torch.manual_seed(5)
    seed_worker(1)
    assert draw() == first
    torch.manual_seed(5)
    seed_worker(2)
    assert draw()[2] != first[2]


def test_the_temperature_goes_from_its_start_to_its_end():
    args = {"mode": "exp", "exp": {"temp_start": 3.0, "temp_end": 0.3}}
    values = [get_scheduled_temperature(step, 10, args) for step in (0, 5, 10, 20)]
    assert values == pytest.approx([3.0, 0.9**0.5, 0.3, 0.03])
    assert get_scheduled_temperature(1, 2.5, args) == pytest.approx(3 * 0.1**0.4)
    with pytest.raises(AutoGazeError, match="cosine"):
        get_scheduled_temperature(0, 1, {"mode": "cosine"})


def test_the_meter_means_over_its_window():
    meter = AverageScalarMeter(4)
    assert (len(meter), meter.get_mean()) == (0, 0.0)
    meter.update(torch.tensor([1.0, 3.0]))
    assert (len(meter), meter.get_mean()) == (2, 2.0)
    meter.update(5.0)
    assert (len(meter), meter.get_mean()) == (3, 3.0)
    meter.update(torch.full((9,), 7.0))
    assert (len(meter), meter.get_mean()) == (4, 7.0)
    meter.update(torch.empty(0))
    assert len(meter) == 4
    meter.clear()
    assert (len(meter), meter.get_mean()) == (0, 0.0)
    with pytest.raises(AutoGazeError, match="0"):
        AverageScalarMeter(0)


def test_inputs_keep_their_form():
    inputs = {"video": torch.ones(2), "extra": [torch.zeros(1), (torch.ones(1), "name")], "n": 3}
    moved = move_inputs_to_cuda(inputs)
    assert moved is inputs  # users read the dict that they gave
    assert moved["extra"][1][1] == "name"
    assert moved["n"] == 3
    assert isinstance(moved["extra"][1], tuple)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert moved["video"].device.type == moved["extra"][0].device.type == device


def test_what_dump_cfg_writes_is_read_back(tmp_path):
    cfg = OmegaConf.create({"b": {"lr": 1e-4, "of": "${a}"}, "a": [1, None, True, "x: y"]})
    path = dump_cfg(cfg, str(tmp_path))
    assert path == tmp_path / "config.yaml"
    found = OmegaConf.load(path)
    assert found == OmegaConf.to_container(cfg, resolve=True)
    assert list(found) == ["b", "a"]
    with pytest.raises(OutputError, match="nowhere"):
        dump_cfg(cfg, tmp_path / "nowhere")


@pytest.mark.parametrize("make", [OmegaConf.create, lambda cfg: SimpleNamespace(
    trainer=SimpleNamespace(**cfg["trainer"]))])  # fmt: skip
def test_format_kwargs_takes_the_options_that_are_there(make):
    cfg = make({"trainer": {"lr": 3, "seed": 0}})
    wanted = [("rate", "trainer", "lr"), ("x", "trainer", "none"), ("y", "task", "lr"),
              ("seed", "trainer", "seed")]  # fmt: skip
    assert format_kwargs(cfg, wanted) == {"rate": 3, "seed": 0}


def test_norms_of_gradients_by_name():
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert plot_grad_norms(model.named_parameters(), "gaze/") == {"gaze/weight": 5.0}


def test_what_is_suppressed_is_silent(monkeypatch, capsys):
    """In a process of its own in use; here everything is put back."""
    log = logging.getLogger("autogaze")
    monkeypatch.setattr(builtins, "print", print)
    monkeypatch.setattr(log, "handlers", list(log.handlers))
    monkeypatch.setattr(log, "propagate", log.propagate)
    calls = []
    wandb = ModuleType("wandb")
    wandb.log, wandb.run = lambda values: calls.append(values), object()
    wandb.__spec__ = ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    model = nn.Linear(1, 1)
    model.weight.grad = torch.ones(1, 1)
    plot_grad_norms(model.named_parameters())
    assert calls == [{"weight": 1.0}]
    suppress_print()
    suppress_logging()
    suppress_wandb()
    print("seen")
    log.error("seen")
    wandb.log({"x": 1})
    assert len(calls) == 1
    found = capsys.readouterr()
    assert "seen" not in found.out + found.err


def test_seeds_are_whole_numbers_of_any_type():
    seed_everything(3)
    expected = torch.rand(2), np.random.rand()
    seed_everything(np.int64(3))
    assert torch.rand(2).equal(expected[0])
    assert np.random.rand() == expected[1]
    with pytest.raises(AutoGazeError, match=r"seed.*'x'"):
        seed_everything("x")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "pixels",
    [np.zeros((3, 4, 4)), None, [[0.0]], torch.zeros(3, 4, 4, dtype=torch.uint8),
     torch.zeros(3, 4, 4).long(), torch.zeros(3, 4, 4).to_sparse()],
)  # fmt: skip
def test_unnormalize_takes_floats_alone(pixels):
    """Of integers mean and deviation would be cut to 0, without an error."""
    with pytest.raises(AutoGazeError, match="floats"):
        UnNormalize(IMAGENET.mean, IMAGENET.std)(pixels)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [(0.5, 0.5), (None, None), ("abc", "abc"), ((0.5,), (0.5,), "a")])
def test_unnormalize_takes_numbers_per_channel(given):
    with pytest.raises(AutoGazeError, match="got"):
        UnNormalize(*given)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("mask", [np.zeros((2, 3)), [[1, 0]], None, [torch.zeros(1, 2, 4)]])
def test_a_mask_that_is_no_tensor_is_refused(mask):
    with pytest.raises(AutoGazeError, match="a dense tensor"):
        get_gazing_pos_from_gazing_mask(mask)
