"""What a benchmark's rows say: means, intervals, paired differences, who loses by joining; tables and plots."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import wilcoxon

from experiments.report.plots import new_figure, write_figure
from experiments.statistics import Estimate

ALL = -1  # "asked" of a row: all calibration trials
OURS, TWIN = "mf-scsn", "-unshared"
UNSHARED = f"{OURS}{TWIN}"
N_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Paired:
    """How much better one method is than another: with an interval, over how many subjects, Wilcoxon's p."""

    gain: Estimate
    n_better: int
    n_subjects: int
    p: float | None

    def __str__(self) -> str:
        p = "-" if self.p is None else f"{self.p:.2g}"
        g = self.gain
        return f"{g.mean:+.1f} ({g.low:+.1f} to {g.high:+.1f}), {self.n_better} of {self.n_subjects}, p {p}"


def estimate(rows: pd.DataFrame, method: str) -> Estimate:
    """Mean over a site's subjects, then sites, or over all of folds; subjects and seeds are resampled within sites."""
    return _bootstrap([_of_site(rows, method, site) for site in _sites(rows)], _equal(rows))


def paired(rows: pd.DataFrame, method: str, rival: str) -> Paired:
    """Compare two methods: the same mean, of the differences; subjects and seeds are resampled together."""
    differences = []
    for site in _sites(rows):
        ours, theirs = _table_of_site(rows, method, site), _table_of_site(rows, rival, site)
        if ours.shape[1] > 1 and theirs.shape[1] > 1:  # else one of them has no randomness, and ran once
            seeds = ours.columns.intersection(theirs.columns)
            ours, theirs = ours[seeds], theirs[seeds]
        differences.append(ours.to_numpy(dtype=float) - theirs.to_numpy(dtype=float))
    of_subjects = np.concatenate([part.mean(axis=1) for part in differences])
    p = float(wilcoxon(of_subjects).pvalue) if len(of_subjects) >= 6 and np.any(of_subjects) else None
    return Paired(_bootstrap(differences, _equal(rows)), int((of_subjects > 0).sum()), len(of_subjects), p)


def benchmark_table(rows: pd.DataFrame, title: str) -> Table:
    """Lay out a row a method: score a site, mean with interval, our gain over it, its cost."""
    sites = _sites(rows)
    ours = OURS if OURS in set(rows["method"]) else None
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column("method", no_wrap=True)
    for site in sites:
        table.add_column(site, justify="right", no_wrap=True)
    table.add_column("mean (95 %)", justify="right", no_wrap=True)
    if ours:
        table.add_column(f"{ours} minus it (95 %), better, Wilcoxon", no_wrap=True)
    table.add_column("seeds", justify="right")
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("kB", justify="right", no_wrap=True)
    for method in dict.fromkeys(rows["method"]):
        of_method = rows[rows["method"] == method]
        cells = [f"{_of_site(rows, method, site).mean():.1f}" for site in sites]
        cells.append(str(estimate(rows, method)))
        if ours:
            cells.append("" if method == ours else str(paired(rows, ours, method)))
        seconds, size = of_method["seconds"].mean(), of_method["bytes"].mean() / 1000
        table.add_row(method, *cells, str(of_method["seed"].nunique()), f"{seconds:.1f}", f"{size:.0f}")
    return table


def print_benchmark(rows: pd.DataFrame, name: str) -> None:
    """Print the first line that a reader needs, the tables, and who loses by joining."""
    console = Console(width=200, highlight=False)
    for asked in sorted(rows["asked"].unique().tolist()):
        part = rows[rows["asked"] == asked]
        amount = f", {of_amount(asked)}" if asked != ALL else ""
        for method in sorted(set(part["method"]), key=lambda name: (name != OURS, name)):
            if f"{method}{TWIN}" in set(part["method"]):
                console.print(sharing_line(part, method), markup=False)
        console.print(benchmark_table(part, f"{name}{amount}: balanced accuracy on held-back trials, percent"))
        if {OURS, UNSHARED} <= set(part["method"]):
            console.print(joining_table(part))


def of_amount(asked: int) -> str:
    """Say how much of a target's calibration trains."""
    return f"the first {asked} calibration trials" if asked else "no labelled trial of the target"


def sharing_line(rows: pd.DataFrame, method: str = OURS) -> str:
    """Describe whether sharing itself gives a gain: a method against its unshared twin."""
    gain = paired(rows, method, f"{method}{TWIN}")
    if gain.gain.low > 0:
        verdict = "sharing the common layers gives a gain"
    elif gain.gain.high < 0:
        verdict = "sharing the common layers costs"
    else:
        verdict = "a gain by sharing the common layers cannot be told from zero"
    g, twin = gain.gain, f"{method}{TWIN}"
    return (
        f"{verdict}: {method} minus {twin} {g.mean:+.1f} ({g.low:+.1f} to {g.high:+.1f}; the bootstrap's 95 % decide),"
        f" {gain.n_better} of {gain.n_subjects} better"
    )


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


def _sites(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows[_grouping(rows)]))


def _grouping(rows: pd.DataFrame) -> str:
    """Return what subjects are averaged within: their site or, where every site is one subject, their data set."""
    return "site" if rows.groupby("site")["subject"].nunique().max() > 1 else "dataset"


def _of_site(rows: pd.DataFrame, method: str, site: str) -> NDArray[np.float64]:
    """Points, shape (n_subjects, n_seeds)."""
    return _table_of_site(rows, method, site).to_numpy(dtype=float)


def _table_of_site(rows: pd.DataFrame, method: str, site: str) -> pd.DataFrame:
    """Points: a row a subject, a column a seed."""
    chosen = rows[(rows["method"] == method) & (rows[_grouping(rows)] == site)]
    table = chosen.pivot_table(index=["site", "dataset", "subject"], columns="seed", values="balanced_accuracy")
    return 100 * table


def _equal(rows: pd.DataFrame) -> bool:
    """Whether sites count alike; in folds, where every subject is a target once, subjects do."""
    return "fold" not in rows or bool(rows["fold"].nunique() == 1)


def _bootstrap(sites: list[NDArray[np.float64]], equal: bool) -> Estimate:
    return _bootstrap_once(tuple((part.shape, part.tobytes()) for part in sites), equal)


@functools.cache
def _bootstrap_once(known: tuple[tuple[tuple[int, ...], bytes], ...], equal: bool) -> Estimate:
    """Table, plot and report ask for the same estimates."""
    sites = [np.frombuffer(values).reshape(shape) for shape, values in known]
    rng = np.random.default_rng(0)
    means = np.empty(N_BOOTSTRAP)
    n_seeds = sites[0].shape[1]
    weights = [1 if equal else len(part) for part in sites]
    for k in range(N_BOOTSTRAP):
        seeds = rng.integers(n_seeds, size=n_seeds)
        parts = [part[rng.integers(len(part), size=len(part))][:, seeds % part.shape[1]].mean() for part in sites]
        means[k] = np.average(parts, weights=weights)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(np.average([part.mean() for part in sites], weights=weights)), float(low), float(high))
