"""What all tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its state for a whole process; every test starts without."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def no_curves(monkeypatch):
    """They are drawn in tests of their own, and take longer than a tiny training."""
    monkeypatch.setattr("autogaze.training.logging.draw_curves", lambda *_: False)
