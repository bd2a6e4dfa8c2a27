"""`autogaze demo` refuses what cannot be served, before anything heavy is loaded."""

import importlib.util
import os
import socket

import pytest

from autogaze.demo.server import QUIET, free_port, page_folder
from autogaze.errors import AutoGazeError, OutputError
from tests.cli.commands import fails, run


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in fails("demo", "--port", port)
        with pytest.raises(AutoGazeError, match=r"in use.*--port"):
            free_port("127.0.0.1", port)


@pytest.mark.parametrize("port", ["-1", "65536", "many"])
def test_a_port_that_is_none(port):
    fails("demo", "--port", port)


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", "::ffff:::"])
def test_a_host_that_is_not_this_machine(host):
    assert host in fails("demo", "--port", 0, "--host", host)


def test_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below", "/proc"):
        assert str(folder) in fails("demo", "--port", 0, "--folder", folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_others(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError), page_folder(tmp_path):
        pass


def test_a_missing_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "autogaze.demo.server.find_spec",
        lambda name: None if name == "gradio" else found(name),
    )
    assert "autogaze[demo]" in fails("demo", "--port", 0)


@pytest.mark.parametrize(
    "words",
    [
        "--max-mb 0",
        "--max-seconds -1",
        "--max-frames 0",
        "--max-tiles 0",
        "--jobs 0",
        "--webcams 0",
    ],
)
def test_limits_that_allow_nothing(words):
    fails("demo", "--port", 0, *words.split())


def test_the_folder_is_removed(tmp_path):
    with page_folder(tmp_path) as root:
        (root / "upload").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_made_and_stays(tmp_path):
    with page_folder(tmp_path / "new" / "pages") as root:
        assert root.parent == tmp_path / "new" / "pages"
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "pages"]


def test_nothing_is_public_unless_asked():
    assert QUIET["GRADIO_SHARE"] == "False"
    assert "127.0.0.1" in run("demo", "--help").stdout


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--device", "toaster"], "toaster"),
        (["--dtype", "float8"], "float8"),
        (["--dtype", "bfloat16", "--selector", "greedy", "--selector", "change"], "greedy, change"),
    ],
)
def test_models_that_cannot_be(words, value):
    assert value in fails("demo", "--port", 0, *words)
