"""What a benchmark shows: the verdict in a line, the table of methods, what joining gives, a plot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.benchmark.compare import (
    TWIN,
    Paired,
    estimate,
    excess_losers,
    is_control,
    losing_sites,
    null_of,
    paired,
    scores_by_site,
    shares_nothing,
    sites_of,
    strongest_alone,
)
from experiments.report.plots import new_figure, write_figure

ALL = -1  # "asked" of a row: all calibration trials
OURS = "mf-scsn"
JOINED = ("mf-scsn-experts", "mf-scsn-averaged", OURS)  # the first of those that most subjects have
UNSHARED = f"{OURS}{TWIN}"
CENTRALISED = "centralised"


def benchmark_table(rows: pd.DataFrame, title: str, searched: Sequence[int] = ()) -> Table:
    """Lay out a row a method: score a site, mean with interval, our gain over it, its cost.

    Where folds were `searched` on, the mean stands beside that of the others.
    """
    sites = sites_of(rows)
    ours = OURS if OURS in set(rows["method"]) else None
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column("method", no_wrap=True)
    for site in sites:
        table.add_column(site, justify="right", no_wrap=True)
    table.add_column("mean (95 %)", justify="right", no_wrap=True)
    others = _not_searched(rows, searched)
    if others is not None:
        table.add_column(_folds(others), justify="right", no_wrap=True)
    if ours:
        table.add_column(f"{ours} minus it (95 %), better, Wilcoxon", no_wrap=True)
    table.add_column("subjects", justify="right")
    table.add_column("seeds", justify="right")
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("kB", justify="right", no_wrap=True)
    for method in dict.fromkeys(rows["method"]):
        of_method = rows[rows["method"] == method]
        cells = [_mean(scores) for scores in scores_by_site(rows, method).values()]
        cells += [str(estimate(part, method)) for part in (rows, others) if part is not None]
        if ours:
            cells.append("" if method == ours else str(paired(rows, ours, method)))
        seconds, size = of_method["seconds"].mean(), of_method["bytes"].mean() / 1000
        counts = [of_method.groupby(["site", "dataset", "subject"]).ngroups, of_method["seed"].nunique()]
        table.add_row(method, *cells, *map(str, counts), f"{seconds:.1f}", f"{size:.0f}")
    return table


def _mean(of_site: pd.DataFrame) -> str:
    return f"{of_site.to_numpy(dtype=float).mean():.1f}" if of_site.size else "-"


def gain_table(rows: pd.DataFrame, searched: Sequence[int] = ()) -> Table | None:
    """Lay out what each method that shares gives, beside its rivals and controls; None where none shares.

    Parameters
    ----------
    rows : DataFrame
    searched : sequence of int
        Folds that settings were searched on: the gain is shown without them too.
    """
    methods = list(dict.fromkeys(rows["method"]))
    alone, own = strongest_alone(rows), strongest_alone(rows, "own-")
    shared = [m for m in methods if not shares_nothing(m) and not is_control(m)]
    if alone is None or not shared:
        return None
    table = Table(title=f"what sharing gives, points (95 %); {alone} is the strongest of those that share nothing")
    table.title_justify, table.box = "left", box.MARKDOWN
    others = _not_searched(rows, searched)
    rivals = [alone] if own in (None, alone) else [alone, own]
    heads = [f"minus {alone}, {_folds(others)}"] if others is not None else []
    heads += [*(f"minus {r}" for r in rivals), "minus its null", "of the centralised gain", "lose > 5, over chance"]
    of_method = dict[str, list[str]]()
    whole = paired(rows, CENTRALISED, alone).gain if CENTRALISED in methods else None
    for method in shared:
        cells = []
        if others is not None:
            cells.append(gain_cell(paired(others, method, alone)))
        null, excess = null_of(rows, method), excess_losers(rows, method, alone)
        gains = [paired(rows, method, rival) for rival in rivals if rival]
        cells += map(gain_cell, gains)
        cells.append(gain_cell(paired(rows, method, null)) if null else "-")
        if whole is not None and whole.low > 0 and method != CENTRALISED:
            cells.append(f"{100 * gains[0].gain.mean / whole.mean:.0f} %")
        else:
            cells.append("-")
        cells.append("-" if excess is None else f"{excess:+.1f} %")
        of_method[method] = cells
    silent = [all(cells[k] == "-" for cells in of_method.values()) for k in range(len(heads))]
    table.add_column("method", no_wrap=True)
    for head, says_nothing in zip(heads, silent, strict=True):
        if not says_nothing:
            table.add_column(head, justify="right", no_wrap=True)
    for method, cells in of_method.items():
        table.add_row(method, *(cell for cell, says_nothing in zip(cells, silent, strict=True) if not says_nothing))
    return table


def _folds(rows: pd.DataFrame) -> str:
    return f"folds {' '.join(str(fold) for fold in sorted(rows['fold'].unique()))}, not searched"


def gain_cell(found: Paired) -> str:
    """Write a gain with its interval."""
    g = found.gain
    return f"{g.mean:+.1f} ({g.low:+.1f} to {g.high:+.1f})"


def _not_searched(rows: pd.DataFrame, searched: Sequence[int]) -> pd.DataFrame | None:
    """Keep the rows of folds that no setting was searched on; None where there is no such division, or no such row."""
    others = rows[~rows["fold"].isin(searched)] if searched else rows[:0]
    return others if len(others) else None


def print_benchmark(rows: pd.DataFrame, name: str, searched: Sequence[int] = ()) -> None:
    """Print the lines that a reader needs first, the tables, and who loses by joining."""
    console = Console(width=240, highlight=False)
    for asked in sorted(rows["asked"].unique().tolist()):
        part = rows[rows["asked"] == asked]
        amount = f", {of_amount(asked)}" if asked != ALL else ""
        if (line := joining_line(part)) is not None:
            console.print(line, markup=False)
        for method in sorted(set(part["method"]), key=lambda name: (name != OURS, name)):
            if f"{method}{TWIN}" in set(part["method"]):
                console.print(sharing_line(part, method), markup=False)
        console.print(
            benchmark_table(part, f"{name}{amount}: balanced accuracy on held-back trials, percent", searched)
        )
        if (table := gain_table(part, searched)) is not None:
            console.print(table)
        if {OURS, UNSHARED} <= set(part["method"]):
            console.print(joining_table(part))


def of_amount(asked: int) -> str:
    """Say how much of a target's calibration trains."""
    return f"the first {asked} calibration trials" if asked else "no labelled trial of the target"


