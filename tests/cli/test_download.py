"""`autogaze download`, from a hub on this machine; the network is never asked."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from autogaze.cli.download import OFFERS, find_offer, show_size
from tests.cli.commands import fails, run
from tests.utils.hub_server import Hub, serving

BIG = bytes(range(256)) * 800  # 205 kB
SELECTOR = {"config.json": b"{}", "model.safetensors": BIG, "README.md": b"read"}
HLVID = {"data/test-00000-of-00001.parquet": b"PAR1", "videos/a.mp4": BIG, "videos/b.mp4": BIG}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch):
    """A hub with two repositories, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    with serving({"models/nvidia/AutoGaze": SELECTOR, "datasets/bfshi/HLVid": HLVID}) as hub:
        point_to(hub.url, tmp_path, monkeypatch)
        yield hub


def point_to(url: str, folder: Path, monkeypatch) -> None:
    """Let the hub's client ask `url`, and keep its cache in `folder`."""
    changed = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in changed.items():
        monkeypatch.setattr(constants, name, value)
        if hasattr(file_download, name):  # older clients keep some of them there as well
            monkeypatch.setattr(file_download, name, value)


def test_into_the_cache_and_into_a_folder(hub: Hub) -> None:
    result = run("download", "autogaze", "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert "205 kB" in result.stderr
    assert "nvidia" in result.stderr
    report = json.loads(result.stdout)
    assert report["bytes"] == sum(map(len, SELECTOR.values()))
    assert (Path(report["folder"]) / "model.safetensors").read_bytes() == BIG
    sent = len(hub.sent)
    again = run("download", "nvidia/AutoGaze", "--yes")
    assert again.exit_code == 0
    assert "205 kB of it here already" in again.stderr
    assert len(hub.sent) == sent
    result = run("download", "HLVid", "--out", "set", "--include", "data/*", "--yes")
    assert result.exit_code == 0, result.output
    assert [p.name for p in Path("set/data").iterdir()] == ["test-00000-of-00001.parquet"]
    assert not Path("set/videos").exists()
    assert run("download", "datasets/bfshi/HLVid", "--out", "set", "--yes").exit_code == 0
    assert Path("set/videos/b.mp4").read_bytes() == BIG


def test_a_line_that_breaks_is_taken_up_again(hub: Hub, monkeypatch) -> None:
    """Within a run in the middle of a file, by a later run at the first file that is not whole."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**14)
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # between its attempts
    words = ("download", "hlvid", "--out", "set", "--yes", "--include")
    hub.break_after = 100_000
    assert run(*words, "videos/a.mp4").exit_code == 0
    assert Path("set/videos/a.mp4").read_bytes() == BIG
    (_, first), (path, second) = hub.sent
    assert (path, first) == ("videos/a.mp4", 0)
    assert 80_000 < second <= 100_000
    hub.break_after, hub.num_breaks = 100, 1000
    message = fails(*words, "*")
    assert "205 kB of it here already" in message
    assert "the same command goes on" in message
    assert not Path("set/videos/b.mp4").exists()
    hub.break_after = None
    hub.sent.clear()
    assert run(*words, "*").exit_code == 0
    assert Path("set/videos/b.mp4").read_bytes() == BIG
    assert "videos/a.mp4" not in {path for path, _ in hub.sent}


def test_nothing_is_fetched_unasked(hub: Hub) -> None:
    message = fails("download", "autogaze")
    assert "--yes" in message
    assert "205 kB" in message
    assert "nvidia" in message
    assert hub.sent == []
    hub.card = {}
    assert "non-commercial" in fails("download", "autogaze")  # as known without a card
    assert "not stated" in fails("download", "hlvid")
    hub.card = {"license": "cc-by-4.0"}
    assert "cc-by-4.0" in fails("download", "hlvid")


def test_the_question_on_a_terminal(hub: Hub, monkeypatch) -> None:
    import typer

    monkeypatch.setattr("autogaze.cli.download.on_a_terminal", lambda: True)
    asked: list[str] = []
    monkeypatch.setattr(typer, "confirm", lambda text, **_: asked.append(text))
    assert run("download", "autogaze").exit_code == 0
    assert len(asked) == 1
    assert hub.sent


@pytest.mark.parametrize(
    ("status", "named"),
    [(403, "terms"), (404, "no such model"), (500, "cannot be fetched")],
)
def test_what_the_hub_refuses(hub: Hub, status: int, named: str) -> None:
    hub.status = status
    message = fails("download", "autogaze", "--yes")
    assert named in message
    assert "nvidia/AutoGaze" in message


def test_bad_input(hub: Hub, monkeypatch) -> None:
    message = fails("download", "nonsense")
    assert all(offer.name in message for offer in OFFERS)
    assert "owner/none" in fails("download", "owner/none", "--yes")
    assert "nothing.txt" in fails("download", "hlvid", "--include", "nothing.txt", "--yes")
    Path("file").touch()
    assert "file" in fails("download", "hlvid", "--out", "file", "--yes")
    assert "--list" in fails("download")
    assert "--list" in fails("download", "hlvid", "--list")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    message = fails("download", "autogaze", "--yes")
    assert "205 kB" in message
    assert "1 kB" in message
    assert hub.sent == []


def test_the_hub_cannot_be_reached(tmp_path: Path, monkeypatch) -> None:
    point_to("http://127.0.0.1:9", tmp_path, monkeypatch)
    assert "cannot be fetched" in fails("download", "autogaze", "--yes")


def test_the_list_asks_nobody(tmp_path: Path, monkeypatch) -> None:
    point_to("http://127.0.0.1:9", tmp_path, monkeypatch)
    shown = run("download", "--list").stdout
    assert all(offer.name in shown and offer.hub_id in shown for offer in OFFERS)
    listed = [json.loads(line) for line in run("download", "--list", "--json").stdout.splitlines()]
    assert [each["hub_id"] for each in listed] == [offer.hub_id for offer in OFFERS]


def test_names() -> None:
    assert find_offer("NVIDIA/autogaze") is find_offer("autogaze")
    assert find_offer("datasets/bfshi/HLVid").name == "hlvid"
    assert find_offer("datasets/a/b").kind == "dataset"
    assert find_offer("a/b").kind == "model"
    assert [show_size(n) for n in (0, 999, 13_100_000, 152 * 10**9, 10**12)] == [
        "0 bytes", "999 bytes", "13.1 MB", "152 GB", "1 TB",
    ]  # fmt: skip
