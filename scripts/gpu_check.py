"""Is choosing cheaper than what it saves? The device tests, then times on a GPU beside their targets.

    python scripts/gpu_check.py --out FOLDER        # make gpu-check

Needs PyTorch, transformers and NumPy beside this checkout, no network and no PyAV, and at most four
minutes of a GPU. Clips are 16 x 224 x 224, a texture that moves, already on the device; encoders
have random weights. Writes `gpu-check.json` and `gpu-check.md` anew with every row. On a CPU what takes
minutes is left out; `--tiny` runs every row with tiny models, to see that the script works.

Rows are measured by a process of their own. Where one fails, hangs or breaks the GPU's context, it says so
in the table, another process goes on with the next, and the exit code is 1.
"""

import argparse
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from gpu_bench import Bench, Row, failed_row
from gpu_rows import measured_rows, works

CHECKOUT = Path(__file__).resolve().parent.parent
SECONDS, FOR_TESTS = 240, 100
"""Of the whole run, and of these for the device tests, which come last."""
LONGEST, GRACE = 75, 15
"""Seconds in which a row must be measured, kernels compiled and graphs recorded; and those in which a row
that was begun in time may end."""


def isolated_rows(command: list[str], names: list[str], ends: float) -> Iterator[Row]:
    """`measured_rows` of processes that are started anew where one breaks or hangs.

    Args:
        command: what is started, with the seconds that are left and the names as further options.
        names: of the rows.
        ends: on the monotonic clock.
    """
    while names:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        left = max(0.0, ends - time.monotonic())
        process_of = [*command, "--seconds", f"{left:.0f}", "--measure", *names]
        with subprocess.Popen(process_of, stdout=subprocess.PIPE, text=True) as process:
            reader = threading.Thread(target=_read, args=(process, lines))
            reader.start()
            while names:
                seconds = min(LONGEST, max(0.0, ends - time.monotonic()) + GRACE)
                try:
                    line = lines.get(timeout=seconds)
                except queue.Empty:
                    process.kill()
                    if seconds < LONGEST:  # it might have ended in time
                        break
                    line, why = "", f"it took more than {seconds:.0f} seconds"
                else:
                    why = "" if line else f"its process ended with exit code {process.wait()}"
                if not line:
                    yield failed_row(names.pop(0), why)
                    break
                found = json.loads(line)
                names.remove(found["name"])
                yield from (Row(**row) for row in found["rows"])
            reader.join()
        if time.monotonic() > ends:
            yield from (Row(name, None, note="left out: the time was over") for name in names)
            return


def _read(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str]") -> None:
    """Hand on what a process says of its rows, and an empty line at its end."""
    for line in process.stdout or ():
        if line.startswith('{"name"'):
            lines.put(line)
    lines.put("")


def device_test_files() -> list[str]:
    """Files with tests that need a GPU, from the checkout on."""
    return sorted(
        str(path.relative_to(CHECKOUT))
        for path in CHECKOUT.glob("tests/**/test_*.py")
        if "pytest.mark.cuda\n" in path.read_text() or "pytest.mark.cuda," in path.read_text()
    )


def device_tests(seconds: float) -> tuple[str, bool]:
    """Run the tests that need a GPU; the last line of their report, and whether all passed.

    Where the time is over the report is of those that ran, and not all passed. Most of it goes into
    kernels that are compiled: by several processes where pytest-xdist is installed.
    """
    if importlib.util.find_spec("pytest") is None:
        return "pytest is not installed, so the device tests did not run", True
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-m", "cuda"]
    if importlib.util.find_spec("xdist") is not None:
        # The plugin that is left out warns of this one, and warnings are errors.
        command += ["-n", str(min(8, max(1, (os.cpu_count() or 1) // 2))), "-p", "no:benchmark"]
    command += device_test_files()
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
        end = ""
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # as Ctrl-C, after which pytest reports what it has
        end = f", stopped after {seconds:.0f} seconds"
        try:
            said, _ = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    print(said[-4000:], file=sys.stderr)
    counts = re.findall(r"^.*\b\d+ (?:passed|failed|error|skipped).*$", said, re.MULTILINE)
    return (
        counts[-1].strip("= ") if counts else "no test ran"
    ) + end, process.returncode == 0 and not end


def markdown(hardware: str, tests: str, rows: list[Row]) -> str:
    """The report as a page."""
    lines = [
        f"{hardware}. Device tests: {tests}\n",
        "| work | ms per clip | target | met | 0.1.0 | published | |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        ms, target = ("" if value is None else f"{value:.3g}" for value in (row.ms, row.target))
        known = f"{row.met} | {row.before} | {row.published}"
        lines.append(f"| {row.work} | {ms} | {target} | {known} | {row.note} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the reports")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the whole run")
    parser.add_argument("--tiny", action="store_true", help="tiny models: only to see that it runs")
    parser.add_argument("--no-tests", action="store_true", help="leave the device tests out")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    bench = Bench(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.tiny, options.seconds
    )
    if options.measure:
        for name, rows in measured_rows(bench, options.measure):
            print(json.dumps({"name": name, "rows": [asdict(row) for row in rows]}), flush=True)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    name = (
        torch.cuda.get_device_name()
        if bench.on_gpu
        else f"a CPU, {torch.get_num_threads()} threads"
    )
    hardware = f"{name}, torch {torch.__version__}"
    tests, passed, rows = "left out", True, []

    def write() -> str:
        report = {
            "hardware": hardware,
            "tests": tests,
            "rows": [{**asdict(row), "met": row.met} for row in rows],
        }
        (options.out / "gpu-check.json").write_text(json.dumps(report, indent=1))
        page = markdown(hardware, tests, rows)
        (options.out / "gpu-check.md").write_text(page)
        return page

    ends = bench.ends - (0 if options.no_tests else FOR_TESTS)
    command = [sys.executable, str(Path(__file__).resolve()), *["--tiny"] * options.tiny]
    for row in isolated_rows(command, list(works()), ends):
        rows.append(row)
        write()
        print(f"{row.work}: {'' if row.ms is None else f'{row.ms:.3g} ms'} {row.note}", flush=True)
    if not options.no_tests:
        tests, passed = device_tests(max(FOR_TESTS, bench.ends - time.monotonic()) - GRACE)
    print(f"\n{write()}")
    if not passed or any(row.failed for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
