"""A report as one file: sections of words, tables and figures become a page that asks no network for anything."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from data.files import replaced


@dataclass(frozen=True)
class Figure:
    """A drawn figure: its SVG file, what it shows in a line, and what is to be seen there."""

    file: Path
    caption: str
    alt: str

    @property
    def address(self) -> str:
        """The picture itself, as an address."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.file.read_bytes()).decode()}"


@dataclass(frozen=True)
class TableOf:
    """A table. A column is a name and a kind: "" as it comes, "number" to the right, "words" over several lines."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def shown(self) -> "TableOf":
        """The table without columns that say nothing: whose cells are all a dash."""
        silent = {k for k in range(len(self.columns)) if self.rows and all(row[k] == "-" for row in self.rows)}
        kept = [k for k in range(len(self.columns)) if k not in silent]
        return replace(
            self, columns=[self.columns[k] for k in kept], rows=[[row[k] for k in kept] for row in self.rows]
        )

    def is_mean(self, row: Sequence[str]) -> bool:
        """Return whether a row sums up others."""
        return "mean" in row[:2]


@dataclass(frozen=True)
class Section:
    """A part of a report; `details` are texts that a reader unfolds."""

    title: str
    words: Sequence[str] = ()
    tables: Sequence[TableOf] = ()
    figures: Sequence[Figure] = ()
    warnings: Sequence[str] = ()
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """Its name in an address."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write a report, whole or not at all."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["with_code"] = _with_code
    template = environment.from_string((files("experiments.report") / "report.html").read_text())
    text = template.render(title=title, subtitle=subtitle, sections=sections)
    with replaced(path) as out:
        out.write(text.encode())


def _with_code(line: str) -> Markup:
    """Set what stands between backticks as code."""
    parts = [
        Markup("<code>{}</code>").format(part) if k % 2 else escape(part) for k, part in enumerate(line.split("`"))
    ]
    return Markup("").join(parts)
