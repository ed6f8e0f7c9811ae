"""Trials as a network takes them: aligned signals, tangent vectors, or signals in the common space.

What is fitted is fitted on given trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mfscsn import common_space, riemann
from mfscsn.alignment import align, euclidean_whitener, standardise

OF_COVARIANCES, OF_SIGNALS = ("recentred", "adaptive"), ("euclidean", "standard", "none")


def check_alignment(kind: str, extractor: str) -> None:
    """Raise ValueError when an alignment does not fit an extractor, as `mfscsn.network.Architecture` names them."""
    fitting = OF_COVARIANCES if extractor in ("riemann", "common-space") else OF_SIGNALS
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
    electrodes : tuple of str
        Of the common space, which trials are carried to; none where they stay in the headset's channels.
    tangent : bool
        Carry covariances to the common space, and give their tangent vectors, in place of signals.
    """

    kind: str
    sfreq: float
    shrinkage: float = 0.0
    band: tuple[float, float] | None = None
    electrodes: tuple[str, ...] = ()
    tangent: bool = False

    def fit(self, signals: NDArray[np.floating], channels: Sequence[str] = ()) -> "Reference":
        """Fit on signals ``(n_trials, n_chans, n_times)`` in microvolts; ValueError when they cannot be fitted on.

        The common space asks for the channels' names besides.
        """
        fitted: NDArray[np.float64] | None = None
        if self.electrodes:
            weights = common_space.interpolation(tuple(channels), tuple(self.electrodes))
            mean = riemann.centre(self.covariances(signals))
            return Reference(self, mean, len(signals), weights)
        if self.kind in OF_COVARIANCES:
            fitted = riemann.centre(self.covariances(signals))
        elif self.kind == "euclidean":
            fitted = euclidean_whitener(signals, self.shrinkage)
        return Reference(self, fitted, len(signals))

    def covariances(self, signals: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return trials' covariances ``(n_trials, n_views, n_chans, n_chans)``, as the mean is made of."""
        if self.electrodes and not self.tangent:
            return common_space.broadband_covariances(signals)
        return riemann.covariances(signals, self.sfreq, self.band)


@dataclass(frozen=True)
class Reference:
    """What `Alignment.fit` found, and on how many trials.

    `weights` lead to the common space's electrodes; `rank` directions of it were seen before the mean moved.
    """

    alignment: Alignment
    fitted: NDArray[np.float64] | None
    n_fitted: int
    weights: NDArray[np.float64] | None = None
    rank: int | None = None

    def moved(self, signals: NDArray[np.floating]) -> "Reference":
        """Return what stands after new trials ``(n_trials, n_chans, n_times)`` in time order, whose mean has followed.

        The inputs of the last of them by it are those that `inputs` gives with `follow`.
        """
        if self.alignment.kind != "adaptive":
            return self
        assert self.fitted is not None
        rank = self.rank
        if self.weights is not None and not self.alignment.tangent and rank is None:
            rank = common_space.n_seen(self.fitted[0], self.weights)
        mean = self.fitted
        for moved in riemann.moving_means(self.alignment.covariances(signals), self.fitted, self.n_fitted):
            mean = moved
        return replace(self, fitted=mean, n_fitted=self.n_fitted + len(signals), rank=rank)

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
        moves = follow and self.alignment.kind == "adaptive"
        n_fitted = self.n_fitted if moves else None
        if self.weights is not None and self.alignment.tangent:
            covs = riemann.covariances(signals, self.alignment.sfreq, self.alignment.band)
            return common_space.tangent_in_common_space(covs, self.fitted, self.weights, n_fitted)
        if self.weights is not None:
            return common_space.to_common_space(signals, self.fitted, self.weights, n_fitted, self.rank)
        if self.alignment.kind == "euclidean":
            return align(signals, self.fitted)
        covs = riemann.covariances(signals, self.alignment.sfreq, self.alignment.band)
        if moves:
            return riemann.follow(covs, self.fitted, self.n_fitted)
        return riemann.tangent(covs, self.fitted)