def joining_line(rows: pd.DataFrame) -> str | None:
    """Say whether joining pays: our method against the strongest of those that share nothing; None without both."""
    whose = ["site", "dataset", "subject"]
    n_subjects = {name: len(rows.loc[rows["method"] == name, whose].drop_duplicates()) for name in JOINED}
    alone, ours = strongest_alone(rows), max(JOINED, key=lambda name: n_subjects[name])
    if alone is None or not n_subjects[ours]:
        return None
    gain = paired(rows, ours, alone)
    verdict = _verdict(gain, "joining pays", "joining costs", "a gain by joining cannot be told from zero")
    line = f"{verdict}: {ours} minus {alone}, the strongest of those that share nothing, {_decided(gain)}"
    losing = losing_sites(rows, ours, alone)
    if losing is not None:
        line += f"; sites that lose: {', '.join(losing) or 'none'} (5 %, Holm)"
    return line


def _verdict(found: Paired, gains: str, costs: str, neither: str) -> str:
    return gains if found.gain.low > 0 else costs if found.gain.high < 0 else neither


def _decided(found: Paired) -> str:
    g = found.gain
    interval = f"{g.mean:+.1f} ({g.low:+.1f} to {g.high:+.1f}; the bootstrap's 95 % decide)"
    return f"{interval}, {found.n_better} of {found.n_subjects} better"


def sharing_line(rows: pd.DataFrame, method: str = OURS) -> str:
    """Describe whether sharing itself gives a gain: a method against its unshared twin."""
    gain = paired(rows, method, f"{method}{TWIN}")
    verdict = _verdict(
        gain,
        "sharing the common layers gives a gain",
        "sharing the common layers costs",
        "a gain by sharing the common layers cannot be told from zero",
    )
    return f"{verdict}: {method} minus {method}{TWIN} {_decided(gain)}"


def joining_table(rows: pd.DataFrame) -> Table:
    """Lay out each target subject before and after joining."""
    table = Table(title="joining, a subject at a time", title_justify="left", box=box.MARKDOWN)
    for column in ("site", "subject", UNSHARED, OURS, "gain"):
        table.add_column(column, justify="left" if column in ("site", "subject") else "right")
    mean = 100 * rows.groupby(["site", "subject", "method"], sort=False)["balanced_accuracy"].mean().unstack()
    for key, before, after in zip(mean.index, mean[UNSHARED], mean[OURS], strict=True):
        table.add_row(*map(str, key), f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
    return table


def plot(rows: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Draw the methods with their intervals and, where calibration was swept, the curve; return the files."""
    methods = list(dict.fromkeys(rows["method"]))
    amounts = sorted(rows["asked"].unique())
    figure, axes = new_figure(name, 7, 0.3 * len(methods) + 1 if len(amounts) == 1 else 4)
    for k, method in enumerate(methods):
        estimates = [estimate(rows[rows["asked"] == amount], method) for amount in amounts]
        means = np.array([f.mean for f in estimates])
        spread = np.array([[f.mean - f.low for f in estimates], [f.high - f.mean for f in estimates]])
        if len(amounts) == 1:
            axes.errorbar(means, [len(methods) - k], xerr=spread, fmt="o", color="C1" if method == OURS else "C0")
        else:
            axes.errorbar(amounts, means, yerr=spread, marker="o", capsize=2, label=method)
    if len(amounts) == 1:
        axes.set_yticks(range(len(methods), 0, -1), methods)
        axes.set_xlabel("balanced accuracy, percent (95 %)")
    else:
        axes.set_xlabel("calibration trials of a subject")
        axes.set_ylabel("balanced accuracy, percent (95 %)")
        axes.legend(fontsize="small")
    return write_figure(figure, folder, name)
