"""The rooms of the package: read from docs/architecture.md, checked against the imports, and drawn.

The table of rooms in docs/architecture.md says which files belong to a room, in which order rooms
may import each other, and which heavy libraries are imported where. tests/test_architecture.py
holds the package to it, by the functions below.

    python scripts/rooms.py            # draws docs/rooms.svg anew
    python scripts/rooms.py --imports  # prints which room imports which, with a file for each
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "autogaze"
PAGE = ROOT / "docs" / "architecture.md"
DRAWING = ROOT / "docs" / "rooms.svg"


@dataclass(frozen=True)
class Room:
    """A row of the table: files and folders of the package, and libraries that only they import."""

    paths: tuple[str, ...]
    libraries: frozenset[str]

    @property
    def name(self) -> str:
        """How the drawing names it: its paths without endings."""
        return ", ".join(path.removesuffix(".py") for path in self.paths)

    def holds(self, path: str) -> int:
        """Length of the room's path that `path` (relative to the package) lies under; 0 if none."""
        return max(
            (
                len(own)
                for own in self.paths
                if path == own or (own[-1] == "/" and path.startswith(own))
            ),
            default=0,
        )


@dataclass(frozen=True)
class Import:
    """A module that a file imports, anywhere in it: at the top, in a function or for types only."""

    importer: str
    imported: str
    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: imports {self.imported}"


def read_rooms(page: Path = PAGE) -> list[Room]:
    """The table under the heading `## Rooms`, from top to bottom."""
    section = page.read_text().split("\n## Rooms\n", 1)[1].split("\n## ", 1)[0]
    rooms = []
    for row in re.findall(r"^\| `.*\|$", section, re.MULTILINE):
        files, _, libraries = (cell.strip() for cell in row.strip("|").split("|"))
        rooms.append(Room(tuple(re.findall(r"`([^`]+)`", files)), quoted(libraries)))
    return rooms


def quoted(cell: str) -> frozenset[str]:
    """The words in backticks in a cell of a table."""
    return frozenset(re.findall(r"`([^`]+)`", cell))


def room_of(path: str, rooms: list[Room]) -> int | None:
    """Index of the room that a path (relative to the package) belongs to: the closest that holds it."""
    best = max(range(len(rooms)), key=lambda index: rooms[index].holds(path))
    return best if rooms[best].holds(path) else None


def package_files(package: Path = PACKAGE) -> dict[str, Path]:
    """The package's modules by their dotted names."""
    modules = {}
    for file in sorted(package.rglob("*.py")):
        parts = (package.name, *file.relative_to(package).with_suffix("").parts)
        modules[".".join(parts).removesuffix(".__init__")] = file
    return modules


def read_imports(modules: dict[str, Path]) -> list[Import]:
    """Every import of every module; names of the package's own modules in full."""
    found = []
    for name, file in modules.items():
        for node in ast.walk(ast.parse(file.read_text())):
            for target in imported_modules(node, name, file, modules):
                if target != name:
                    found.append(Import(name, target, file, node.lineno))
    return found


