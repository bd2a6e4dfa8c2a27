"""Selectors by name, folder and hub id."""

import subprocess
import sys
from pathlib import Path

import pytest

from autogaze import list_selectors, load
from autogaze.errors import CheckpointError, SelectorError
from autogaze.geometry import PatchPyramid


@pytest.mark.parametrize("name", sorted(list_selectors()))
def test_every_known_name_loads(name: str) -> None:
    selector = load(name)
    assert selector.name == name
    assert selector.pyramid == PatchPyramid()
    assert list_selectors()[name]


def test_the_default_is_greedy() -> None:
    assert load().name == "greedy"


def test_options_reach_the_selector() -> None:
    pyramid = PatchPyramid((32, 64), 16)
    assert load("greedy", pyramid=pyramid).pyramid == pyramid


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("greddy", r"'greddy'.*'greedy'.* greedy, run-length"),
        ("xyz", r"'xyz'.* greedy, run-length"),
        ("./no/such/folder", "/no/such/folder"),
    ],
)
def test_unknown_names_list_the_known_ones(name: str, words: str) -> None:
    with pytest.raises(SelectorError, match=words):
        load(name)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(tmp_path)


def test_a_hub_id_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> str:
        raise OSError("Name or service not known\nand more lines of advice")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(CheckpointError) as caught:
        load("someone/something")
    message = str(caught.value)
    assert "someone/something" in message
    assert "Name or service not known" in message
    assert "lines of advice" not in message


def test_known_names_do_not_use_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> str:
        raise AssertionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    load("greedy")
    with pytest.raises(SelectorError):
        load("./someone/something")


def test_listing_needs_no_torch() -> None:
    code = "import autogaze, sys; print(len(autogaze.list_selectors()), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(len(list_selectors())), "False"]
