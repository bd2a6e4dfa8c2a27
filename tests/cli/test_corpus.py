"""`autogaze corpus`: its plan, its report, and what it refuses; `tests/corpus` tests the work itself."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from autogaze.cli.corpus import duration, survey_facts, survey_words
from autogaze.corpus import cluster
from autogaze.corpus.inputs import Survey
from tests.cli.commands import fails, run
from tests.corpus.collection import gaze_here, make_collection

pa = pytest.importorskip("pyarrow", reason="needs the extra corpus")
pytest.importorskip("ray", reason="needs the extra corpus")

QUICK = ("--selector", "centre", "--ratio", "0.02", "--tiles", "one")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return make_collection(tmp_path_factory.mktemp("collection") / "videos", 4, [2])


@pytest.fixture
def without_ray(monkeypatch):
    """Shards are written in this process."""
    monkeypatch.setattr(
        "autogaze.corpus.run.gaze_on_ray", lambda inputs, corpus, workers: gaze_here(inputs, corpus)
    )


def test_dry_run(videos: Path, tmp_path: Path):
    done = run("corpus", videos, "--out", tmp_path / "corpus", "--dry-run", "--json", *QUICK)
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in videos.iterdir())
    assert (report["videos"], report["to_do"], report["bytes"]) == (4, 4, size)
    assert (report["measured"], report["unreadable"], report["estimated"]) == (3, 1, False)
    assert report["seconds"] == pytest.approx((17 + 18 + 20) / 10)  # what is no video has no length
    assert not (tmp_path / "corpus").exists()


def test_an_address_that_is_refused_is_an_error_of_a_video(
    videos: Path, tmp_path: Path, without_ray
):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{videos}/00000.mp4\nnosuchthing://host/a.mp4\n")
    words = ("corpus", listed, "--out", tmp_path / "corpus", "--json", *QUICK)
    report = json.loads((planned := run(*words, "--dry-run")).stdout)
    assert (planned.exit_code, report["missing"], report["to_do"]) == (0, 1, 2)
    assert "nosuchthing" in planned.stderr
    for done_now in (1, 0):
        done = run(*words)
        report = json.loads(done.stdout)
        assert (done.exit_code, report["done_now"], report["failed_now"]) == (1, done_now, 1)
        assert "error: nosuchthing://host/a.mp4: cannot be opened" in done.stderr
    listed.write_text("nosuchthing://host/a.mp4\n")
    fails(*words)


def test_dry_run_of_more_videos_than_are_opened(videos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("autogaze.corpus.inputs.MAX_OPENED", 2)
    words = ("corpus", videos, "--out", tmp_path / "corpus", "--dry-run", *QUICK)
    report = json.loads(run(*words, "--json").stdout)
    assert report["measured"] + report["unreadable"] == 2
    assert report["estimated"]
    told = run(*words).stdout
    assert re.search(r"length of videos +about ", told)
    assert re.search(r"not measured +2\b", told)


def test_reports_and_exit_codes(videos: Path, tmp_path: Path, without_ray):
    out = tmp_path / "corpus"
    done = run("corpus", videos, "--out", out, "--json", *QUICK)
    assert done.exit_code == 1
    assert "00002.mp4: not a video" in done.stderr
    report = json.loads(done.stdout)
    assert (report["done_now"], report["failed"], report["not_done"]) == (3, 1, 0)
    assert (report["clips"], report["frames"]) == (6, 17 + 18 + 20)
    assert report["gazing_seconds"] <= report["seconds"]
    assert report["videos_per_second"] == pytest.approx(3 / report["seconds"], rel=0.05)
    done = run("corpus", videos / "00000.mp4", "--out", out, *QUICK)
    assert done.exit_code == 0
    assert re.search(r"clips of this run +0\b", done.stdout)
    assert re.search(r"clips in all +2\b", done.stdout)
    done = run("corpus", videos, "--out", out, "--json", *QUICK)
    again = json.loads(done.stdout)
    assert (again["done_before"], again["done_now"], again["failed"]) == (3, 0, 1)
    assert (again["failed_before"], again["failed_now"]) == (1, 0)
    assert (again["clips"], again["frames_in_all"]) == (0, 17 + 18 + 20)
    assert "3 of 4 videos were done before" in done.stderr
    assert "1 failed before" in done.stderr
    survey = json.loads(run("corpus", videos, "--out", out, "--json", "--dry-run", *QUICK).stdout)
    assert (survey["done"], survey["failed_before"], survey["to_do"]) == (3, 1, 0)
    assert run("corpus", videos / "00002.mp4", "--out", out, *QUICK).exit_code == 2


def test_other_options_are_named(videos: Path, tmp_path: Path, without_ray):
    out = tmp_path / "corpus"
    video = videos / "00000.mp4"
    assert run("corpus", video, "--out", out, *QUICK).exit_code == 0
    for extra in ([], ["--dry-run"]):
        told = fails("corpus", video, "--out", out, *QUICK, "--fps", 2, "--seed", 3, *extra)
        assert "fps" in told
        assert "seed" in told
        assert "--overwrite" in told
    done = run("corpus", video, "--out", out, *QUICK, "--fps", 2, "--overwrite", "--json")
    assert (done.exit_code, json.loads(done.stdout)["done_now"]) == (0, 1)


@pytest.mark.parametrize(
    "options",
    [
        ["--selector", "nobody"],
        ["--selector", "centre", "--loss", "0.1"],
        ["--ratio", "1.5"],
        ["--tiles", "0x3"],
        ["--tiles", "some"],
        ["--max-tiles", "0"],
        ["--start", "3", "--end", "2"],
        ["--fps", "-1"],
        ["--seed", str(2**64)],
        ["--workers", "0"],
        ["--shard-size", "0"],
        ["--device", "abacus"],
        ["--dtype", "bfloat16"],
    ],
    ids=" ".join,
)
def test_settings_that_no_video_could_be_gazed_at_with(videos: Path, tmp_path: Path, options):
    fails("corpus", videos, "--out", tmp_path / "corpus", *options)
    assert not (tmp_path / "corpus").exists()


def test_inputs_and_folders_that_are_refused(videos: Path, tmp_path: Path):
    import pyarrow.parquet as parquet

    out = tmp_path / "corpus"
    parquet.write_table(pa.table({"clip": ["a.mp4"], "label": [1]}), tmp_path / "table.parquet")
    assert "clip, label" in fails("corpus", tmp_path / "table.parquet", "--out", out, *QUICK)
    assert "none.mp4" in fails("corpus", tmp_path / "none.mp4", "--out", out, *QUICK)
    assert "none/*.mp4" in fails("corpus", f"{tmp_path}/none/*.mp4", "--out", out, *QUICK)
    (tmp_path / "file").touch()
    assert "is a file" in fails("corpus", videos, "--out", tmp_path / "file", *QUICK)
    for extra in ([], ["--dry-run"]):
        assert "other files" in fails("corpus", videos, "--out", videos, *QUICK, *extra)
    for place in ("/proc/none", "/proc/none/deeper", "/dev/null/none", tmp_path / ("a" * 300)):
        told = fails("corpus", videos, "--out", place, *QUICK)
        assert str(place) in told
        assert "corpus.json" not in told
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "not writable" in fails("corpus", videos, "--out", tmp_path / "locked", *QUICK)
    assert not out.exists()


@pytest.mark.parametrize("out", ["s3://bucket/corpus", "memory://corpus"])
def test_a_corpus_is_written_to_a_folder(videos: Path, tmp_path: Path, monkeypatch, out: str):
    monkeypatch.chdir(tmp_path)
    for extra in ([], ["--dry-run"]):
        assert "--out" in fails("corpus", videos, "--out", out, *QUICK, *extra)
    assert not list(tmp_path.glob("*:*"))


def test_known_selectors_are_listed_where_one_is_unknown(videos: Path, tmp_path: Path):
    told = fails("corpus", videos, "--out", tmp_path / "corpus", "--selector", "nobody")
    assert {"greedy", "run-length"} <= set(re.findall(r"[\w-]+", told))


@pytest.mark.parametrize("missing", ["ray", "pyarrow"])
def test_a_missing_extra_is_named(videos: Path, tmp_path: Path, monkeypatch, missing):
    found = cluster.find_spec
    monkeypatch.setattr(cluster, "find_spec", lambda name: None if name == missing else found(name))
    told = fails("corpus", videos, "--out", tmp_path / "corpus", *QUICK)
    assert "autogaze[corpus]" in told
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:99999", ":6379", "ray://host:1"])
def test_addresses_that_are_none(videos: Path, tmp_path: Path, address: str):
    told = fails("corpus", videos, "--out", tmp_path / "corpus", "--address", address, *QUICK)
    assert "HOST:PORT" in told


@pytest.mark.slow
def test_an_address_that_does_not_answer(videos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 3.0)
    words = partial(fails, "corpus", videos, "--out", tmp_path / "corpus", *QUICK, "--address")
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and says nothing
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        assert address in words(address)
        assert time.monotonic() - began < 30
    assert address in words(address)  # nobody is there any more
    assert not (tmp_path / "corpus").exists()


def test_help_needs_no_heavy_library():
    code = "import sys; from autogaze.cli.app import app; app(['corpus', '--help'], standalone_mode=False); "
    code += "print('loaded', *{'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--dry-run" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded"


def test_facts_for_people():
    assert duration(29.8) == "29.8 s"
    assert duration(59.96) == "60.0 s (0:01:00 h)"
    assert duration(3725.8) == "3,725.8 s (1:02:06 h)"
    survey = Survey(
        missing=1, size=3 * 2**30, seconds=None, measured=0, unreadable=0, estimated=True
    )
    told = dict(survey_words(survey_facts(survey, done=1, failed=1, to_do=3, out="corpus")))
    assert told["size"] == "3,221,225,472 bytes (3.00 GiB)"
    assert told["not measured"] == "4"  # and like no others
    assert "length of videos" not in told
    assert (told["videos"], told["done before"], told["failed before"]) == ("5", "1", "1")
