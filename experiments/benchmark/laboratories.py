"""What laboratories that no site belongs to gain: a table each, and how many own trials the federation is worth there.

That is where the curve of own trials alone meets the federation's score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.benchmark.compare import estimate, is_control, null_of, paired
from experiments.benchmark.show import gain_cell
from experiments.report.plots import new_figure, write_figure

OWN = "own-adaptive"
N_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Worth:
    """So many own trials score as a federation does: with an interval over subjects; `most` is the last of the curve.

    A number beyond the curve's ends is one of these ends.
    """

    n: float
    low: float
    high: float
    least: int
    most: int

    def __str__(self) -> str:
        return f"{self._one(self.n)} of your own trials (95 %: {self._one(self.low)} to {self._one(self.high)})"

    def _one(self, n: float) -> str:
        if n >= self.most:
            return f"> {self.most}"
        return f"< {self.least}" if n <= self.least else f"{n:.0f}"


def worth(amounts: NDArray[np.int64], own: NDArray[np.float64], federated: NDArray[np.float64]) -> Worth:
    """Find where the mean curve of own trials, linear in log n, first reaches the mean score of a federation.

    Parameters
    ----------
    amounts : array, shape (n_amounts,)
        Own trials, ascending.
    own : array, shape (n_subjects, n_amounts)
    federated : array, shape (n_subjects,)

    Returns
    -------
    Worth
        Subjects count alike, whatever their site; they are resampled for the interval, of both together.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(own), size=(N_BOOTSTRAP, len(own)))
    of_draws = [_meeting(amounts, own[chosen].mean(axis=0), float(federated[chosen].mean())) for chosen in drawn]
    low, high = np.percentile(of_draws, [2.5, 97.5], method="nearest")
    found = _meeting(amounts, own.mean(axis=0), float(federated.mean()))
    return Worth(found, float(low), float(high), int(amounts[0]), int(amounts[-1]))


def _meeting(amounts: NDArray[np.int64], curve: NDArray[np.float64], score: float) -> float:
    if score <= curve[0]:
        return float(amounts[0])
    logs = np.log(amounts)
    for k in range(1, len(curve)):
        if score <= curve[k]:  # the curve before is below
            part = (score - curve[k - 1]) / (curve[k] - curve[k - 1])
            return float(np.exp(logs[k - 1] + part * (logs[k] - logs[k - 1])))
    return float(amounts[-1])


def worth_of(there: pd.DataFrame, method: str) -> Worth | None:
    """Compare a method at its least calibration with the curve of own trials, of the subjects that have both.

    Parameters
    ----------
    there : DataFrame
        As `of_laboratory` gives it.
    method : str

    Returns
    -------
    Worth, optional
        None where either is missing, or own trials come in one amount.
    """
    who = ["site", "dataset", "subject"]
    curve = there[there["method"] == OWN].groupby([*who, "asked"])["balanced_accuracy"].mean().unstack()
    curve = curve.dropna(axis=1).sort_index(axis=1)
    of_method = there[there["method"] == method]
    if curve.shape[1] < 2 or not len(of_method):
        return None
    of_method = of_method[of_method["asked"] == of_method["asked"].min()]
    scores = of_method.groupby(who)["balanced_accuracy"].mean()
    both = curve.index.intersection(scores.index)
    if not len(both):
        return None
    amounts = _amounts(there).loc[curve.columns].to_numpy(int)
    return worth(amounts, curve.loc[both].to_numpy(), scores.loc[both].to_numpy())


def of_laboratory(rows: pd.DataFrame, sites: Sequence[str]) -> pd.DataFrame:
    """Keep a laboratory's rows; amounts that gave its median subject as many own trials are one, the least of them."""
    there = rows[rows["site"].isin(sites)]
    median = there.groupby("asked")["n_calibration"].transform("median")
    there = there.assign(asked=there.groupby(median)["asked"].transform("min"))
    return there.drop_duplicates(["method", "seed", "asked", "site", "dataset", "subject"])


def _amounts(there: pd.DataFrame) -> pd.Series:
    """Return, by what was asked for, how many own trials the median subject has."""
    return there.groupby("asked")["n_calibration"].median()


