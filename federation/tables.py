"""Tables of a TOML file that a person writes: read, and checked word by word; an unknown key is an error."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from data.errors import InputError, nearest, one_line


class Table(BaseModel):
    """A table of a TOML file: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Table)
RENAMED = {  # keys, values and names of methods that files of earlier versions have
    "bad-site": "byzantine",
    "bad_sites": "n_byzantine",
    "clip": "max_grad_norm",
    "followed": "adaptive",
    "noise": "noise_multiplier",
    "one-place": "centralised",
    "own-followed": "own-adaptive",
    "site-weighted-followed": "site-weighted-adaptive",
}


def suggested(word: str, known: list[str]) -> str:
    """Return what an unknown word is called now, or the nearest known one, as the end of an error's sentence."""
    new = RENAMED.get(word)
    return f"; {word!r} is called {new!r} now" if new in known else nearest(word, known)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise InputError that names it when it is missing or is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows begin with a mark
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as TOML: it is nested too deep") from error
    except (OSError, ValueError) as error:  # a number of thousands of digits is a plain ValueError
        raise InputError(f"{path}: cannot be read as TOML: {one_line(error)}") from error


def parse_table(model: type[Checked], document: Mapping[str, Any], where: str) -> Checked:
    """Check a document as a table of a kind; raise InputError that begins with `where`."""
    try:
        return model.model_validate_json(json.dumps(document, default=str))
    except (RecursionError, OverflowError) as error:
        raise InputError(f"{where}: is nested too deep, or holds a number that is too large") from error
    except ValidationError as error:
        raise InputError(f"{where}: {_first_fault(error, document, model)}") from error


def first_difference(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> str | None:
    """Name the first key in which two nested tables differ, with both values; None when they agree."""
    for key in [*a, *(k for k in b if k not in a)]:
        left, right, at = a.get(key), b.get(key), f"{path}{key}"
        if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            left, right = dict(enumerate(left)), dict(enumerate(right))
        if isinstance(left, dict) and isinstance(right, dict):
            inside = first_difference(left, right, f"{at}.")
            if inside:
                return inside
        elif left != right:
            return f"{at} was {left!r}, is {right!r}"
    return None


def flat_keys(values: Any, at: str = "") -> dict[str, Any]:
    """Return the keys of nested tables with dots between; tables of a list go by their names, or their places."""
    if isinstance(values, dict):
        return {
            k: v for key, value in values.items() for k, v in flat_keys(value, f"{at}.{key}" if at else key).items()
        }
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        named = {str(value.get("name", k)): value for k, value in enumerate(values)}
        return {k: v for key, value in named.items() for k, v in flat_keys(value, f"{at}.{key}").items()}
    return {at: values}


def as_name(text: str) -> str:
    """Make a name out of a file's or folder's."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "_-" else "-" for c in text).strip("-_") or "unnamed"


def _first_fault(error: ValidationError, document: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Return pydantic's first fault in one line: key, what is wrong, and the nearest key where one was misspelt."""
    faults = error.errors()
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    names, table, value = [], model, document  # type: tuple[list[str], type[BaseModel], Any]
    for part in fault["loc"]:
        if isinstance(part, int):
            value = value[part] if isinstance(value, list) and part < len(value) else None
            named = isinstance(value, dict) and value.get("name")
            names[-1] += f" {value['name']!r}" if named else f" {part + 1}"
        elif isinstance(value, dict) and (part in value or fault["type"] == "missing"):
            value = value.get(part)
            names.append(part)
            if part != fault["loc"][-1] and part in table.model_fields:
                table = _table_in(table.model_fields[part].annotation) or table
    where = ", ".join(names)
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key{suggested(names[-1], list(table.model_fields))}"
    if fault["type"] == "string_pattern_mismatch":
        return f"{where}: expected letters, digits, - and _, found {fault['input']!r}"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    given = fault["input"]
    if isinstance(given, dict | list) or fault["type"] == "missing":
        return f"{where + ': ' if where else ''}{message}"
    now = suggested(given, [RENAMED[given]]) if fault["type"] == "literal_error" and given in RENAMED else ""
    return f"{where + ': ' if where else ''}{message}, found {given!r}{now}"


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """Return the kind of table that a field holds, alone, in a list or beside other kinds; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := _table_in(part)) is not None), None)
