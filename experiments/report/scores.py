"""How sure a run's scores are: its test trials drawn again, for every subject and method at once."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.evaluate import METHODS
from experiments.statistics import Estimate

N_DRAWS = 2000
KEY = ["site", "dataset", "subject"]


class ScoreDraws:
    """Balanced accuracies of drawn-again test trials.

    A subject's trials are drawn with replacement within each label, the same ones for all methods, so differences
    between methods are paired. Intervals say what other test trials of these subjects would give, not other subjects.

    Parameters
    ----------
    predictions : DataFrame
        As ``predictions.csv`` of one run.
    """

    def __init__(self, predictions: pd.DataFrame):
        rng = np.random.default_rng(0)
        self.of_subject: dict[tuple[str, ...], NDArray[np.float64]] = {}  # (1 + N_DRAWS, n_methods), the scores first
        self.n_labels: dict[tuple[str, ...], int] = {}
        self.n_test: dict[tuple[str, ...], int] = {}
        for key, rows in predictions.groupby(KEY, sort=False):
            table = rows.assign(right=rows["label"] == rows["predicted"]).pivot(
                index="trial", columns="method", values="right"
            )
            labels = rows.drop_duplicates("trial").set_index("trial")["label"].reindex(table.index)
            recalls = []
            for label in labels.unique():
                right = table.loc[labels == label, list(METHODS)].to_numpy(dtype=float)
                drawn = right[rng.integers(len(right), size=(N_DRAWS, len(right)))].mean(axis=1)
                recalls.append(np.vstack([right.mean(axis=0), drawn]))
            self.of_subject[tuple(map(str, key))] = 100 * np.mean(recalls, axis=0)
            self.n_labels[tuple(map(str, key))] = rows["label"].nunique()
            self.n_test[tuple(map(str, key))] = len(table)

    def of(self, keys: Sequence[tuple[str, ...]], method: str, rival: str | None = None) -> Estimate:
        """Estimate a method's mean over subjects, or how much better it is than another's."""
        mean = np.mean([self.of_subject[key] for key in keys], axis=0)
        values = mean[:, METHODS.index(method)] - (0 if rival is None else mean[:, METHODS.index(rival)])
        low, high = np.percentile(values[1:], [2.5, 97.5])
        return Estimate(float(values[0]), float(low), float(high))

    def losing_sites(self) -> dict[str, Estimate]:
        """Return the sites whose federated model is worse than their own, by more than their test trials explain."""
        _, alone, ours = METHODS
        changes = {site: self.of(keys, ours, alone) for site, keys in self.sites().items()}
        return {site: change for site, change in changes.items() if change.high < 0}

    def chance(self, keys: Sequence[tuple[str, ...]]) -> float:
        """Return the balanced accuracy of guessing, over subjects, in percent."""
        return float(np.mean([100 / self.n_labels[key] for key in keys]))

    def sites(self) -> dict[str, list[tuple[str, ...]]]:
        """Return each site's subjects, in the order of the run."""
        of_site: dict[str, list[tuple[str, ...]]] = {}
        for key in self.of_subject:
            of_site.setdefault(key[0], []).append(key)
        return of_site
