"""What is released: the wheel has the whole package and nothing else, and works by itself."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import autogaze
from tests.clips import make_video
from tests.test_docs_commands import parse

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
UNBUILT = shutil.ignore_patterns(
    *(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__"),
    *("*.egg-info", "build", "dist", "site", "demo_output", "exps"),
)

NO_NETWORK = """
import socket

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise RuntimeError(f"the network was asked for: {address}")
    return connect(self, address)

connect, socket.socket.connect = socket.socket.connect, refuse
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that sees no PYTHONPATH and no settings of this process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AUTOGAZE"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Build `wheel` or `sdist` with setuptools as it is installed here: nothing is fetched."""
    target.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta as b; print('\\n' + b.build_{kind}({str(target)!r}))"
    return target / run(sys.executable, "-c", code, cwd=source).splitlines()[-1]


def members(wheel: Path) -> dict[str, int]:
    """Name of every file in a wheel but its list of files, to its checksum."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            entry.filename: entry.CRC
            for entry in archive.infolist()
            if not entry.filename.endswith(("/", "/RECORD"))
        }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the repository."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=UNBUILT)
    return build("wheel", folder / "source", folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """`bin` of an environment with the wheel, beside the dependencies that are installed here."""
    place = wheel.parent / "environment"
    venv.create(place)
    python = place / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", code, cwd=place).strip())
    pip = ("-m", "pip", "--python", python, "--disable-pip-version-check", "install")
    run(sys.executable, *pip, "--quiet", "--no-deps", "--no-index", wheel, cwd=place)
    # .pth files of the other folder are not read: an editable installation is not seen.
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here))
    (packages / "sitecustomize.py").write_text(NO_NETWORK)
    return python.parent


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "autogaze").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    about = f"autogaze-{autogaze.__version__}.dist-info"
    names = ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    assert set(members(wheel)) == package | {f"{about}/{name}" for name in names}
    assert {".c", ".h", ".yaml", ".safetensors", ".json", ".md", ".typed"} <= {
        Path(name).suffix or Path(name).name.removeprefix("py") for name in package
    }


def test_the_sdist_builds_the_same_wheel(wheel):
    source = wheel.parents[1] / "source"
    sdist = build("sdist", source, wheel.parent)
    shutil.unpack_archive(sdist, wheel.parent / "unpacked", filter="data")
    (unpacked,) = (wheel.parent / "unpacked").iterdir()
    assert members(build("wheel", unpacked, wheel.parent / "again")) == members(wheel)
    for name in ("tests/test_packaging.py", "docs/start.md", "recipes/default/README.md"):
        assert (unpacked / name).is_file()


@pytest.mark.slow
def test_the_first_command_of_the_readme_runs(installed, tmp_path):
    make_video(tmp_path / "video.mp4")
    command = re.search(r"^\$ (autogaze gaze .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert command is not None
    program, *words = shlex.split(command[1])
    report = run(installed / program, *words, cwd=tmp_path)
    assert "canvas loss" in report
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"video.mp4", "video.safetensors", "overlay.mp4", "sheet.png"}


@pytest.mark.slow
def test_the_installed_package_is_whole(installed, tmp_path):
    """Weights, C sources and configurations are found where the wheel put them."""
    code = """
import os, shutil
if shutil.which("cc") or shutil.which("gcc"):  # an error where the C source cannot be built
    os.environ["AUTOGAZE_SEARCH"] = os.environ["AUTOGAZE_ATTENTION"] = "native"
import autogaze, hydra, torch
clips = torch.rand(1, 2, 3, 224, 224)
counts = [autogaze.load(n).select(clips, ratio=0.02).num_patches for n in ("greedy", "learned")]
with hydra.initialize_config_module("autogaze.configs", version_base=None):
    hydra.compose("video_folder_canvas_reconstruction_ar_gaze_ntp")
print(autogaze.__file__, *counts)
"""
    file, *counts = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert counts == ["10", "10"]


def test_extras_of_the_documentation_are_there():
    extras = set(SETTINGS["project"]["optional-dependencies"])
    assert {"demo", "corpus", "mllm", "train", "gpu", "plot", "docs", "all"} <= extras
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for named in re.findall(r"pip install [^\n`]*\[([a-z,]+)\]", page.read_text()):
            assert set(named.split(",")) <= extras, page


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == autogaze.__version__
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == autogaze.__version__


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name
)
def test_workflows_and_templates_are_read(path):
    content = yaml.safe_load(path.read_text())
    if path.parent.name == "workflows":
        # YAML takes the key `on` for True.
        assert content[True]
        assert all(job["steps"] and job["runs-on"] for job in content["jobs"].values())
        assert "secrets." not in path.read_text()
        for target in re.findall(r"\bmake (\w+)", path.read_text()):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif path.name != "config.yml":
        assert {"name", "description", "body"} <= content.keys()


def test_the_container_gets_what_it_copies():
    container = (ROOT / "Containerfile").read_text()
    sent = set(re.findall(r"^!(.+)$", (ROOT / ".containerignore").read_text(), re.MULTILINE))
    for sources in re.findall(r"^COPY (.+) \S+$", container, re.MULTILINE):
        for name in sources.split():
            assert (ROOT / name).exists()
            assert name in sent
    user, start = container.index("\nUSER gazer"), container.index("\nENTRYPOINT ")
    assert user < start
    program, *words = json.loads(container[start:].removeprefix("\nENTRYPOINT "))
    assert program == "autogaze"
    parse(words)
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()
