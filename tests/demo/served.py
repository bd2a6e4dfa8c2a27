"""A page in a process of its own, as a user starts it, and a visitor's browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


@dataclass(frozen=True)
class ServedPage:
    """A page's address, the folder that its own one is in, and its process."""

    url: str
    folder: Path
    process: subprocess.Popen[str]

    def files(self) -> list[str]:
        """Files of visitors, by their paths within the page's folder."""
        (root,) = self.folder.iterdir()
        # Folders may be removed meanwhile, which `os.walk` does not mind.
        found = [
            Path(place, name).relative_to(root)
            for place, _, names in os.walk(root)
            for name in names
        ]
        return sorted(str(path) for path in found if path.parts[0] != "examples")

    def memory(self) -> int:
        """Bytes that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


@contextmanager
def served(folder: Path, *words: object) -> Iterator[ServedPage]:
    """A page that is served, with options of `autogaze demo`."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    command = [sys.executable, "-m", "autogaze", "demo", "--port", "0", "--folder", folder, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [str(word) for word in command], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"the page is at (\S+?)/? ", line):
                break
        assert found, "".join(said)
        yield ServedPage(found.group(1), folder, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        process.stderr.close()
    assert list(folder.iterdir()) == []  # the page's folder is removed


@contextmanager
def browser(folder: Path, width: int = 1400, height: int = 1000) -> Iterator[Any]:
    """Chromium with a profile of its own and a webcam that films a test picture."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "use-fake-device-for-media-stream",
        "use-fake-ui-for-media-stream",
        f"window-size={width},{height}",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{word}")
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(what: Any, seconds: float = 60.0, every: float = 0.1) -> Any:
    """What a function returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return found