def laboratory_table(rows: pd.DataFrame, laboratory: str, sites: Sequence[str]) -> Table:
    """Lay out a laboratory's methods: a score each number of own trials, and gains where all methods are.

    The gains are of the amount that all methods have: over own trials alone, and over the same with shuffled labels.
    """
    there = of_laboratory(rows, sites)
    methods = list(dict.fromkeys(there["method"]))
    asked = sorted(there["asked"].unique().tolist())
    at = next(
        (amount for amount in asked if set(there.loc[there["asked"] == amount, "method"]) == set(methods)), asked[0]
    )
    table = Table(title=f"{laboratory}: balanced accuracy, percent", title_justify="left", box=box.MARKDOWN)
    table.add_column("method", no_wrap=True)
    amounts = _amounts(there)
    for amount in asked:
        table.add_column(f"{amounts[amount]:.0f}" + (" (95 %)" if amount == at else ""), justify="right", no_wrap=True)
    there_at = there[there["asked"] == at]
    for head in (f"minus {OWN} at {amounts[at]:.0f}", "minus its null"):
        table.add_column(head, justify="right", no_wrap=True)
    for method in methods:
        cells = []
        for amount in asked:
            part = there[(there["asked"] == amount) & (there["method"] == method)]
            found = estimate(part, method) if len(part) else None
            cells.append("" if found is None else str(found) if amount == at else f"{found.mean:.1f}")
        null = null_of(there_at, method)
        both = {method, OWN} <= set(there_at["method"])
        shown = both and method != OWN and not is_control(method)
        cells.append(gain_cell(paired(there_at, method, OWN)) if shown else "")
        cells.append(gain_cell(paired(there_at, method, null)) if null and both else "")
        table.add_row(method, *cells)
    return table


def worth_lines(rows: pd.DataFrame, laboratories: Mapping[str, Sequence[str]]) -> list[str]:
    """Say, of each laboratory with a curve of own trials, what the federation is worth there without a label."""
    lines = []
    for laboratory, sites in laboratories.items():
        there = of_laboratory(rows, sites)
        for method in dict.fromkeys(there["method"]):
            if "no-label" in method and not is_control(method):
                found = worth_of(there, method)
                if found is not None:
                    lines.append(f"{laboratory}: without a label, {method} is worth {found}")
    return lines


def plot_laboratory(rows: pd.DataFrame, sites: Sequence[str], folder: Path, name: str) -> list[Path]:
    """Draw the curve of own trials alone, and the federation's score without a label, with their intervals."""
    there = of_laboratory(rows, sites)
    figure, axes = new_figure(name, 7, 4)
    shown = [m for m in dict.fromkeys(there["method"]) if m == OWN or "no-label" in m or m.startswith("with-own")]
    for k, method in enumerate(m for m in shown if not is_control(m)):
        of_method = there[there["method"] == method]
        asked = sorted(of_method["asked"].unique().tolist())
        amounts = _amounts(there).loc[asked].tolist()
        found = [estimate(of_method[of_method["asked"] == amount], method) for amount in asked]
        means = [f.mean for f in found]
        if len(amounts) > 1 or "no-label" not in method:
            spread = [[f.mean - f.low for f in found], [f.high - f.mean for f in found]]
            axes.errorbar(amounts, means, yerr=spread, marker="o", capsize=2, label=method, color=f"C{k}")
        else:
            axes.axhline(means[0], label=method, color=f"C{k}", linestyle="--")
    axes.set_xscale("log")
    amounts = _amounts(there).tolist()
    axes.set_xticks(amounts, [f"{n:.0f}" for n in amounts])
    axes.minorticks_off()
    axes.set_xlabel("labelled trials of one's own")
    axes.set_ylabel("balanced accuracy, percent (95 %)")
    axes.legend(fontsize="small")
    return write_figure(figure, folder, name)


def print_laboratories(rows: pd.DataFrame, laboratories: Mapping[str, Sequence[str]]) -> None:
    """Print what a reader needs first, and a table each laboratory."""
    console = Console(width=240, highlight=False)
    for line in worth_lines(rows, laboratories):
        console.print(line, markup=False)
    for laboratory, sites in laboratories.items():
        if rows["site"].isin(sites).any():
            console.print(laboratory_table(rows, laboratory, sites))