def imported_modules(
    node: ast.AST, importer: str, file: Path, modules: dict[str, Path]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = f"{package}.{base}".rstrip(".")
        for alias in node.names:
            if (base, alias.name) == ("autogaze", "__version__"):
                continue  # a constant, there before anything is imported
            yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base
    elif isinstance(node, ast.Call) and node.args:
        # importlib.import_module("autogaze.something")
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        first = node.args[0]
        if called == "import_module" and isinstance(first, ast.Constant):
            yield str(first.value)


def inside(imports: list[Import], modules: dict[str, Path]) -> list[Import]:
    """The imports of the package's own modules."""
    return [each for each in imports if each.imported in modules]


def find_circle(imports: list[Import]) -> list[Import]:
    """A shortest circle of imports, or an empty list where there is none."""
    onward: dict[str, dict[str, Import]] = {}
    for each in imports:
        onward.setdefault(each.importer, {}).setdefault(each.imported, each)
    shortest: list[Import] = []
    for start in onward:
        # Breadth first from `start` until it is met again.
        ways: dict[str, list[Import]] = {start: []}
        queue = [start]
        for module in queue:
            for target, step in onward.get(module, {}).items():
                way = [*ways[module], step]
                if target == start:
                    if not shortest or len(way) < len(shortest):
                        shortest = way
                elif target not in ways:
                    ways[target] = way
                    queue.append(target)
    return shortest


def room_edges(rooms: list[Room]) -> dict[tuple[int, int], Import]:
    """Which room imports which: (importer, imported) -> one import that shows it."""
    modules = package_files()
    edges: dict[tuple[int, int], Import] = {}
    for each in inside(read_imports(modules), modules):
        pair = (place(each.importer, modules, rooms), place(each.imported, modules, rooms))
        if None not in pair and pair[0] != pair[1]:
            edges.setdefault(pair, each)  # type: ignore[arg-type]
    return edges


def place(module: str, modules: dict[str, Path], rooms: list[Room]) -> int | None:
    """Index of a module's room."""
    return room_of(modules[module].relative_to(PACKAGE).as_posix(), rooms)


def without_shortcuts(edges: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The transitive reduction: edges that no longer way through other rooms implies."""
    beyond: dict[int, set[int]] = {}

    def reach(room: int) -> set[int]:
        if room not in beyond:
            beyond[room] = set()
            for importer, imported in edges:
                if importer == room:
                    beyond[room] |= {imported} | reach(imported)
        return beyond[room]

    return {
        (importer, imported)
        for importer, imported in edges
        if not any(
            imported in reach(other)
            for start, other in edges
            if start == importer and other != imported
        )
    }


# The drawing: one row per depth; a line for every import that no longer way implies.
WIDTH, ROW, BOX = 940, 72, 32


def layers(edges: set[tuple[int, int]], num_rooms: int) -> tuple[list[list], list[list]]:
    """Rows of nodes, and the chain of nodes that each edge runs along.

    A room stands in the row below the lowest room that it imports. Where an edge passes rows, a
    pair (edge, row) keeps a place for it there. Nodes are ordered by the mean place of their
    neighbours, so that few lines cross.
    """
    depth = [0] * num_rooms
    for index in range(num_rooms):  # a room's imports have smaller indices
        depth[index] = max((depth[b] + 1 for a, b in edges if a == index), default=0)
    rows: list[list] = [[] for _ in range(max(depth) + 1)]
    for index in range(num_rooms):
        rows[depth[index]].append(index)
    chains = []
    for edge in sorted(edges):
        passed = [(edge, level) for level in range(depth[edge[1]] + 1, depth[edge[0]])]
        for node in passed:
            rows[node[1]].append(node)
        chains.append([edge[1], *passed, edge[0]])

    neighbours: dict = {}
    for chain in chains:
        for above, below in pairwise(chain):
            neighbours.setdefault(above, []).append(below)
            neighbours.setdefault(below, []).append(above)
    for _ in range(20):
        for row in rows:
            places = {node: (at + 1) / (len(r) + 1) for r in rows for at, node in enumerate(r)}
            means = {
                node: sum(places[n] for n in neighbours.get(node, [node]))
                / len(neighbours.get(node, [node]))
                for node in row
            }
            row.sort(key=means.__getitem__)
    return rows, chains


def draw(rooms: list[Room]) -> str:
    """SVG of the rooms: each stands below all that it imports."""
    edges = without_shortcuts({(a, b) for a, b in room_edges(rooms) if a > b})
    rows, chains = layers(edges, len(rooms))
    middle: dict = {}
    boxes = []
    for level, row in enumerate(rows):
        widths = [7.4 * len(rooms[n].name) + 20 if isinstance(n, int) else 8 for n in row]
        gap = (WIDTH - sum(widths)) / (len(row) + 1)
        left, top = gap, 12 + ROW * level
        for node, width in zip(row, widths, strict=True):
            middle[node] = (left + width / 2, top)
            if isinstance(node, int):
                boxes.append(
                    f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{BOX}" rx="6" />'
                    f'<text x="{left + width / 2:.0f}" y="{top + 20}" fill="#16233a" '
                    f'stroke="none">{rooms[node].name}</text>'
                )
            left += width + gap
    lines = []
    for chain in chains:
        steps = []
        for above, below in pairwise(chain):
            (x1, y1), (x2, y2) = middle[above], middle[below]
            bend = (ROW - BOX) / 2
            steps.append(
                f"{'L' if steps else 'M'}{x1:.0f} {y1 + BOX} "
                f"C{x1:.0f} {y1 + BOX + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2}"
            )
        lines.append(f'<path d="{" ".join(steps)}" />')
    height = 12 + ROW * (len(rows) - 1) + BOX + 12
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="monospace" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff" />',
            '<g fill="none" stroke="#8a94a6" stroke-width="1.2">',
            *lines,
            "</g>",
            '<g fill="#eef3fb" stroke="#33507a" text-anchor="middle">',
            *boxes,
            "</g>",
            "</svg>",
            "",
        ]
    )


def main() -> None:
    """Draw the rooms, or print what imports what."""
    rooms = read_rooms()
    if "--imports" in sys.argv[1:]:
        for (importer, imported), each in sorted(room_edges(rooms).items()):
            arrow = "->" if importer > imported else "-> (UP)"
            print(f"{rooms[importer].name} {arrow} {rooms[imported].name}   {each}")
    else:
        DRAWING.write_text(draw(rooms))
        print(DRAWING)


if __name__ == "__main__":
    main()
