"""Shapes written in signatures are checked while tests run; fixtures of several rooms."""

import gc
import os
import sys
from collections import Counter

import hypothesis
import jaxtyping
import pytest

from tests.typechecker import typed

# Half of what collecting takes, also in a process that a test starts, is compiling our own files.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says more about the machine's other work than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# The hook writes `@jaxtyping.jaxtyped(...)` in front of every function and class.
jaxtyping.jaxtyped = lambda *, typechecker: typed
jaxtyping.install_import_hook("autogaze", None)


def pytest_collection():
    """Nothing that is imported is garbage: looking for some takes a tenth of collecting."""
    gc.disable()


def pytest_collection_finish():
    """Nor is it when tests run: the collector need not look at all of it again."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish():
    gc.unfreeze()  # or nanobind would call what a module holds leaked


def pytest_collectstart():
    """Imports the largest libraries before the hook can: what a module under it imports is compiled again."""
    import transformers.modeling_utils  # noqa: F401


def pytest_collection_modifyitems(items):
    """Files most of whose tests are slow come first: at the end no process is left with one of them.

    `make test` hands out whole files in this order.
    """
    tests = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path] / tests[item.path])


@pytest.fixture
def unchecked():
    """Annotations unchecked, as where the package is used: its own errors have the word."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def own_encoder_registry(monkeypatch):
    """Encoders registered by a test are forgotten after it."""
    from autogaze.vision_encoders import registry

    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))


@pytest.fixture
def own_mllm_registry(monkeypatch):
    """Families of multimodal LLMs registered by a test are forgotten after it."""
    from autogaze.mllm import registry

    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
