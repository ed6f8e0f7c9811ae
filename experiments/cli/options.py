"""Options that several commands take, and commands that are handed all that was typed as one object."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from mfscsn import device

# Groups of `mfscsn --help`
START, RUN, LOOK, SHARE, DEPLOY, BEETL = "Start", "Run", "Look", "Share", "Deploy", "BEETL"


def typed_names(text: str | None) -> list[str]:
    """Read names with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


Pattern = Annotated[
    str | None,
    typer.Option(
        help="Where subject, session and run stand in the names of files.",
        metavar="'S{subject}R{run}'",
        show_default=False,
    ),
]
Typed = TypeVar("Typed")

DataRoot = Annotated[Path | None, typer.Option(help="Where recordings lie, in place of the file's data_root.")]
StoreRoot = Annotated[Path, typer.Option(help="Folder for prepared trials.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder.  \\[default: runs/NAME-DATE-TIME]")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes.  \\[default: one a core]")]
Device = Annotated[
    device.Device,
    typer.Option(help="Where rounds are trained: the processor, a graphics card, or one where there is one."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads a site trains with; results repeat at one number.")]
PREPARED = Path("prepared")


def takes(kind: type[Typed]) -> Callable[[Callable[[Typed], None]], Callable[..., None]]:
    """Make a command out of a function of one dataclass, whose fields are what can be typed.

    Parameters
    ----------
    kind : dataclass
        Its fields are annotated as typer wants the parameters of a command.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)  # type: ignore[arg-type]
    ]

    def decorate(command: Callable[[Typed], None]) -> Callable[..., None]:
        def typed(**values: Any) -> None:
            command(kind(**values))

        typed.__name__, typed.__doc__, typed.__annotations__ = command.__name__, command.__doc__, hints
        typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return typed

    return decorate
