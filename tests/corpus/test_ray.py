"""Runs on Ray, of which workers and the whole are killed; `tests/corpus/killed.py` does more of this."""

import random
import time
from pathlib import Path

import pytest

from autogaze.corpus.manifest import find_shards
from tests.corpus import killed
from tests.corpus.collection import make_collection, make_corpus

pytest.importorskip("ray", reason="needs the extra corpus")
pytestmark = pytest.mark.slow


def test_killed_workers_and_a_killed_run_leave_no_trace(tmp_path: Path):
    videos = make_collection(tmp_path / "videos", 24, [3, 20])
    make_corpus(tmp_path / "undisturbed", videos)
    out, chance = tmp_path / "corpus", random.Random(0)
    options = ("--workers", 2, "--shard-size", 2)
    run = killed.start(out, videos, *options)
    try:
        deadline = time.monotonic() + 300
        while not find_shards(out) and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.kill_a_worker(run, chance)
        time.sleep(0.5)
    finally:
        run.kill()
        run.communicate()
    first = find_shards(out)
    assert first
    code, report, errors = killed.finish(killed.start(out, videos, *options))
    assert code == 1, errors
    assert "autogaze: error:" in errors
    assert (report["videos"], report["failed"], report["not_done"]) == (24, 2, 0)
    assert report["done_before"] + report["done_now"] == 22
    assert {name: find_shards(out)[name] for name in first} == first  # not one was written again
    killed.check_same(out, tmp_path / "undisturbed")
