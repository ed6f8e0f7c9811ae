"""How many labelled trials of one's own is a federation worth? Where the curve of own trials alone meets its score."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
        Subjects are resampled for the interval, of both together.
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


def worth_of(rows: pd.DataFrame, method: str, own: str, sites: list[str]) -> Worth | None:
    """Compare a method at its least calibration with a curve of own trials, of subjects of some sites that have both.

    Parameters
    ----------
    rows : DataFrame
        As `experiments.benchmark.run.run_benchmark` gives them.
    method, own : str
    sites : list of str

    Returns
    -------
    Worth, optional
        None where either is missing, or own trials come in one amount.
    """
    there = rows[rows["site"].isin(sites)]
    who = ["site", "dataset", "subject"]
    curve = there[there["method"] == own].groupby([*who, "n_calibration"])["balanced_accuracy"].mean().unstack()
    curve = curve.dropna(axis=1).sort_index(axis=1)
    of_method = there[there["method"] == method]
    if curve.shape[1] < 2 or not len(of_method):
        return None
    of_method = of_method[of_method["asked"] == of_method["asked"].min()]
    scores = of_method.groupby(who)["balanced_accuracy"].mean()
    both = curve.index.intersection(scores.index)
    if not len(both):
        return None
    return worth(curve.columns.to_numpy(int), curve.loc[both].to_numpy(), scores.loc[both].to_numpy())
