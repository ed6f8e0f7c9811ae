"""`simulate --grid`: the same federation with every combination of a few settings."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from data.errors import InputError
from federation.contract import ONE_MESSAGE, Federation, parse_federation
from federation.tables import Table, parse_table, read_toml

MOST = 200  # combinations: more are a mistake, or a week


class Grid(Table):
    """A GRID.toml: values to try, a list for each key.

    Parameters
    ----------
    contract, training : table
        Keys of a FED.toml's tables.
    """

    contract: dict[str, list[Any]] = Field({})
    training: dict[str, list[Any]] = Field({})


def combinations(path: Path, federation: Federation) -> Iterator[tuple[str, Federation]]:
    """Yield a name, such as ``lr=0.004,body=tangent``, and the federation of each combination, all of them checked.

    Raises
    ------
    InputError
        For an unknown key, an empty list, or values that do not fit; one line that names the combination.
    """
    grid = parse_table(Grid, read_toml(path), str(path))
    keys = [(table, key) for table in ("training", "contract") for key in getattr(grid, table)]
    values = [getattr(grid, table)[key] for table, key in keys]
    if not keys or not all(values):
        raise InputError(f"{path}: give at least one key a list of values, such as [training] with lr = [0.004, 0.008]")
    chosen = list(itertools.product(*values))
    if len(chosen) > MOST:
        raise InputError(f"{path}: {len(chosen)} combinations; at most {MOST} are run")
    found = []
    for combination in chosen:
        name = ",".join(f"{key}={_shown(value)}" for (_, key), value in zip(keys, combination, strict=True))
        document = federation.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        document["name"] = federation.name
        if federation.contract.strategy == ONE_MESSAGE:  # its one round is no wish of the user's
            document.get("training", {}).pop("rounds", None)
        for (table, key), value in zip(keys, combination, strict=True):
            document.setdefault(table, {})[key] = value
        document["site"] = [site.model_dump(mode="json", exclude_none=True) for site in federation.site]
        found.append((name, parse_federation(document, f"{path}, {name}")))
    yield from found


def _shown(value: Any) -> str:
    return "-".join(map(_shown, value)) if isinstance(value, list) else str(value).replace("/", "-").replace(":", "-")
