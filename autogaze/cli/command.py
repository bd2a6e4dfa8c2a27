"""Commands as dataclasses: a command's options, their checks and its work in one class.

Here are also options that most commands share (those of selectors are in `cli/gaze.py`), and what
becomes of errors: messages and exit codes.

    @dataclass(frozen=True)
    class Info(Command):
        "Describe a file."  # the text of --help

        file: Annotated[str, typer.Argument(help="A gaze file, a video or a checkpoint.")]
        metric: Annotated[str, typer.Option(help="..."), Renamed("--judge", "--metric")] = "canvas"
        json: PrintJson = False

        def __post_init__(self) -> None: ...  # checks that need no torch
        def run(self) -> None: ...  # the work, with its heavy imports

    add_command(app, Info, "info")
"""

import inspect
import io
import logging
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from autogaze.errors import AutoGazeError, MissingExtraError, first_line, renaming
from autogaze.video.decoders import DecoderName

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

DEVICE_HELP = "Where it is computed: auto (a CUDA GPU where there is one), cpu, cuda or mps."
DTYPE_HELP = "Precision of models: float32, float16 or bfloat16."
DECODER_HELP = (
    "What decodes: pyav; torchcodec, on a GPU's own decoder if --device is one; or auto, which is "
    "torchcodec where there is a GPU and it gives what pyav does."
)
Device = Annotated[str, typer.Option("--device", help=DEVICE_HELP)]
Dtype = Annotated[str, typer.Option("--dtype", help=DTYPE_HELP)]
Decoder = Annotated[DecoderName, typer.Option("--decoder", help=DECODER_HELP)]
PrintJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Command(ABC):
    """Base class of commands: a frozen dataclass whose fields are arguments and options."""

    @abstractmethod
    def run(self) -> int | None:
        """Do the work; returns the exit code, None for 0."""


@dataclass(frozen=True)
class Renamed:
    """Annotation of an option's field: the former name still works, with a warning."""

    former: str
    present: str


def add_command(
    app: typer.Typer, command: type[Command], name: str, *, renamed_to: str | None = None
) -> None:
    """Add a command to an app.

    Args:
        command: fields annotated with `typer.Option` or `typer.Argument`; its docstring is the
            help, and errors of its checks and of `run` become exit codes.
        renamed_to: the present name, if `name` is a former one: hidden, with a warning.
    """
    types = get_type_hints(command, include_extras=True)
    parameters = {
        parameter.name: parameter.replace(
            kind=inspect.Parameter.KEYWORD_ONLY, annotation=types[parameter.name]
        )
        for parameter in inspect.signature(command).parameters.values()
    }
    renamed = {
        field: extra
        for field in parameters
        for extra in types[field].__metadata__
        if isinstance(extra, Renamed)
    }
    hidden = [_former_option(parameters[field], option) for field, option in renamed.items()]

    def call(**values: Any) -> None:
        with exit_codes():
            if renamed_to is not None:
                _warn(name, renamed_to)
            for field, option in renamed.items():
                value = values.pop(_FORMER + field)
                if value in (None, []):
                    continue
                _warn(option.former, option.present)
                if values[field] not in (parameters[field].default, []):
                    raise AutoGazeError(f"{option.former} and {option.present}: give one of them")
                values[field] = value
            raise typer.Exit(command(**values).run() or 0)

    signature = inspect.Signature([*parameters.values(), *hidden])
    call.__doc__ = command.__doc__
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    app.command(name, epilog=EXIT_CODES, hidden=renamed_to is not None)(call)


_FORMER = "former_"
"""Prefix of the parameter of a former option, before the field's name."""


def _former_option(parameter: inspect.Parameter, option: Renamed) -> inspect.Parameter:
    """The hidden parameter of an option's former name; None if it is not given."""
    kind = get_args(parameter.annotation)[0] | None
    annotation = Annotated[kind, typer.Option(option.former, hidden=True)]
    return parameter.replace(name=_FORMER + parameter.name, default=None, annotation=annotation)


def _warn(former: str, present: str) -> None:
    log.warning("%s", renaming(former, present))


def is_users(error: BaseException) -> bool:
    """Whether other input or options help: everything else is a defect."""
    if isinstance(error, USER_ERRORS):
        return True
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
