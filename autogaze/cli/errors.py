"""Exit codes and error messages of commands."""

import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from autogaze.errors import AutoGazeError, MissingExtraError, first_line

SOME_FAILED = 1
BAD_INPUT = 2
INTERNAL = 70
INTERRUPTED = 130
PIPE_CLOSED = 141

EXIT_CODES = (
    "Exit codes: 0 all went well; 1 several videos were given and some of them failed, the "
    "others are done; 2 bad input or an output that cannot be written; 70 a defect of this "
    "program; 130 stopped by Ctrl-C; 141 stdout was closed by its reader; 143 stopped by SIGTERM. "
    "Whatever happens, no half-written file is left behind."
)

USER_ERRORS = (AutoGazeError, MissingExtraError)
"""Errors of which the message is printed, without a traceback."""

log = logging.getLogger("autogaze")


def is_users(error: BaseException) -> bool:
    """Whether other input or options help: everything else is a defect."""
    return isinstance(error, USER_ERRORS) or _is_out_of_memory(error)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU has no memory left."""
    torch = sys.modules.get("torch")  # which commands without a model need not import
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def describe(error: Exception) -> str:
    """One line about an error, or its traceback where it is a defect."""
    if not is_users(error) or os.environ.get("AUTOGAZE_DEBUG"):
        return "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, USER_ERRORS):
        return str(error).replace("skip_corrupt=True", "--skip-corrupt")
    return (
        f"{first_line(error)} Ask for less at once (what the command has of --ratio, --max-tiles, --frames, "
        "--batch, --dense-batch), for a half precision (--dtype) or --device cpu, or free the GPU's memory"
    )


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what a command raises into a message on stderr and an exit code."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a closed pipe shows here, not when Python ends
    except KeyboardInterrupt:
        log.error("stopped; nothing half-written is left behind")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:  # stdout was closed, by `head` for example
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(PIPE_CLOSED) from None
    except Exception as error:
        if is_users(error):
            log.error("error: %s", describe(error))
            raise typer.Exit(BAD_INPUT) from None
        log.error(
            "%s\nthis is a defect of autogaze: please report the lines above", describe(error)
        )
        raise typer.Exit(INTERNAL) from None


def log_to_stderr() -> None:
    """Send the package's log to stderr, one line per message, and silence the libraries'."""
    # Read when transformers is imported. It reports what we raise errors for, and shows progress
    # bars whether stderr is a terminal or not.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # A name that the terminal's encoding cannot show is escaped (as stderr does it anyway).
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("autogaze: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
