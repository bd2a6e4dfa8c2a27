"""Commands as dataclasses: a command's options, their checks and its work in one class.

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
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from autogaze.cli.errors import EXIT_CODES, exit_codes, log
from autogaze.errors import AutoGazeError, renaming
from autogaze.video.decoders import DecoderName

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
