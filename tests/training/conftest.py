"""What all tests of training share."""

import functools

import pytest
import torch

from autogaze.datasets import procedural

draw_clip = procedural.draw_clip


@functools.lru_cache(128)
def _drawn(settings: procedural.ProceduralSettings, state: bytes) -> torch.Tensor:
    generator = torch.Generator()
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return draw_clip(settings, generator)


@pytest.fixture(autouse=True)
def clips_drawn_once(monkeypatch):
    """Nearly all tests train on the same clips, and drawing one takes as long as training on it."""

    def drawn(settings, generator):
        return _drawn(settings, generator.get_state().numpy().tobytes())

    monkeypatch.setattr(procedural, "draw_clip", drawn)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its state for a whole process; every test starts without."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def curves():
    """What a test asks for to have the curves of its trainings drawn."""


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    """Drawing them takes several times as long as a tiny training."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("autogaze.training.logging.draw_curves", lambda *_: False)
