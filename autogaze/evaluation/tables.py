"""Tables of figures, in the terminal and as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """A table as text.

    Attributes:
        rows: as wide as the header.
        rules: numbers of the rows before which a line is drawn.
        names: number of the column that holds names, which is aligned to the left.
        compact: without frame and line breaks, for many columns.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    rules: tuple[int, ...] = ()
    caption: str | None = None
    names: int = 0
    compact: bool = False

    def rich(self) -> Table:
        """For a terminal."""
        look: dict[str, Any] = {"caption": self.caption, "caption_justify": "left"}
        if self.compact:
            look |= {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
        table = Table(title=escape(self.title), title_justify="left", **look)
        for number, name in enumerate(self.header):
            if number != self.names:
                table.add_column(escape(name), justify="right", no_wrap=self.compact)
            elif self.compact:
                table.add_column(escape(name), overflow="fold", min_width=10, max_width=24)
            else:
                table.add_column(escape(name))
        for number, row in enumerate(self.rows):
            if number in self.rules:
                table.add_section()
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """As a Markdown table under its title."""
        marks = ["---" if n == self.names else "---:" for n in range(len(self.header))]
        lines = "\n".join(f"| {' | '.join(line)} |" for line in (self.header, marks, *self.rows))
        return f"**{self.title}**\n\n{lines}\n"


def print_tables(console: Console, tables: Sequence[TextTable], notes: Sequence[str] = ()) -> None:
    """Tables, then notes in small print."""
    for table in tables:
        console.print(table.rich())
    for note in notes:
        console.print(escape(note), style="dim")


def changes(values: Sequence[object]) -> tuple[int, ...]:
    """The places where a value differs from the one before."""
    return tuple(n for n in range(1, len(values)) if values[n] != values[n - 1])
