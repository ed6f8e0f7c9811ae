"""Figures with their uncertainty, as benchmark, report and audit show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

N_SWAPS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, in points of balanced accuracy."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ({self.low:.1f} to {self.high:.1f})"


def share_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, 0 to 1 (Wilson 1927, JASA 22:209-212)."""
    interval = binomtest(n_right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def swapped_differences(
    right: Sequence[bool], others: Sequence[bool], labels: Sequence[str], rng: np.random.Generator
) -> tuple[float, NDArray[np.float64]]:
    """Return how much better one method's answers are than another's, as it is and as chance would have it.

    Chance: the two answers to each trial change places at random, which is all that can be if the methods are alike.

    Parameters
    ----------
    right, others : sequence of bool
        For each trial, whether the one and the other method told its label.
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


def as_low_by_chance(seen: float, chance: NDArray[np.float64]) -> float:
    """Return the share of chance's differences that are as low as the one seen, itself among them: a one-sided p."""
    return (1 + int((chance <= seen + 1e-9).sum())) / (1 + len(chance))


def holm(p: Mapping[str, float], level: float = 0.05) -> list[str]:
    """Name those whose p holds at `level` for all of them together (Holm 1979, Scand. J. Statistics 6(2):65-70)."""
    held = []
    for k, name in enumerate(sorted(p, key=lambda name: p[name])):
        if p[name] * (len(p) - k) > level:
            break
        held.append(name)
    return held
