"""Runs cases in a process of their own, which is replaced when one does not end."""

import argparse
import collections
import contextlib
import gc
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

SECONDS = 60
"""A case that takes longer hangs."""

MEBIBYTES = 1200
"""The most memory that the process may take at any time, libraries included."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone, here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps(list(run_cases(options.only, options.only + 1, options.seed)), indent=1))
        return 0
    if options.worker:
        results = sys.stdout
        with contextlib.redirect_stdout(None):  # cases may print, as `print` given as a rule does
            for result in run_cases(options.first, options.first + options.cases, options.seed):
                print(json.dumps(result), file=results, flush=True)
        return 0
    return supervise(options.first, options.first + options.cases, options.seed)


def supervise(first: int, last: int, seed: int) -> int:
    """Run all cases, also after one that hangs or kills its process; prints the counts."""
    counts: dict[str, collections.Counter[str]] = {}
    began = time.monotonic()
    while first < last:
        words = [sys.executable, "-m", "tests.fuzz", "--worker", "--first", str(first)]
        words += ["--cases", str(last - first), "--seed", str(seed)]
        worker = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        ended = None
        for line in lines_of(worker):
            result = json.loads(line)
            if result["outcome"] == "begins":
                ended = None
                continue
            ended, first = result, result["case"] + 1
            count(counts, result)
        if first < last and (ended is None or worker.poll() is not None):
            kind = "hangs" if worker.poll() is None else f"ends the process ({worker.poll()})"
            count(counts, {"case": first, "kind": "?", "outcome": "wrong", "why": kind})
            first += 1
        worker.kill()
        worker.wait()
    total = collections.Counter[str]()
    for kind, outcomes in sorted(counts.items()):
        total.update(outcomes)
        print(f"{kind:12}", dict(sorted(outcomes.items())))
    print(f"{'all':12}", dict(sorted(total.items())), f"in {time.monotonic() - began:.0f} s")
    return 1 if total["wrong"] else 0


def lines_of(worker: "subprocess.Popen[bytes]") -> Any:
    """Lines of a process's output until it ends or is silent for too long."""
    file = worker.stdout
    if file is None:
        return
    waiting, patience = b"", 10 * SECONDS  # libraries are imported first
    while select.select([file], [], [], patience)[0]:
        patience = SECONDS
        more = os.read(file.fileno(), 65536)
        if not more:
            worker.wait()
            return
        *whole, waiting = (waiting + more).split(b"\n")
        yield from whole


def count(counts: dict[str, "collections.Counter[str]"], result: dict[str, Any]) -> None:
    counts.setdefault(result["kind"], collections.Counter())[result["outcome"]] += 1
    if result["outcome"] == "wrong":
        print(f"case {result['case']} ({result['kind']}): {result['why']}", flush=True)


def run_cases(first: int, last: int, seed: int) -> Any:
    """Results of cases, one by one, each in an empty folder."""
    warnings.simplefilter("ignore")
    from tests.fuzz.cases import KINDS, case, seed_everything
    from tests.fuzz.material import Material
    from tests.fuzz.outcomes import WrongOutcomeError

    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "material").mkdir()
        material = Material.make(Path(root) / "material")
        for number in range(first, last):
            kind, random = case(number, seed)
            folder = Path(root) / "case"
            folder.mkdir()
            result: dict[str, Any] = {"case": number, "kind": kind}
            yield {**result, "outcome": "begins"}
            seed_everything(random)
            reset_peak()
            try:
                result["outcome"] = KINDS[kind](material, folder, random)
            except WrongOutcomeError as error:
                result |= {"outcome": "wrong", "why": str(error), "trace": trace(error)}
            except BaseException as error:
                result |= {"outcome": "wrong", "why": repr(error)[:500], "trace": trace(error)}
            if (peak := peak_mebibytes()) > MEBIBYTES:
                result |= {"outcome": "wrong", "why": f"takes {peak} MiB of memory"}
                gc.collect()
            shutil.rmtree(folder)
            yield result


def trace(error: BaseException) -> list[str]:
    """The last lines of an error's traceback."""
    return "".join(traceback.format_exception(error)).splitlines()[-40:]


def reset_peak() -> None:
    """Forget the peak of this process's memory, where Linux lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mebibytes() -> int:
    """Peak of this process's memory; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) // 1024 if found else 0


if __name__ == "__main__":
    sys.exit(main())
