"""The documentation's site builds without a warning, is complete, and loads nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import autogaze

ROOT = Path(__file__).resolve().parents[1]
LOADING = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href"}


class Loads(HTMLParser):
    """What a page loads by itself, without a visitor's click, and the ids in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        address = given.get(LOADING.get(tag, ""))
        if address and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    pytest.importorskip("material", reason="pip install 'autogaze[docs]'")
    pytest.importorskip("mkdocstrings_handlers.python", reason="pip install 'autogaze[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_complete(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    sources = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    assert sources | {"index.html", "changelog.html", "model-card.html"} <= pages
    assert (site / "search" / "search_index.json").is_file()


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site):
    found = set().union(*(Loads(page).ids for page in (site / "api").glob("*.html")))
    public = {f"autogaze.{name}" for name in autogaze.__all__ if name != "__version__"}
    assert public <= found
    for page in (site / "api").glob("*.html"):
        # A function that has its module's name could be taken for the module.
        for name, heading in re.findall(r'<h2 id="([\w.]+)".*?>(.*?)</h2>', page.read_text(), re.S):
            assert name not in public or "doc-symbol-module" not in heading


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        addresses = Loads(page).loaded
        assert addresses, page
        assert not [address for address in addresses if re.match(r"(https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_formulas_are_drawn(site):
    text = (site / "training.html").read_text()
    assert text.count('<svg class="formula"') > 20
    assert "arithmatex" not in text


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without calling the functions that it names."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def test_every_page_has_a_place_in_the_navigation():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)
    listed = set(re.findall(r"[\w/-]+\.md", str(settings["nav"])))
    written = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert written <= listed, "name it in mkdocs.yml"
