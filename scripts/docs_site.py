"""Hooks of the documentation's site: pages from outside docs/, links to them, formulas, docstrings.

The README, the changelog and other pages that live beside what they tell of become pages of the
site without being copied. Their links are written for the repository; here they are made those of
the site. Formulas are drawn as SVG when the site is built, so that no script has to be fetched.
"""

import os
import re
from functools import cache
from html import escape, unescape
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "autogaze/weights/README.md": "model-card.md",
    "recipes/default/README.md": "recipe.md",
}
"""Pages from outside docs/, and their names on the site."""
FILES = {"examples/quickstart.ipynb": "quickstart.ipynb"}
"""Other files that pages link to, likewise."""

LINK = re.compile(r"(\]\()([^)#\s]*)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
JOINT = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)
"""Arguments that a docstring explains together, as in `width, height: of the frame`."""

POINTS = 12
"""Size that formulas are drawn in; they are shown relative to the text's size."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live elsewhere in the repository."""
    for source, name in PAGES.items():
        text = FRONT_MATTER.sub("", (ROOT / source).read_text())
        files.append(File.generated(config, name, content=text))
    for source, name in FILES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links, which lead from file to file in the repository, into the site's."""
    site = page.file.src_uri
    here = next((path for path, name in PAGES.items() if name == site), f"docs/{site}")
    parts = FENCE.split(markdown)
    # Fenced blocks are every second part: code that looks like a link is none.
    parts[::2] = [LINK.sub(lambda link: _relinked(link, here, site), part) for part in parts[::2]]
    return "".join(parts)


def _relinked(link: re.Match[str], here: str, site: str) -> str:
    opening, target, ending = link.groups()
    if not target or ":" in target:
        return link.group()
    path = os.path.normpath(PurePosixPath(here).parent / target)
    name = (PAGES | FILES).get(path)
    if name is None and not path.startswith("docs/"):
        return link.group()  # MkDocs warns of it, as of every link that leads nowhere
    name = name or path.removeprefix("docs/")
    return f"{opening}{os.path.relpath(name, PurePosixPath(site).parent)}{ending}"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the formulas of a page."""
    return FORMULA.sub(lambda found: _formula(unescape(found[3]), is_block=found[2] == "["), html)


def _formula(source: str, *, is_block: bool) -> str:
    source = " ".join(source.split())
    if not is_block:
        return drawing(source)
    # As TeX does, fractions in a line of their own are large.
    large = drawing(source.replace(r"\frac", r"\dfrac"))
    return f'<span class="formula-block">{large}</span>'


@cache
def drawing(source: str) -> str:
    """A formula in TeX as an SVG that stands on the line of the text around it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from matplotlib.path import Path as Outline
    from matplotlib.textpath import TextPath

    text, font = f"${source}$", FontProperties(size=POINTS, math_fontfamily="stix")
    width, height, depth, _, _ = MathTextParser("path").parse(text, 72, font)
    outline = TextPath((0, 0), text, size=POINTS, prop=font)
    letters = {
        Outline.MOVETO: "M",
        Outline.LINETO: "L",
        Outline.CURVE3: "Q",
        Outline.CURVE4: "C",
        Outline.CLOSEPOLY: "Z",
    }
    steps = []
    for points, code in outline.iter_segments(simplify=False, curves=True):
        # y grows downwards in an SVG; the line of the text is at 0.
        pairs = zip(points[::2], points[1::2], strict=True)
        places = " ".join(f"{x:.2f} {-y:.2f}" for x, y in pairs)
        steps.append("Z" if code == Outline.CLOSEPOLY else letters[code] + places)
    left, top, right, bottom = -0.5, -(height - depth) - 1, width + 1, depth + 1
    return (
        f'<svg class="formula" role="img" aria-label="{escape(source, quote=True)}" '
        f'viewBox="{left:.2f} {top:.2f} {right - left:.2f} {bottom - top:.2f}" '
        f'style="height:{(bottom - top) / POINTS:.3f}em;vertical-align:{-bottom / POINTS:.3f}em">'
        f'<path d="{"".join(steps)}"/></svg>'
    )


class JointArguments(griffe.Extension):
    """Splits arguments that are explained together, so that each is shown with its own type."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = JOINT.sub(_split, obj.docstring.value)


def _split(found: re.Match[str]) -> str:
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
