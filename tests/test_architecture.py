"""The package keeps to docs/architecture.md: the order of its rooms, no circles, light imports."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autogaze import Gaze, PatchPyramid
from autogaze.weights import SELECTOR
from scripts import rooms as house

ROOMS = house.read_rooms()
MODULES = house.package_files()
# Imported by one room only, or by none at all.
HEAVY = frozenset({"gradio", "ray"}).union(*(room.libraries for room in ROOMS))
MAX_LINES = 450
PAGES = [
    house.ROOT / "README.md",
    house.ROOT / "CHANGELOG.md",
    *(
        page
        for pattern in ("docs/*.md", "autogaze/**/*.md", "recipes/*/*.md")
        for page in sorted(house.ROOT.glob(pattern))
    ),
]


@pytest.fixture(scope="module")
def imports():
    return house.read_imports(MODULES)


@pytest.fixture(scope="module")
def inside(imports):
    return house.inside(imports, MODULES)


def test_every_file_belongs_to_a_room():
    files = [file.relative_to(house.PACKAGE).as_posix() for file in MODULES.values()]
    assert [file for file in files if house.room_of(file, ROOMS) is None] == []


def test_every_room_has_files():
    missing = [path for room in ROOMS for path in room.paths if not (house.PACKAGE / path).exists()]
    assert missing == [], f"{house.PAGE.name} names what is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_on_a_page_are_there(page):
    """With their folders from `autogaze/` on; by their names alone within a section on a room."""
    missing = []
    names = r"`(?:python )?((?:[\w.-]+/)*[\w-]+\.(?:py|c|yaml|md|txt))`"
    for name in re.findall(names, page.read_text()):
        places = [house.PACKAGE / name, house.ROOT / name, page.parent / name]
        if "/" not in name:
            places += house.PACKAGE.rglob(name)
        if not any(place.exists() for place in places):
            missing.append(name)
    assert missing == []


def test_pages_name_what_is_in_a_file():
    """Of "`CanvasConfig` in `training/tasks.py`" both are there."""
    named = r"`(?:\w+\.)*(\w+)` (?:in|of) `([\w/]+\.py)`"
    found = [pair for page in PAGES for pair in re.findall(named, page.read_text())]
    assert found
    for name, file in found:
        source = (house.PACKAGE / file).read_text()
        assert re.search(rf"^ *(class |def )?{name}\b", source, re.M), f"no {name} in {file}"


def test_no_circles(inside):
    circle = house.find_circle(inside)
    assert not circle, "a circle of imports:\n" + "\n".join(map(str, circle))


def test_imports_go_up_the_page(inside):
    """A room imports only from rooms above it in the table."""
    wrong = []
    for each in inside:
        importer = house.place(each.importer, MODULES, ROOMS)
        imported = house.place(each.imported, MODULES, ROOMS)
        if importer is not None and imported is not None and importer < imported:
            names = f"{ROOMS[importer].name!r} stands above {ROOMS[imported].name!r}"
            wrong.append(f"{each}, but {names} in {house.PAGE.name}")
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_in_their_rooms(imports):
    wrong = []
    for each in imports:
        library = each.imported.partition(".")[0]
        room = house.place(each.importer, MODULES, ROOMS)
        if library in HEAVY and room is not None and library not in ROOMS[room].libraries:
            homes = [room.name for room in ROOMS if library in room.libraries] or ["no room"]
            wrong.append(f"{each}, which {' and '.join(homes)} may, by {house.PAGE.name}")
    assert not wrong, "\n".join(wrong)


def test_files_are_short_enough_to_read():
    lines = {
        file.relative_to(house.PACKAGE).as_posix(): len(file.read_text().splitlines())
        for file in MODULES.values()
    }
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


ONE_OF_EACH = {
    "a module's weights are loaded": (
        r"(?<!optimizer)(?<!scaler)\.load_state_dict\(",
        {"utils/checkpoints.py"},
    ),
    "progress bars": (r"\brich\.progress\b|\btqdm\b", {"utils/progress.py"}),
    "ImageNet's statistics": (r"\b0\.485\b|\b0\.229\b", {"utils/normalization.py"}),
    "seeding of all random numbers": (
        r"\b(?:torch\.manual_seed|np\.random\.seed|(?<!\.)random\.seed)\(",
        {"utils/seeding.py", "utils/published.py"},  # the published function, which users call
    ),
    "plots are written": (r"\.savefig\(", {"rendering/plot_style.py"}),
    "contact sheets": (r"^class \w*Sheet\b", {"rendering/sheet.py"}),
    "typed readers of configs": (r"\bOmegaConf\.structured\(", {"training/config.py"}),
}


@pytest.mark.parametrize("what", ONE_OF_EACH)
def test_there_is_one_of_each(what):
    pattern, expected = ONE_OF_EACH[what]
    found = {
        file.relative_to(house.PACKAGE).as_posix()
        for file in MODULES.values()
        if re.search(pattern, file.read_text(), re.MULTILINE)
    }
    assert found == expected


def test_import_is_light():
    """`import autogaze` loads no library: names are imported when they are first used."""
    code = (
        "import sys; before = set(sys.modules); import autogaze; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=house.ROOT
    )
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("autogaze.")} == set()
    assert {name.partition(".")[0] for name in loaded} <= {"autogaze", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "words", ["--help", "gaze --help", "selectors", "info gaze.safetensors", f"info {SELECTOR}"]
)
def test_quick_commands_load_no_torch(words, tmp_path):
    if words == "info gaze.safetensors":
        Gaze.everything(PatchPyramid(), num_clips=1, num_frames=1).save(tmp_path / words.split()[1])
    code = "import sys; from autogaze.cli.app import app; app(standalone_mode=False); "
    code += "print('loaded', *{'torch', 'transformers', 'av'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(house.ROOT)},
    )
    assert done.stdout.splitlines()[-1].split() == ["loaded"]


def test_the_drawing_is_up_to_date():
    expected = house.draw(ROOMS)
    assert house.DRAWING.read_text() == expected, "run `python scripts/rooms.py` to draw it anew"


# The functions themselves, on a package that breaks every rule.


@pytest.fixture
def package(tmp_path: Path) -> dict[str, Path]:
    sources = {
        "__init__.py": "",
        "low.py": "def f():\n    from autogaze import high\n",
        "high.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import low\n",
        "inner/__init__.py": "from .one import x\n",
        "inner/one.py": "import importlib\nx = importlib.import_module('autogaze.low')\n",
    }
    for name, source in sources.items():
        file = tmp_path / "autogaze" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return house.package_files(tmp_path / "autogaze")


def test_lazy_and_typing_imports_are_read(package):
    found = {
        (each.importer, each.imported, each.line)
        for each in house.inside(house.read_imports(package), package)
    }
    assert found == {
        ("autogaze.low", "autogaze.high", 2),
        ("autogaze.high", "autogaze.low", 3),
        ("autogaze.inner", "autogaze.inner.one", 1),
        ("autogaze.inner.one", "autogaze.low", 2),
    }


def test_a_circle_is_found(package):
    circle = house.find_circle(house.inside(house.read_imports(package), package))
    assert {each.importer for each in circle} == {"autogaze.low", "autogaze.high"}


def test_shortcuts_are_left_out_of_the_drawing():
    assert house.without_shortcuts({(2, 1), (1, 0), (2, 0)}) == {(2, 1), (1, 0)}


def test_a_file_belongs_to_the_closest_room():
    rooms = [house.Room(("models/",), frozenset()), house.Room(("models/native/",), frozenset())]
    assert house.room_of("models/native/a.py", rooms) == 1
    assert house.room_of("models/b.py", rooms) == 0
    assert house.room_of("modelsque.py", rooms) is None


@pytest.mark.parametrize(
    "file",
    [*sorted(house.ROOT.glob("examples/**/*.py")), *sorted(house.ROOT.glob("scripts/*.py"))],
    ids=lambda file: file.name,
)
def test_scripts_import_what_there_is(file):
    """Names that examples and scripts import from the package, which most tests never run."""
    missing = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autogaze"):
            module = importlib.import_module(node.module)
            for name in node.names:
                submodule = f"{node.module}.{name.name}"
                if not hasattr(module, name.name) and importlib.util.find_spec(submodule) is None:
                    missing.append(submodule)
    assert missing == []
