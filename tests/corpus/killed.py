"""Runs of `autogaze corpus` whose workers, or which themselves, are killed at random moments.

    python -m tests.corpus.killed FOLDER            # the full check: minutes
    python -m tests.corpus.killed FOLDER --only memory

Each check prints one line of figures, and the command fails if one does not hold.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autogaze.corpus.manifest import find_shards, read_footer, shard_path
from tests.corpus.collection import CENTRE, make_collection, make_corpus

OPTIONS = ("--selector", "centre", "--ratio", "0.02", "--tiles", "one")
"""As of `CENTRE`, for `autogaze corpus`."""


def start(out: Path, *words: object, options: Sequence[str] = OPTIONS) -> "subprocess.Popen[str]":
    """A run in a process of its own."""
    command = [sys.executable, "-m", "autogaze", "corpus", *words, "--out", out, *options, "--json"]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(run: "subprocess.Popen[str]") -> tuple[int, dict[str, Any], str]:
    """Exit code, report and stderr of a run."""
    output, errors = run.communicate(timeout=900)
    return run.returncode, json.loads(output.splitlines()[-1]) if output else {}, errors


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Processes that a process started, and those that these started, with their names."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(") ")[2].split()
            parents.setdefault(int(stat[1]), []).append(int(folder.name))
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            waiting.append(child)
            with suppress(OSError):
                yield child, Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")


def workers(run: "subprocess.Popen[str]") -> list[int]:
    """Processes of a run that gaze."""
    return [pid for pid, name in descendants(run.pid) if "ShardWorker" in name]


def kill_a_worker(run: "subprocess.Popen[str]", chance: random.Random) -> bool:
    """Kill one of a run's workers; whether there was one."""
    found = workers(run)
    if found:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(found), signal.SIGKILL)
    return bool(found)


def rows_of(out: Path) -> list[tuple[Any, ...]]:
    """All rows of a corpus, sorted, without the seconds that they took; every shard is read."""
    import pyarrow.parquet as parquet

    rows = []
    for name in find_shards(out):
        path = shard_path(out, name)
        read_footer(path)
        table = parquet.read_table(path, partitioning=None).drop_columns(["seconds"])
        rows.extend(json.dumps(row) for row in table.to_pylist())
    return sorted(rows)


def failures_of(out: Path) -> list[str]:
    """Paths of the inputs that failed, by the shards, sorted."""
    entries = [entry for name in find_shards(out) for entry in read_footer(shard_path(out, name))]
    return sorted(entry.path for entry in entries if entry.failed)


def leftovers(out: Path) -> list[str]:
    """Files in a corpus that are neither shards nor tables."""
    known = ("corpus.json", "inputs.parquet", "errors.parquet", ".lock")
    files = [path for path in out.rglob("*") if path.is_file()]
    return [
        str(path)
        for path in files
        if path.name not in known
        and not (
            path.parent.name.startswith("part=")
            and path.suffix == ".parquet"
            and not path.name.startswith(".")
        )
    ]


def check_same(out: Path, undisturbed: Path) -> None:
    """Raise `AssertionError` unless a corpus has exactly the rows and errors of another."""
    rows = rows_of(out)
    assert len(rows) == len(set(rows)), "rows that are there twice"
    assert rows == rows_of(undisturbed), "other rows than those of an undisturbed run"
    assert failures_of(out) == failures_of(undisturbed)
    assert leftovers(out) == []


def check_killed_workers(folder: Path, kills: int, count: int) -> str:
    """Kill workers of one run, `kills` times."""
    videos, chance = folder / "videos", random.Random(1)
    out = folder / "killed-workers"
    run = start(out, videos, "--workers", 2, "--shard-size", 4)
    killed = 0
    while killed < kills and run.poll() is None:
        time.sleep(chance.uniform(0.2, 1.5))
        killed += kill_a_worker(run, chance)
    code, report, errors = finish(run)
    assert code == 1, errors
    check_same(out, folder / "undisturbed")
    return f"{killed} workers killed: {report['done_now']} inputs, {report['failed']} errors of {count}"


def check_killed_runs(folder: Path, kills: int, longest: float) -> str:
    """Kill whole runs, `kills` times, each 0 to `longest` seconds after its workers start, and go on."""
    videos, chance = folder / "videos", random.Random(2)
    out = folder / "killed-runs"
    progress = []
    for _ in range(kills):
        run = start(out, videos, "--workers", 2, "--shard-size", 2)
        deadline = time.monotonic() + 120
        while not workers(run) and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(chance.uniform(0, longest))
        run.kill()
        run.communicate()
        progress.append(sum(len(read_footer(shard_path(out, name))) for name in find_shards(out)))
    code, _, errors = finish(start(out, videos, "--workers", 2))
    assert code == 1, errors
    check_same(out, folder / "undisturbed")
    return f"{kills} runs killed, with {progress} inputs done by then"


