"""A benchmark's report: the tables that the terminal shows, the plot, and who loses by joining."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table

from experiments.benchmark.compare import TWIN
from experiments.benchmark.laboratories import laboratory_table, plot_laboratory, worth_lines
from experiments.benchmark.show import (
    ALL,
    OURS,
    UNSHARED,
    benchmark_table,
    gain_table,
    joining_line,
    joining_table,
    of_amount,
    plot,
    sharing_line,
)
from experiments.report.page import Figure, Section, TableOf, write_page


def report_benchmark(
    rows: pd.DataFrame,
    table: Path,
    name: str,
    searched: Sequence[int] = (),
    laboratories: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a benchmark's report beside its results; return its path.

    Parameters
    ----------
    rows : DataFrame
        As `experiments.benchmark.run.chosen_rows` gives them.
    table : Path
        The CSV of results.
    name : str
    searched : sequence of int
        Folds that settings were searched on.
    laboratories : mapping of str to sequence of str, optional
        The sites of each, where laboratories are new as a whole.
    """
    if laboratories is not None:
        return _report_laboratories(rows, table, name, laboratories)
    methods, amounts = set(rows["method"]), sorted(rows["asked"].unique().tolist())
    n_subjects = rows.groupby(["site", "dataset", "subject"]).ngroups
    words = [
        f"{len(methods)} methods, {rows['site'].nunique()} sites, {n_subjects} target subjects, up to"
        f" {rows['seed'].nunique()} seeds. A score is the mean over a site's subjects, then over sites; intervals are"
        " 95 %, by resampling subjects and seeds."
    ]
    sections = [Section("Summary", [*words, *_sharing(rows, amounts)], figures=[_figure(rows, table)])]
    for amount in amounts:
        part = rows[rows["asked"] == amount]
        title = "Methods" if amount == ALL else of_amount(amount).capitalize()
        tables = [_cells(benchmark_table(part, "balanced accuracy on held-back trials, percent", searched))]
        if (gains := gain_table(part, searched)) is not None:
            tables.append(_cells(gains))
        if {OURS, UNSHARED} <= methods:
            tables.append(_cells(joining_table(part)))
        sections.append(Section(title, tables=tables))
    path = table.with_suffix(".html")
    write_page(path, f"{name}: report of a benchmark", f"Results: {table.name}", sections)
    return path


def _report_laboratories(rows: pd.DataFrame, table: Path, name: str, laboratories: Mapping[str, Sequence[str]]) -> Path:
    words = [
        "Each laboratory in turn takes no part: the others train, and it decodes with what they have trained. Rows"
        " without a label fit means and norms on its calibration's signals. Columns are numbers of own trials.",
        *(f"{line}." for line in worth_lines(rows, laboratories)),
    ]
    sections = [Section("Summary", words)]
    for laboratory, sites in laboratories.items():
        if not rows["site"].isin(sites).any():
            continue
        svg, _ = plot_laboratory(rows, sites, table.parent, f"{table.stem}-{laboratory}")
        figure = Figure(svg, "Own trials alone, and the federation.", f"Scores of methods by own trials, {laboratory}")
        tables = [_cells(laboratory_table(rows, laboratory, sites))]
        sections.append(Section(laboratory, tables=tables, figures=[figure]))
    path = table.with_suffix(".html")
    write_page(path, f"{name}: report of a benchmark", f"Results: {table.name}", sections)
    return path


def _sharing(rows: pd.DataFrame, amounts: Sequence[int]) -> list[str]:
    lines = []
    for amount in amounts:
        part = rows[rows["asked"] == amount]
        if (joining := joining_line(part)) is not None:
            lines.append(f"{joining}{f', {of_amount(amount)}' if amount != ALL else ''}.")
        for method in sorted(set(part["method"]), key=lambda name: (name != OURS, name)):
            if f"{method}{TWIN}" in set(part["method"]):
                line = sharing_line(part, method)
                lines.append(f"{line}{f', {of_amount(amount)}' if amount != ALL else ''}.")
    return [f"{line[0].upper()}{line[1:]}" for line in lines]


def _figure(rows: pd.DataFrame, table: Path) -> Figure:
    svg, _ = plot(rows, table.parent, table.stem)
    return Figure(svg, "Mean over sites with its 95 % interval.", "Score of each method with its interval")


def _cells(table: Table) -> TableOf:
    """Take the cells of a table that is drawn in the terminal."""
    columns = [(str(column.header), "number" if column.justify == "right" else "") for column in table.columns]
    rows = [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]
    return TableOf(columns, rows, str(table.title or ""))
