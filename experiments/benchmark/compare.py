"""A benchmark's statistics: means with intervals, paired differences, the strongest rival, who loses by joining."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from experiments.statistics import Estimate

TWIN = "-unshared"  # a method's name, and the same each site for itself
CONTROLS = ("-null", "-frozen", "-frontal", "-occipital")
N_BOOTSTRAP, N_SWAPS = 2000, 2000
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


def strongest_alone(rows: pd.DataFrame, who: str = "") -> str | None:
    """Name the best of the methods that share nothing; chosen by the test itself, which favours the rival.

    Parameters
    ----------
    rows : DataFrame
    who : str
        With "own-", of those that see one subject's trials alone.
    """
    alone = [name for name in dict.fromkeys(rows["method"]) if shares_nothing(name) and name.startswith(who)]
    means = {method: estimate(rows, method).mean for method in alone}
    return max(means, key=lambda method: means[method], default=None)


def null_of(rows: pd.DataFrame, method: str) -> str | None:
    """Name the control of a method in which the other sites' labels are shuffled, if it was run."""
    name = f"{method}-null"
    return name if name in set(rows["method"]) else None


def estimate(rows: pd.DataFrame, method: str) -> Estimate:
    """Mean over a site's subjects, then sites, or over all of folds; subjects and seeds are resampled within sites."""
    parts = [table.to_numpy(dtype=float) for table in scores_by_site(rows, method).values()]
    return _bootstrap([part for part in parts if part.size], _equal(rows))


def paired(rows: pd.DataFrame, method: str, rival: str) -> Paired:
    """Compare two methods on the subjects that both have: the same mean, of the differences, resampled together."""
    differences, of_rival = [], scores_by_site(rows, rival)
    for site, of_method in scores_by_site(rows, method).items():
        ours, theirs = _both(of_method, of_rival[site])
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
    found = _of_subjects(rows, method, rival)
    if not found:
        return None
    lost = [seen < -LOSS for seen, _ in found.values()]
    return 100 * float(np.mean(lost) - np.mean([chance < -LOSS for _, chance in found.values()]))


def losing_sites(rows: pd.DataFrame, method: str, rival: str) -> list[str] | None:
    """Name the sites whose subjects lose by a method, at 5 % for all sites together; None without answers.

    A site's p is the share of swaps, as of `excess_losers`, that lose as much or more; Holm's rule holds for all sites.
    """
    found = _of_subjects(rows, method, rival)
    if not found:
        return None
    sites = dict.fromkeys(site for site, _, _ in found)
    return holm({site: p_of_loss([part for key, part in found.items() if key[0] == site]) for site in sites})


Subject = tuple[str, str, str]


def _of_subjects(rows: pd.DataFrame, method: str, rival: str) -> dict[Subject, tuple[float, NDArray[np.float64]]]:
    """Compare two methods' answers for each subject that both have, over their seeds; {} where none were kept."""
    ours, theirs = _answers(rows, method), _answers(rows, rival)
    if not all((*ours.values(), *theirs.values())):
        return {}
    rng = np.random.default_rng(0)
    found = {}
    for subject in sorted(ours.keys() & theirs.keys()):
        labels = _in_order(ours[subject][0])
        told, told_by_rival = (np.mean(_right(seeds, labels), axis=0) for seeds in (ours[subject], theirs[subject]))
        found[subject] = swapped_differences(told, told_by_rival, labels, rng)
    return found


def _right(seeds: Sequence[str], labels: Sequence[str]) -> list[list[bool]]:
    assert all(_in_order(answers) == labels for answers in seeds), "answers to other trials"
    return [[letter.isupper() for letter in answers] for answers in seeds]


def _in_order(answers: str) -> list[str]:
    """Return the trials' labels, numbered as they first come: where sites share one label list, letters are others."""
    letters = answers.lower()
    known = list(dict.fromkeys(letters))
    return [str(known.index(letter)) for letter in letters]


def _answers(rows: pd.DataFrame, method: str) -> dict[Subject, list[str]]:
    """Return a method's answers, a letter a trial, of each seed; [] where one was not kept."""
    found: dict[Subject, list[str]] = {}
    chosen = rows.loc[rows["method"] == method, ["site", "dataset", "subject", "answers"]]
    for site, dataset, subject, answers in chosen.itertuples(index=False):
        found.setdefault((site, dataset, subject), []).append(answers)
    return {subject: seeds if all(seeds) else [] for subject, seeds in found.items()}


