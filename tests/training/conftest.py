"""What all tests of training share."""

import pytest


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
