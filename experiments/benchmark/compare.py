"""A benchmark's statistics: means with intervals, paired differences, the strongest rival, who loses by joining."""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from experiments.statistics import Estimate, as_low_by_chance, holm, swapped_differences

TWIN = "-unshared"  # a method's name, and the same each site for itself
CONTROLS = ("-null", "-frozen", "-frontal", "-occipital")
N_BOOTSTRAP = 2000
LOSS = 5.0  # points that a subject may lose by joining before it counts


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


def shares_nothing(method: str) -> bool:
    """Tell whether a method is what a subject or a site would do alone."""
    return method.startswith(("own-", "site-")) or method.endswith(TWIN)


def is_control(method: str) -> bool:
    """Tell whether a method is a control, from which nothing should be learned."""
    return method.endswith(CONTROLS)


def strongest_alone(rows: pd.DataFrame) -> str | None:
    """Name the best of the methods that share nothing; chosen by the test itself, which favours the rival."""
    alone = [method for method in dict.fromkeys(rows["method"]) if shares_nothing(method)]
    means = {method: estimate(rows, method).mean for method in alone}
    return max(means, key=lambda method: means[method], default=None)


def null_of(rows: pd.DataFrame, method: str) -> str | None:
    """Name the control of a method in which the other sites' labels are shuffled, if it was run."""
    name = f"{method}-null"
    return name if name in set(rows["method"]) else None


def estimate(rows: pd.DataFrame, method: str) -> Estimate:
    """Mean over a site's subjects, then sites, or over all of folds; subjects and seeds are resampled within sites."""
    parts = [scores_at(rows, method, site).to_numpy(dtype=float) for site in sites_of(rows)]
    return _bootstrap([part for part in parts if part.size], _equal(rows))


def paired(rows: pd.DataFrame, method: str, rival: str) -> Paired:
    """Compare two methods on the subjects that both have: the same mean, of the differences, resampled together."""
    differences = []
    for site in sites_of(rows):
        ours, theirs = _both(scores_at(rows, method, site), scores_at(rows, rival, site))
        if len(ours):
            differences.append(ours.to_numpy(dtype=float) - theirs.to_numpy(dtype=float))
    of_subjects = np.concatenate([part.mean(axis=1) for part in differences])
    p = float(wilcoxon(of_subjects).pvalue) if len(of_subjects) >= 6 and np.any(of_subjects) else None
    return Paired(_bootstrap(differences, _equal(rows)), int((of_subjects > 0).sum()), len(of_subjects), p)


def excess_losers(rows: pd.DataFrame, method: str, rival: str) -> float | None:
    """Return the share of subjects that lose more than `LOSS` points, over what chance does; None without answers.

    Chance: the two methods' answers to each trial, right or wrong, change places at random. With few test trials many
    a subject loses that much where there is no difference at all.

    Parameters
    ----------
    rows : DataFrame
        With "answers", as `experiments.benchmark.run.run_benchmark` gives them.
    method, rival : str

    Returns
    -------
    float, optional
        Percent; below 0 where fewer lose than by chance.
    """
    ours, theirs = _answers(rows, method), _answers(rows, rival)
    if not ours or not theirs or not all(all(seeds.values()) for seeds in (*ours.values(), *theirs.values())):
        return None
    rng = np.random.default_rng(0)
    lost, chance = [], []
    for subject in sorted(ours.keys() & theirs.keys()):
        for seed, answers in ours[subject].items():
            others = theirs[subject]
            other = next(iter(others.values())) if len(others) == 1 else others.get(seed)  # the one seed of a rival
            if other is not None:
                seen, swapped = _swapped(answers, other, rng)
                lost.append(seen < -LOSS)
                chance.append(np.mean(swapped < -LOSS))
    return 100 * float(np.mean(lost) - np.mean(chance)) if lost else None


def losing_sites(rows: pd.DataFrame, method: str, rival: str) -> list[str] | None:
    """Name the sites whose subjects lose by a method, at 5 % for all sites together; None without answers.

    A site's p is the share of swaps, as of `excess_losers`, that lose as much or more; Holm's rule holds for all sites.
    """
    ours, theirs = _answers(rows, method), _answers(rows, rival)
    if not ours or not theirs or not all(all(seeds.values()) for seeds in (*ours.values(), *theirs.values())):
        return None
    rng = np.random.default_rng(0)
    seen: dict[str, list[tuple[float, NDArray[np.float64]]]] = {}
    for subject in sorted(ours.keys() & theirs.keys()):
        seeds = sorted(ours[subject].keys() & theirs[subject].keys())
        seen.setdefault(subject[0], []).append(_swapped(ours[subject][seeds[0]], theirs[subject][seeds[0]], rng))
    p = {
        site: as_low_by_chance(sum(part for part, _ in parts), np.sum([swaps for _, swaps in parts], axis=0))
        for site, parts in seen.items()
    }
    return holm(p)


def _answers(rows: pd.DataFrame, method: str) -> dict[tuple[str, str, str], dict[int, str]]:
    """Return a method's answers: subject -> seed -> a letter a trial."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    chosen = rows.loc[rows["method"] == method, ["site", "dataset", "subject", "seed", "answers"]]
    for site, dataset, subject, seed, answers in chosen.itertuples(index=False):
        found.setdefault((site, dataset, subject), {})[seed] = answers
    return found


def _swapped(ours: str, theirs: str, rng: np.random.Generator) -> tuple[float, NDArray[np.float64]]:
    labels = list(ours.lower())
    assert list(theirs.lower()) == labels, "answers to other trials"
    return swapped_differences([a.isupper() for a in ours], [b.isupper() for b in theirs], labels, rng)


def sites_of(rows: pd.DataFrame) -> list[str]:
    """List the sites, or the data sets where every site is one subject, in the rows' order."""
    return list(dict.fromkeys(rows[_grouping(rows)]))


def scores_at(rows: pd.DataFrame, method: str, site: str) -> pd.DataFrame:
    """Tabulate a method's scores at a site, in points: a row a subject, a column a seed."""
    chosen = rows[(rows["method"] == method) & (rows[_grouping(rows)] == site)]
    table = chosen.pivot_table(index=["site", "dataset", "subject"], columns="seed", values="balanced_accuracy")
    return 100 * table


def _both(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the subjects that two tables have in common, and the seeds, unless one of them ran once."""
    subjects = ours.index.intersection(theirs.index)
    ours, theirs = ours.loc[subjects], theirs.loc[subjects]
    if ours.shape[1] > 1 and theirs.shape[1] > 1:
        seeds = ours.columns.intersection(theirs.columns)
        ours, theirs = ours[seeds], theirs[seeds]
    return ours, theirs


def _grouping(rows: pd.DataFrame) -> str:
    """Return what subjects are averaged within: their site or, where every site is one subject, their data set."""
    return "site" if rows.groupby("site")["subject"].nunique().max() > 1 else "dataset"


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