def swapped_differences(
    right: Sequence[float], others: Sequence[float], labels: Sequence[str], rng: np.random.Generator
) -> tuple[float, NDArray[np.float64]]:
    """Return how much better one method's answers are than another's, as it is and as chance would have it.

    Chance: the two answers to each trial change places at random, which is all that can be if the methods are alike.

    Parameters
    ----------
    right, others : sequence of float
        For each trial, whether the one and the other method told its label or, of several seeds, how many of them did.
    labels : sequence of str
    rng : numpy.random.Generator

    Returns
    -------
    float, array of shape (N_SWAPS,)
        Points of balanced accuracy.
    """
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    differs = np.subtract(right, others, dtype=float) * 100 / (len(classes) * counts[codes])
    chance: NDArray[np.float64] = rng.choice([-1.0, 1.0], size=(N_SWAPS, len(differs))) @ differs
    return float(differs.sum()), chance


def p_of_loss(subjects: Sequence[tuple[float, NDArray[np.float64]]]) -> float:
    """Return the one-sided p of a loss: the share of chance's means over subjects that are as low as the one seen.

    Parameters
    ----------
    subjects : sequence
        Of each, what `swapped_differences` gives; what was seen counts among chance's.
    """
    seen, chance = (np.mean(part, axis=0) for part in zip(*subjects, strict=True))
    return (1 + int((chance <= seen + 1e-9).sum())) / (1 + len(chance))


def holm(p: Mapping[str, float], level: float = 0.05) -> list[str]:
    """Name those whose p holds at `level` for all of them together (Holm 1979, Scand. J. Statistics 6(2):65-70)."""
    held = []
    for k, name in enumerate(sorted(p, key=lambda name: p[name])):
        if p[name] * (len(p) - k) > level:
            break
        held.append(name)
    return held


def sites_of(rows: pd.DataFrame) -> list[str]:
    """List the sites, or the data sets where every site is one subject, in the rows' order."""
    return rows[_grouping(rows)].unique().tolist()


def scores_by_site(rows: pd.DataFrame, method: str) -> dict[str, pd.DataFrame]:
    """Tabulate a method's scores in points, for each site of `sites_of`: a row a subject, a column a seed."""
    return _scores_by_site(_Same(rows), method)


class _Same:
    """A table as a key of what is computed of it: itself, whatever it holds, as nobody here writes into one."""

    def __init__(self, rows: pd.DataFrame):
        self.rows = rows

    def __hash__(self) -> int:
        return id(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.rows is self.rows


@functools.lru_cache(256)
def _scores_by_site(same: _Same, method: str) -> dict[str, pd.DataFrame]:
    """Every estimate and every comparison asks for the same tables."""
    rows = same.rows
    chosen = rows[rows["method"] == method]
    table = 100 * chosen.groupby(["site", "dataset", "subject", "seed"])["balanced_accuracy"].mean().unstack("seed")
    places, there = table.index.get_level_values(_grouping(rows)).to_numpy(), table.notna().to_numpy()
    found = {}
    for site in sites_of(rows):
        of_site = np.flatnonzero(places == site)
        found[site] = table.iloc[of_site, np.flatnonzero(there[of_site].any(axis=0))]  # seeds that the site has
    return found


def _both(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the subjects that two tables have in common, and the seeds, unless one of them ran once."""
    if not ours.index.equals(theirs.index):
        subjects = ours.index.intersection(theirs.index)
        ours, theirs = ours.loc[subjects], theirs.loc[subjects]
    if ours.shape[1] > 1 and theirs.shape[1] > 1:
        seeds = ours.columns.intersection(theirs.columns)
        if len(seeds):
            ours, theirs = ours[seeds], theirs[seeds]
        else:  # of other seeds: their means
            ours, theirs = ours.mean(axis=1).to_frame(), theirs.mean(axis=1).to_frame()
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
def _drawn(n_seeds: int, n_subjects: tuple[int, ...]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Draw seeds ``(N_BOOTSTRAP, n_seeds)`` and each site's subjects ``(N_BOOTSTRAP, n)``, with replacement."""
    sizes = (n_seeds, *n_subjects)
    drawn = np.random.default_rng(0).integers(np.repeat(sizes, sizes), size=(N_BOOTSTRAP, sum(sizes)))
    seeds, *subjects = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
    return seeds, subjects


@functools.cache
def _bootstrap_once(known: tuple[tuple[tuple[int, ...], bytes], ...], equal: bool) -> Estimate:
    """Table, plot and report ask for the same estimates."""
    sites = [np.frombuffer(values).reshape(shape) for shape, values in known]
    weights = [1 if equal else len(part) for part in sites]
    seeds, subjects = _drawn(sites[0].shape[1], tuple(len(part) for part in sites))
    parts = [
        part[of_site[:, :, None], (seeds % part.shape[1])[:, None]].mean(axis=(1, 2))
        for part, of_site in zip(sites, subjects, strict=True)
    ]
    low, high = np.percentile(np.average(parts, axis=0, weights=weights), [2.5, 97.5])
    return Estimate(float(np.average([part.mean() for part in sites], weights=weights)), float(low), float(high))
