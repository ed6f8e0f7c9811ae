"""Trials as an extractor takes them: aligned signals, or tangent vectors. What is fitted is fitted on given trials."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfscsn import riemann
from mfscsn.alignment import align, euclidean_whitener, standardise

OF_COVARIANCES, OF_SIGNALS = ("recentred", "adaptive"), ("euclidean", "standard", "none")


def check_alignment(kind: str, extractor: str) -> None:
    """Raise ValueError when an alignment does not fit an extractor, a key of `mfscsn.extractors.EXTRACTORS`."""
    fitting = OF_COVARIANCES if extractor == "riemann" else OF_SIGNALS
    if kind not in fitting:
        raise ValueError(
            f"alignment {kind!r} does not fit extractor {extractor!r}, which takes one of {', '.join(fitting)}"
        )


@dataclass(frozen=True)
class Alignment:
    """How trials are brought to a common reference.

    Parameters
    ----------
    kind : {"recentred", "adaptive", "euclidean", "standard", "none"}
        `check_alignment` knows which fits which extractor.
    sfreq : float
        Hz.
    shrinkage : float
        Of "euclidean": as in `mfscsn.alignment.euclidean_whitener`.
    band : pair of float, optional
        Of covariances: as in `mfscsn.riemann.bands_within`.
    """

    kind: str
    sfreq: float
    shrinkage: float = 0.0
    band: tuple[float, float] | None = None

    def fit(self, signals: NDArray[np.floating]) -> "Reference":
        """Fit on signals ``(n_trials, n_chans, n_times)`` in microvolts; ValueError when they cannot be fitted on."""
        fitted: NDArray[np.float64] | None = None
        if self.kind in OF_COVARIANCES:
            fitted = riemann.centre(riemann.covariances(signals, self.sfreq, self.band))
        elif self.kind == "euclidean":
            fitted = euclidean_whitener(signals, self.shrinkage)
        return Reference(self, fitted, len(signals))


@dataclass(frozen=True)
class Reference:
    """What `Alignment.fit` found, and on how many trials."""

    alignment: Alignment
    fitted: NDArray[np.float64] | None
    n_fitted: int

    def inputs(self, signals: NDArray[np.floating], *, follow: bool) -> NDArray[np.float32]:
        """Return signals ``(n_trials, n_chans, n_times)`` as an extractor takes them.

        Parameters
        ----------
        signals : array
            Microvolts.
        follow : bool
            These are new trials in time order: a "adaptive" mean moves with them.
        """
        if self.alignment.kind == "none":
            return np.ascontiguousarray(signals, dtype=np.float32)
        if self.alignment.kind == "standard":
            return standardise(signals)
        assert self.fitted is not None
        if self.alignment.kind == "euclidean":
            return align(signals, self.fitted)
        covs = riemann.covariances(signals, self.alignment.sfreq, self.alignment.band)
        if follow and self.alignment.kind == "adaptive":
            return riemann.follow(covs, self.fitted, self.n_fitted)
        return riemann.tangent(covs, self.fitted)
