"""What the pages of keys and commands show, from the code, whenever the documentation is built."""

import re
import types
import typing
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from experiments.cli.main import app
from federation.contract import Contract, Dataset, Federation, Part, Privacy, Site, Training

TABLES = {
    "the file": Federation,
    "[contract]": Contract,
    "[training]": Training,
    "[[site]]": Site,
    "[[site.dataset]]": Dataset,
    "calibration, test": Part,
    "[site.privacy]": Privacy,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the places of a page; mkdocs calls this."""
    return markdown.replace("<!-- keys -->", keys()).replace("<!-- commands -->", commands())


def keys() -> str:
    """Return tables of every key of a FED.toml: what it takes, and its default; then what the code says of them."""
    parts = []
    for title, model in TABLES.items():
        rows = []
        for name, field in model.model_fields.items():
            if field.default is not PydanticUndefined:
                default = "" if field.default is None else repr(field.default)
            elif field.default_factory is not None:
                default = "follows from others"
            else:
                default = "must be given"
            kind = _kind(field.annotation).replace("|", "\\|")
            rows.append(f"| `{name}` | {kind} | {default} |")
        parts += [f"### {title}", "", "| key | takes | default |", "|---|---|---|", *rows, "", _described(model), ""]
    return "\n".join(parts)


def _kind(annotation: Any) -> str:
    """Write a type as a person would."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is typing.Literal:
        return " or ".join(f'`"{word}"`' for word in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one) for one in inner if one is not types.NoneType)
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin in (tuple, dict):
        return "two numbers" if origin is tuple else "a table"
    named = {str: "text", int: "a whole number", float: "a number", bool: "`true` or `false`"}
    return named.get(annotation, "a table")


def _described(model: type) -> str:
    """Return the parameters of a numpydoc docstring as a list."""
    lines = (model.__doc__ or "").splitlines()
    lines = [line.removeprefix("    ") for line in lines]
    if "Parameters" not in lines:
        return "\n".join(lines).strip()
    at, items = lines.index("Parameters"), []
    for line in lines[at + 2 :]:
        if line and not line.startswith(" "):
            items.append(f"- **{line.partition(' : ')[0]}**:")
        elif line.strip() and items:
            items[-1] += f" {line.strip()}"
    return "\n".join(["\n".join(lines[:at]).strip(), "", *items])


def commands() -> str:
    """Return every command's help as text, by group."""
    group = typer.main.get_command(app)
    return "\n".join(_of_group(group, ("mfscsn",)))


def _of_group(group: Any, path: tuple[str, ...]) -> list[str]:
    lines = []
    for name, command in group.commands.items():
        where = (*path, name)
        if hasattr(command, "commands"):
            lines += _of_group(command, where)
            continue
        lines += [f"### {' '.join(where)}", "", (command.help or "").strip(), ""]
        rows = [
            f"| `{' '.join(option.opts) or option.name}` | {_cell(getattr(option, 'help', None))} |"
            for option in command.params
            if option.name != "help"
        ]
        if rows:
            lines += ["| takes | |", "|---|---|", *rows, ""]
        if command.epilog:
            lines += [f"`{command.epilog.removeprefix('Example: ')}`", ""]
    return lines


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").replace("\\[", "[").replace("|", "\\|")).replace("{", "&#123;")
