"""Ray: a local cluster that is started here, or an existing one by its address."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autogaze.corpus.folder import locked
from autogaze.errors import CorpusError, MissingExtraError, first_line
from autogaze.utils.device import num_cores

ANSWER = 30.0
"""Seconds in which a cluster must answer."""

OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory that a local Ray takes; only names and entries pass through it."""


PREFIX = "autogaze-ray-"
"""Of the folders for what a local Ray keeps while it runs."""


NEW = 60.0
"""Seconds after which such a folder without a lock belongs to no running process."""


@dataclass(frozen=True)
class Resources:
    """What a cluster has."""

    cpus: int
    gpus: int


def import_ray() -> Any:
    """The module `ray`, with its log messages and usage reports off.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # It also prints what is no error, such as that a worker was restarted.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")
    # Otherwise it warns that it will hide GPUs from workers that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise _missing() from None
    return ray


def _missing() -> MissingExtraError:
    return MissingExtraError("ray[data]", "corpus", "autogaze corpus")


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[Resources]:
    """A Ray that runs within the block.

    Args:
        address: HOST:PORT of a cluster, or `auto` for one on this machine, checked by `check_ray`; None
            starts one that ends with the block and listens on the loopback interface.
        workers: number that a local Ray has CPUs for; None: one per core.

    Raises:
        CorpusError: the address does not answer, or Ray cannot start.
        MissingExtraError: Ray is not installed.
    """
    ray = import_ray()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        options |= {
            "address": "local",
            "num_cpus": max(workers or 0, num_cores()),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            "_node_ip_address": "127.0.0.1",
        }
    else:
        options["address"] = address
    with own_folder() as own:
        if address is None:
            options["_temp_dir"] = str(own)
        try:
            with _own_signals(), _quiet():
                ray.init(**options)
        except Exception as error:  # it raises several kinds, also Exception itself
            where = "on this machine" if address is None else f"at {address}"
            raise CorpusError(f"Ray cannot be started {where}: {first_line(error)}") from error
        try:
            found = ray.cluster_resources()
            yield Resources(int(found.get("CPU", 1)), int(found.get("GPU", 0)))
        finally:
            with _own_signals():
                ray.shutdown()


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for Ray's sockets and logs. Those of runs that were killed are removed first.

    It lies in the system's temporary folder, since names of sockets must be short.
    """
    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime < NEW:  # perhaps not locked yet
                continue
            with locked(old):
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_ray(address: str | None) -> None:
    """Check, before any work, that Ray is there, and answers at an address if one is given.

    Raises:
        MissingExtraError: it is not installed.
        CorpusError: no Ray answers within `ANSWER` seconds.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise _missing()
    if address is None:
        return
    problem = None
    host, colon, port = address.rpartition(":")
    if address != "auto":
        if not (colon and host and "/" not in host and port.isdecimal() and int(port) < 2**16):
            raise CorpusError(
                f"--address {address}: must be HOST:PORT, or auto for a cluster that runs on this "
                "machine"
            )
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
        except OSError as error:
            problem = error.strerror or str(error)
    if problem is None:
        problem = _asked(address)
    if problem is not None:
        raise CorpusError(
            f"--address {address}: no Ray cluster answers there ({problem}); start one with `ray "
            "start --head`, or leave --address out"
        )


_CONNECT = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=50)"
"""Connects as the run does, with the same environment (tokens included)."""


def _asked(address: str) -> str | None:
    """Why a connection to an address fails, None if it works; tried in a process that can be killed."""
    command = [sys.executable, "-c", _CONNECT, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        return f"no reply within {ANSWER:.0f} s"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it is not healthy"


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard what Ray's C++ part writes to stderr when it starts."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handling of signals, which Ray replaces when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
