"""Figures with their uncertainty, as benchmark, report and audit show them."""

from dataclasses import dataclass

from scipy.stats import binomtest


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
