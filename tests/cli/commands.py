"""Commands run in this process."""

from pathlib import Path

from typer.testing import CliRunner, Result

from autogaze.cli.app import app

ALL_KINDS = ("out", "overlay", "sheet", "reconstruction", "plot")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments: object, code: int = 2) -> str:
    """The message on stderr, without a traceback, of a command that ends with `code`."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr


def everything(folder: Path) -> list[str]:
    """Options that ask for a file of every kind in a folder."""
    return [part for kind in ALL_KINDS for part in (f"--{kind}", str(folder))]