def check_speed(folder: Path) -> str:
    """Two workers against one, on the same videos."""
    videos = folder / "videos"
    seconds = []
    options = ("--selector", "greedy", "--loss", "0.02", "--tiles", "5x5", "--shard-size", "4")
    for count in (1, 2):
        out = folder / f"speed{count}"
        run = start(out, videos, "--workers", count, options=options)
        while (
            not find_shards(out) and run.poll() is None
        ):  # from the first shard on: without starting Ray
            time.sleep(0.02)
        began, first = time.perf_counter(), len(find_shards(out))
        total = 0
        while run.poll() is None:
            now = len(find_shards(out))
            if now > total:
                total, ended = now, time.perf_counter()
            time.sleep(0.02)
        finish(run)
        seconds.append((ended - began) / (total - first))
    return f"a shard took {seconds[0]:.3f} s with one worker, {seconds[1]:.3f} s with two: {seconds[0] / seconds[1]:.2f} x"


def check_memory(folder: Path, count: int) -> str:
    """Memory of each worker over many short videos, at most 10 % above what it was at a quarter."""
    videos = make_collection(folder / "many", count)
    out = folder / "memory"
    run = start(out, videos, "--workers", 2)
    seen: dict[int, list[tuple[int, int]]] = {}
    while run.poll() is None:
        done = len(find_shards(out))
        for pid in workers(run):
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                size = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
                seen.setdefault(pid, []).append((done, size))
        time.sleep(0.5)
    code, report, errors = finish(run)
    assert (code, report["done_now"]) == (0, count), errors
    shards = len(find_shards(out))
    told = []
    for sizes in seen.values():
        working = [(done, size) for done, size in sizes if done >= shards / 4]
        if len(working) < 4:
            continue
        early, late = working[0][1], max(size for _, size in working[-3:])
        told.append(f"{early / 1024:.0f} to {late / 1024:.0f} MiB")
        assert late < 1.1 * early, told
    assert told
    return f"{count} videos at {count / report['gazing_seconds']:.1f} per second, workers from a quarter on: {', '.join(told)}"


def check_many_paths(folder: Path, count: int) -> str:
    """A list of many paths that are all done: the time to list and resume, nothing to do."""
    from autogaze.corpus.folder import CorpusFolder
    from autogaze.corpus.inputs import find_inputs
    from autogaze.corpus.manifest import Entry
    from autogaze.corpus.run import plan_shards
    from autogaze.corpus.shards import ShardWriter, commit

    empty = folder / "empty"
    for number in range(count):
        path = empty / f"{number // 1000:03}" / f"{number:06}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    out = folder / "many-paths"
    found = find_inputs([str(empty)])
    with CorpusFolder(out, CENTRE) as corpus:
        for task in plan_shards(found, CENTRE, 2, None):
            temporary = corpus.scratch / task.name
            with ShardWriter(temporary) as writer:
                for each in task.inputs:
                    entry = Entry(each.path, each.size, each.modified, error="empty", lasting=True)
                    writer.add(entry)
            commit(out, task.name, temporary)
    seconds = []
    for _ in range(2):  # from the shards' footers, then from the table that is made of them
        began = time.perf_counter()
        _, report, errors = finish(start(out, empty))
        seconds.append(time.perf_counter() - began)
        assert report["failed"] == count, errors
    assert max(seconds) < 60
    return f"{count} paths listed and resumed in {seconds[0]:.1f} s, the second time in {seconds[1]:.1f} s"


def main() -> None:
    """The checks of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=["workers", "runs", "speed", "memory", "paths"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=15.0, help="seconds of a run to be killed")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    corrupt = range(7, 200, 20)  # ten of them
    if not (folder / "videos").exists():
        make_collection(folder / "videos", 200, corrupt)
    make_corpus(folder / "undisturbed", folder / "videos")
    assert len(failures_of(folder / "undisturbed")) == 10
    checks = {
        "workers": lambda: check_killed_workers(folder, options.kills, 200),
        "runs": lambda: check_killed_runs(folder, options.kills, options.longest),
        "speed": lambda: check_speed(folder),
        "memory": lambda: check_memory(folder, 1000),
        "paths": lambda: check_many_paths(folder, 100_000),
    }
    for name, check in checks.items():
        if options.only in (None, name):
            print(f"{name}: {check()}", flush=True)


if __name__ == "__main__":
    main()
