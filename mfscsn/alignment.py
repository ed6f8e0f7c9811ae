"""Alignment: bring a subject's trials to a common reference. Fitted on given trials, applied to others."""

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-8


def euclidean_whitener(signals: NDArray[np.floating], shrinkage: float = 0.0) -> NDArray[np.float64]:
    """Fit Euclidean alignment: the inverse square root of the mean covariance of the given trials.

    Directions with no power (an average reference leaves one) are set to zero, not blown up. Those with little power,
    of which a dense headset has many, are blown up nevertheless; shrinkage tempers that.

    Parameters
    ----------
    signals : array, shape (n_trials, n_chans, n_times)
        Trials of one subject that training may see, zero mean in time (band-passed).
    shrinkage : float
        How far the covariance is drawn to a multiple of the identity of the same trace: 0 whitens fully, 1 only
        brings the mean power of all channels together to one.

    Returns
    -------
    array, shape (n_chans, n_chans)
        Apply it as ``whitener @ trial``; without shrinkage the mean covariance of these trials becomes the identity.

    Raises
    ------
    ValueError
        When there is no trial, or no power in any channel.

    References
    ----------
    He and Wu 2020, IEEE Transactions on Biomedical Engineering 67(2):399-410. Shrinkage: Ledoit and Wolf 2004, Journal
    of Multivariate Analysis 88(2):365-411.
    """
    n_trials, n_chans, n_times = signals.shape
    if n_trials == 0:
        raise ValueError("Euclidean alignment needs at least one trial")
    covariance = np.mean([trial @ trial.T for trial in signals.astype(np.float64)], axis=0) / n_times
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / n_chans * np.eye(n_chans)
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


def standardise(signals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Bring every sample of trials ``(n_trials, n_chans, n_times)`` to mean 0 and deviation 1 over the channels.

    It fits nothing. The BEETL start kit feeds its networks so.
    """
    centred = signals - signals.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    standard: NDArray[np.float32] = (centred / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
    return standard
