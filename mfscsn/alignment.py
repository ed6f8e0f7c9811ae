"""Alignment: bring a subject's trials to a common reference. Fitted on given trials, applied to others."""

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-8


def euclidean_whitener(signals: NDArray[np.floating]) -> NDArray[np.float64]:
    """Fit Euclidean alignment: the inverse square root of the mean covariance of the given trials.

    Directions with no power (an average reference leaves one) are set to zero, not blown up.

    Parameters
    ----------
    signals : array, shape (n_trials, n_chans, n_times)
        Trials of one subject that training may see, zero mean in time (band-passed).

    Returns
    -------
    array, shape (n_chans, n_chans)
        Apply it as ``whitener @ trial``; the mean covariance of the given trials becomes the identity.

    Raises
    ------
    ValueError
        When there is no trial, or no power in any channel.

    References
    ----------
    He and Wu 2020, IEEE Transactions on Biomedical Engineering 67(2):399-410.
    """
    n_trials, _, n_times = signals.shape
    if n_trials == 0:
        raise ValueError("Euclidean alignment needs at least one trial")
    covariance = np.mean([trial @ trial.T for trial in signals.astype(np.float64)], axis=0) / n_times
    values, vectors = np.linalg.eigh(covariance)
    if values[-1] <= 0:
        raise ValueError("Euclidean alignment needs power in at least one channel")
    kept = values > FLOOR * values[-1]
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    whitener: NDArray[np.float64] = (vectors * scale) @ vectors.T
    return whitener


def align(signals: NDArray[np.floating], whitener: NDArray[np.floating]) -> NDArray[np.float32]:
    """Apply a whitener ``(n_chans, n_chans)`` to trials ``(n_trials, n_chans, n_times)``."""
    aligned: NDArray[np.float32] = np.matmul(whitener.astype(np.float32), signals.astype(np.float32, copy=False))
    return aligned
