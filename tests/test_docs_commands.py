"""Commands and code in the documentation that need data of one's own: they are read, not run."""

import ast
import importlib
import os
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from autogaze.cli.app import app
from tests.test_docs import BLOCK, LINKED, ROOT, blocks

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shell_lines(page: Path) -> list[str]:
    """Lines of a page's shell blocks, those that end in a backslash joined."""
    bodies = [body for kind, body in FENCE.findall(page.read_text()) if kind in ("", "bash", "sh")]
    return [
        line.strip() for body in bodies for line in body.replace("\\\n", " ").splitlines() if line
    ]


def simple_commands(page: Path, program: str) -> list[list[str]]:
    """Words behind `program` in every command of a page that starts with it."""
    found = []
    for line in shell_lines(page):
        for command in re.split(r"&&|;(?=\s)|\s&(?:\s|$)", line):
            # Behind two spaces stands what a command does, in a list of commands.
            command = (
                re.split(r"\s{2,}[a-z]", command.strip(" $"))[0] if "--" not in command else command
            )
            match = re.match(rf"(?:\w+=\S+ )*{re.escape(program)}(?: |$)(.*)", command.strip(" $"))
            if match:
                found.append(shlex.split(match[1], comments=True))
    return found


PROGRAMS = [page for page in LINKED if simple_commands(page, "autogaze")]
TRAININGS = [page for page in LINKED if simple_commands(page, "python -m autogaze.train")]


def test_every_command_is_listed():
    """In the overview of docs/command-line.md."""

    def names(command, before=()):
        if not hasattr(command, "commands"):
            return set() if command.hidden else {before}
        return set().union(*(names(one, (*before, n)) for n, one in command.commands.items()))

    overview = FENCE.search((ROOT / "docs" / "command-line.md").read_text())[2]
    listed = re.findall(r"^autogaze ([a-z ]+?)(?= [A-Z]|  )", overview, re.MULTILINE)
    assert {tuple(line.split()) for line in listed} == names(typer.main.get_command(app))


def parse(words: list[str]) -> None:
    """Read the words as the command line does, and run nothing.

    Raises:
        UsageError: no such command or option, or an option without its value.
    """
    # Typer brings its own Click in some versions: no class of Click is named here.
    command, context = typer.main.get_command(app), None
    while hasattr(command, "resolve_command"):
        context = command.context_class(command, parent=context)
        _, command, words = command.resolve_command(context, words)
    command.make_parser(command.context_class(command, parent=context)).parse_args(list(words))


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_understood(page):
    for words in simple_commands(page, "autogaze"):
        parse(words)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("bench select --repeat-often 5", "NoSuchOption"),
        ("benchmark select", "UsageError"),
        ("bench select --repeats", "BadOptionUsage"),
    ],
)
def test_commands_that_there_are_not_are_found(words, kind):
    with pytest.raises(Exception, match=r"[Nn]o such|requires an argument") as caught:
        parse(words.split())
    assert kind in [base.__name__ for base in type(caught.value).__mro__]


@pytest.mark.parametrize("page", TRAININGS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_training_options_are_understood(page, monkeypatch):
    hydra = pytest.importorskip("hydra", reason="pip install 'autogaze[train]'")
    monkeypatch.chdir(ROOT)
    for words in simple_commands(page, "python -m autogaze.train"):
        options = dict(pairwise(words))
        overrides = [word for word in words if "=" in word]
        folder = options.get("--config-dir")
        if folder is not None and not (ROOT / folder).is_dir():
            continue
        place = (
            hydra.initialize_config_module("autogaze.configs", version_base=None)
            if folder is None
            else hydra.initialize_config_dir(os.path.abspath(folder), version_base=None)
        )
        search = "hydra.searchpath=[pkg://autogaze.configs]"
        with place:
            hydra.compose(options["--config-name"], overrides=[search, *overrides])


OTHER = [page for page in LINKED if blocks(page, "py")]


@pytest.mark.parametrize("page", OTHER, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_that_is_not_run_imports_what_there_is(page):
    for kind, source in BLOCK.findall(page.read_text()):
        if kind != "py":
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autogaze"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
