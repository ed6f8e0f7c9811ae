"""`CommonSpace`: the way to the common space as a scikit-learn transformer, for any pipeline, with no federation."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from mfscsn import riemann
from mfscsn.common_space import broadband_covariances, electrode_names, interpolation, to_common_space


class CommonSpace(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Carry the trials of any headset to agreed electrodes, white in the mean of the trials that it was fitted on.

    Fit it on one subject's trials: what it takes out is that subject's mean. Trials of other headsets, each through a
    `CommonSpace` of its own, then fit one classifier. The method is told in `mfscsn.common_space`.

    Parameters
    ----------
    channels : sequence of str
        Names of the headset's channels, in the order of the trials.
    electrodes : str or sequence of str
        A set of `mfscsn.common_space.ELECTRODES`, or names of the extended 10-20 system.
    follow : bool
        `transform` takes trials that come later, in time order, and the mean follows them; cross-validation does not
        give such.

    Attributes
    ----------
    mean_ : array, shape (1, n_chans, n_chans)
        The mean covariance of the trials.
    weights_ : array, shape (n_electrodes, n_chans)
        The interpolation.

    Examples
    --------
    >>> from mfscsn import CommonSpace
    >>> X = np.random.default_rng(0).standard_normal((20, 3, 384))
    >>> CommonSpace(["C3", "Cz", "C4"], electrodes="motor11").fit_transform(X).shape
    (20, 11, 384)
    """

    def __init__(self, channels: Sequence[str], electrodes: str | Sequence[str] = "motor21", *, follow: bool = False):
        self.channels = channels
        self.electrodes = electrodes
        self.follow = follow

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fit the mean on trials ``(n_trials, n_chans, n_times)``; labels are not looked at.

        Raises
        ------
        ValueError
            For a channel or electrode without a known place, or trials that do not have these channels.
        """
        signals = self._checked(X)
        self.weights_ = interpolation(tuple(self.channels), electrode_names(self.electrodes))
        self.mean_ = riemann.centre(broadband_covariances(signals))
        self.n_fitted_ = len(signals)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the trials at the electrodes, ``(n_trials, n_electrodes, n_times)``."""
        check_is_fitted(self, "mean_")
        return to_common_space(self._checked(X), self.mean_, self.weights_, self.n_fitted_ if self.follow else None)

    def _checked(self, X: ArrayLike) -> NDArray[np.float64]:
        signals: NDArray[np.float64] = check_array(X, allow_nd=True, dtype=np.float64)
        if signals.ndim != 3 or signals.shape[1] != len(self.channels):
            raise ValueError(
                f"X has shape {signals.shape}, expected (n_trials, {len(self.channels)} channels, n_times)"
            )
        return signals
