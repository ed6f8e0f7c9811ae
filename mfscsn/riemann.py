"""Re-centred covariances: a trial as points on the tangent space of its subject's own mean.

A trial becomes one covariance matrix of its channels for each view (a frequency band in a piece of the trial). Each is
whitened by the mean of that view over the trials that training may see, then taken through the matrix logarithm. What
is left says how a trial differs from its subject's mean, and a headset's gains and a subject's anatomy are mostly gone.

References
----------
Tangent space: Barachant et al. 2012, IEEE Transactions on Biomedical Engineering 59(4):920-928. Re-centring: Zanini et
al. 2018, IEEE Transactions on Biomedical Engineering 65(5):1107-1116. Following a drift: Kumar et al. 2019, IEEE
Transactions on Biomedical Engineering 66(8):2202-2212.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BANDS = ((6.0, 10.0), (9.0, 13.0), (12.0, 18.0), (16.0, 24.0), (22.0, 34.0))  # Hz
PIECE = 2.0  # seconds: one piece at the trial's beginning and, where it is longer, one at its end
SHRINKAGE = 0.003  # towards a multiple of the identity: an average reference leaves a direction without power
TAPER = 0.125  # of a piece, at each end
MEMORY = 30  # trials that an adaptive reference remembers
FLOOR = 1e-10
Band = tuple[float, float]
VERSION = [1, BANDS, PIECE, SHRINKAGE, TAPER, MEMORY]  # of what is computed here, for those who keep it

Covariances = NDArray[np.float64]


def n_pieces(n_times: int, sfreq: float) -> int:
    """Return the number of pieces that a trial is cut into: 1 or 2."""
    return 1 if n_times <= round(PIECE * sfreq) else 2


def bands_within(band: Band | None) -> tuple[Band, ...]:
    """Return the bands whose middle lies in the band, in Hz, that trials were filtered to; all of them for None.

    Raises
    ------
    ValueError
        When there is none: outside its band the filter leaves next to nothing, and whitening would blow that up.
    """
    if band is None:
        return BANDS
    inside = tuple((low, high) for low, high in BANDS if band[0] <= (low + high) / 2 <= band[1])
    if not inside:
        middles = ", ".join(f"{(low + high) / 2:g}" for low, high in BANDS)
        raise ValueError(
            f"band {list(band)} Hz holds the middle of none of the extractor's bands ({middles} Hz); widen it, or take"
            " another extractor"
        )
    return inside


def n_views(n_times: int, sfreq: float, band: Band | None = None) -> int:
    """Return how many covariances a trial has: its pieces times the bands."""
    return n_pieces(n_times, sfreq) * len(bands_within(band))


def covariances(signals: NDArray[np.floating], sfreq: float, band: Band | None = None) -> Covariances:
    """Return the shrunk covariances of trials, view by view.

    Parameters
    ----------
    signals : array, shape (n_trials, n_chans, n_times)
        Microvolts. Bands are cut out of the trial's spectrum, with edges of 1 Hz.
    sfreq : float
        Hz.
    band : pair of float, optional
        Hz, that the trials were filtered to: as in `bands_within`.

    Returns
    -------
    array, shape (n_trials, n_views, n_chans, n_chans)
        Squared microvolts; all pieces' bands, the first piece first.

    Raises
    ------
    ValueError
        When a channel and with it a covariance has no power at all.
    """
    n_times = signals.shape[-1]
    length = min(n_times, round(PIECE * sfreq))
    starts = [0, n_times - length][: n_pieces(n_times, sfreq)]
    frequency = np.fft.rfftfreq(length, 1 / sfreq)
    views = []
    for start in starts:
        piece = signals[..., start : start + length].astype(np.float64)
        spectrum = np.fft.rfft((piece - piece.mean(axis=-1, keepdims=True)) * _taper(length), axis=-1)
        for low, high in bands_within(band):
            gain = np.clip(frequency - low + 0.5, 0, 1) * np.clip(high - frequency + 0.5, 0, 1)
            kept = spectrum[..., gain > 0] * gain[gain > 0]
            views.append(2 / length**2 * np.real(kept @ kept.conj().swapaxes(-1, -2)))
    stacked = np.stack(views, axis=1)
    n_chans = signals.shape[1]
    power = np.trace(stacked, axis1=-2, axis2=-1)[..., None, None] / n_chans
    if not (power > 0).all():
        raise ValueError("a trial has no power in one of the bands")
    shrunk: Covariances = (1 - SHRINKAGE) * stacked + SHRINKAGE * power * np.eye(n_chans)
    return shrunk


def centre(covs: Covariances) -> Covariances:
    """Return the mean of each view: one step from the arithmetic mean towards the geometric one.

    Parameters
    ----------
    covs : array, shape (n_trials, n_views, n_chans, n_chans)

    Returns
    -------
    array, shape (n_views, n_chans, n_chans)
    """
    if len(covs) == 0:
        raise ValueError("re-centring needs at least one trial")
    start = covs.mean(axis=0)
    root, whitener = power(start, 0.5), power(start, -0.5)
    values, vectors = np.linalg.eigh(_log(whitener @ covs @ whitener).mean(axis=0))
    mean: Covariances = root @ ((vectors * np.exp(values)[..., None, :]) @ vectors.swapaxes(-1, -2)) @ root
    return mean


def tangent(covs: Covariances, mean: Covariances) -> NDArray[np.float32]:
    """Map covariances to the tangent space at a mean.

    Parameters
    ----------
    covs : array, shape (n_trials, n_views, n_chans, n_chans)
    mean : array, shape (n_views, n_chans, n_chans)

    Returns
    -------
    array, shape (n_trials, n_views, n_chans * (n_chans + 1) / 2)
        As `upper` gives them.
    """
    parts = range(0, len(covs), 64)  # the logarithms of a large subject need not all lie in memory
    vectors = [upper(logarithms(covs[at : at + 64], mean)) for at in parts]
    return np.concatenate(vectors) if vectors else upper(covs)


def upper(matrices: Covariances) -> NDArray[np.float32]:
    """Return upper triangles ``(..., n * (n + 1) / 2)`` of symmetric matrices ``(..., n, n)``.

    Off the diagonal times the root of 2, so that lengths are kept.
    """
    rows, columns = np.triu_indices(matrices.shape[-1])
    scale = np.where(rows == columns, 1.0, np.sqrt(2.0))
    vectors: NDArray[np.float32] = (matrices[..., rows, columns] * scale).astype(np.float32)
    return vectors


def logarithms(covs: Covariances, mean: Covariances) -> Covariances:
    """Return ``log(M^(-1/2) C M^(-1/2))``; ``C`` is (n_trials, n_views, n, n), the mean ``M`` (n_views, n, n)."""
    whitener = power(mean, -0.5)
    return _log(whitener @ covs @ whitener)


def follow(covs: Covariances, mean: Covariances, n_fitted: int) -> NDArray[np.float32]:
    """Map trials that come one after another to the tangent space of a mean that follows them.

    Parameters
    ----------
    covs, mean, n_fitted
        As of `moving_means`.
    """
    if not len(covs):
        return tangent(covs, mean)
    means = moving_means(covs, mean, n_fitted)
    return np.concatenate([tangent(covs[k : k + 1], moved) for k, moved in enumerate(means)])


def moving_means(covs: Covariances, mean: Covariances, n_fitted: int) -> Iterator[Covariances]:
    """Yield the mean that each trial is mapped at, when trials come one after another.

    Before a trial is mapped, the mean moves towards it by 1/n, n being the trials so far and at most `MEMORY`: nothing
    of a later trial is used, nor any label.

    Parameters
    ----------
    covs : array, shape (n_trials, n_views, n_chans, n_chans)
        In time order.
    mean : array, shape (n_views, n_chans, n_chans)
        Fitted on `n_fitted` earlier trials.
    """
    for k in range(len(covs)):
        root, whitener = power(mean, 0.5), power(mean, -0.5)
        step = 1 / min(n_fitted + k + 1, MEMORY)
        mean = root @ power(whitener @ covs[k] @ whitener, step) @ root
        yield mean


def _taper(length: int) -> NDArray[np.float64]:
    ramp = 0.5 * (1 - np.cos(np.pi * np.arange(round(TAPER * length)) / (TAPER * length)))
    return np.concatenate([ramp, np.ones(length - 2 * len(ramp)), ramp[::-1]])


def power(matrices: Covariances, exponent: float) -> Covariances:
    """Return a power of symmetric positive matrices ``(..., n, n)``."""
    values, vectors = _eigh(matrices)
    powered: Covariances = (vectors * (values**exponent)[..., None, :]) @ vectors.swapaxes(-1, -2)
    return powered


def _log(matrices: Covariances) -> Covariances:
    values, vectors = _eigh(matrices)
    logs: Covariances = (vectors * np.log(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
    return logs


def _eigh(matrices: Covariances) -> tuple[Covariances, Covariances]:
    values, vectors = np.linalg.eigh(matrices)
    return np.maximum(values, FLOOR * values[..., -1:]), vectors
