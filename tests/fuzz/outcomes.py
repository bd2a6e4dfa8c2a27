"""Outcomes of cases: what a wrong input may end in."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from typer.testing import CliRunner

from autogaze.cli.app import app
from autogaze.errors import AutoGazeError


class WrongOutcomeError(Exception):
    """An outcome that is not allowed."""


def expect_named(error: BaseException, *names: str) -> None:
    """Raise `WrongOutcomeError` unless an error is one of ours and names the file or option."""
    if not isinstance(error, AutoGazeError):
        raise WrongOutcomeError(
            f"{type(error).__name__} in the place of an error of autogaze"
        ) from error
    if names and not any(name in str(error) for name in names):
        raise WrongOutcomeError(f"no name in the message: {error}") from error


def attempt(call: Callable[[], Any], *names: str) -> str:
    """Outcome of a call: "ok" or "clean error"."""
    try:
        call()
    except Exception as error:
        expect_named(error, *names)
        return "clean error"
    return "ok"


def command(*arguments: object, names: tuple[str, ...]) -> str:
    """Outcome of a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exit_code == 0:
        if "NaN" in result.stdout or "Infinity" in result.stdout:
            raise WrongOutcomeError(f"no JSON: {result.stdout[:200]}")
        return "ok"
    if result.exit_code not in (1, 2) or "Traceback" in result.output:
        raise WrongOutcomeError(f"exit code {result.exit_code}: {result.output[-1500:]}")
    if not any(name in result.output for name in names):
        raise WrongOutcomeError(f"no name in the message: {result.output[:500]}")
    return "clean error"


def one_of(calls: Sequence[Callable[[], Any]], value: Any, random: Random) -> str:
    """Outcome of one of these calls, which are made with `value`."""
    number = random.randrange(len(calls))
    try:
        return attempt(calls[number])
    except WrongOutcomeError as error:
        raise WrongOutcomeError(f"call {number} with {repr(value)[:80]}: {error}") from error
