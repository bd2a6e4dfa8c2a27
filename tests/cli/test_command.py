"""A dataclass becomes a verb: options, checks, exit codes, former names."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner, Result

from autogaze.cli.command import Command, PrintJson, Renamed, add_command, log_to_stderr
from autogaze.errors import SelectorError

NONE: Any = ()


@dataclass(frozen=True)
class Count(Command):
    """Count sheep."""

    sheep: Annotated[list[str], typer.Argument(help="Which.")]
    most: Annotated[int, typer.Option(help="How many."), Renamed("--limit", "--most")] = 3
    tags: Annotated[list[str], typer.Option("--tag"), Renamed("--label", "--tag")] = NONE
    json: PrintJson = False

    def __post_init__(self) -> None:
        if self.most < 0:
            raise SelectorError(f"--most {self.most}: must be at least 0")

    def run(self) -> int | None:
        print(json.dumps(asdict(self)))
        return 1 if len(self.sheep) > self.most else None


def run(*words: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: log_to_stderr())
    add_command(app, Count, "count")
    add_command(app, Count, "tally", renamed_to="count")
    return CliRunner().invoke(app, list(words))


def test_fields_are_options_and_the_result_is_the_exit_code() -> None:
    result = run("count", "dolly", "--most", "2", "--tag", "a", "--tag", "b", "--json")
    assert json.loads(result.stdout) == {
        "sheep": ["dolly"],
        "most": 2,
        "tags": ["a", "b"],
        "json": True,
    }
    assert (result.exit_code, result.stderr) == (0, "")
    assert run("count", "dolly", "polly", "--most", "1").exit_code == 1


def test_checks_come_before_the_work() -> None:
    result = run("count", "dolly", "--most", "-1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--most -1" in result.stderr


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("--limit", "5"), "most", 5),
        (("--label", "a", "--label", "b"), "tags", ["a", "b"]),
    ],
)
def test_former_options_warn(words: tuple[str, ...], field: str, value: object) -> None:
    result = run("count", "dolly", *words)
    assert json.loads(result.stdout)[field] == value
    (line,) = result.stderr.splitlines()
    assert words[0] in line


def test_former_and_present_name_together_are_refused() -> None:
    assert run("count", "dolly", "--limit", "5", "--most", "4").exit_code == 2


def test_former_verbs_warn() -> None:
    result = run("tally", "dolly")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert "tally" in line
    assert "count" in line


def test_help_shows_present_names_only() -> None:
    result = run("count", "--help")
    for words in ("Count sheep.", "--most", "--tag", "Exit codes"):
        assert words in result.stdout
    assert "--limit" not in result.stdout
    assert "tally" not in run("--help").stdout
