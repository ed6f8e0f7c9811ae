"""``*_events.tsv``: what a person or a program wrote about a recording, looked through before MNE-BIDS reads it."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError, nearest

MISSING = ("", "n/a", "nan", "NaN")


@dataclass(frozen=True)
class EventsTable:
    """The rows of an events file that have an onset.

    Parameters
    ----------
    onsets : list of float
        Seconds.
    names : set of str
        What `trial_type` says or, where that is n/a in every row, `value`: as MNE-BIDS has it.
    n_dropped : int
        Rows without an onset.
    """

    onsets: list[float]
    names: set[str]
    n_dropped: int


def read_events(path: Path) -> EventsTable:
    """Read an events file in UTF-8, UTF-16 or Latin-1.

    Raises
    ------
    InputError
        When a column is missing, or an onset is no number; one line with the row and the value.
    """
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter="\t")
    columns = list(rows.fieldnames or [])
    for column in ("onset", "trial_type"):
        if column not in columns:
            tabs = "; columns are separated by tabs" if len(columns) == 1 and column in columns[0] else ""
            raise InputError(f"{path}: no column {column!r}{nearest(column, columns)}; there are {columns}{tabs}")
    onsets, types, values, n_dropped = [], [], [], 0
    for number, row in enumerate(rows, 2):  # as an editor counts lines
        onset = (row["onset"] or "").strip()
        if onset in MISSING:
            n_dropped += any(str(value or "").strip() for value in row.values())  # an empty line is no row
            continue
        try:
            onsets.append(float(onset))
        except ValueError as error:
            comma = "; decimals are written with a point" if "," in onset else ""
            raise InputError(f"{path}: line {number}: onset {onset!r} is no number of seconds{comma}") from error
        types.append((row["trial_type"] or "").strip())
        values.append((row.get("value") or "").strip())
    names = {name for name in types if name not in MISSING} or {name for name in values if name not in MISSING}
    return EventsTable(onsets, names, n_dropped)


def without_value(name: str, names: set[str]) -> str:
    """Return an annotation's trial type: MNE-BIDS adds ``/value`` to one that stands beside several values."""
    stem = name.rpartition("/")[0]
    return stem if name not in names and stem in names else name


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
