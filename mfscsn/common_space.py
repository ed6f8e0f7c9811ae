"""The common space: the separate first layer, which takes every headset's trials to one set of electrodes.

::

    x (n_chans, n_times)  --W-->  agreed electrodes (K, n_times)  --whitened by the subject's own mean-->  z

``W`` interpolates on the scalp, from the headset's electrodes to the agreed ones. ``M`` is the mean covariance of the
subject's own trials. ``z = (W M W')^(-1/2) W x``, with a pseudo-inverse: white in the mean, and exactly 0 in directions
that the headset does not see. For covariances, ``A log(M^(-1/2) C M^(-1/2)) A'`` with ``A`` the polar factor of
``W M^(1/2)``: there the logarithm is taken in the headset's own channels, before the projection. Both are one map:
``A M^(-1/2) = (W M W')^(-1/2) W``.

``W``, ``M`` and the channels' names stay at the site. All that decodes lies behind, and is common.

References
----------
Splines: Perrin et al. 1989, Electroencephalography and Clinical Neurophysiology 72(2):184-187. Whitening by a subject's
mean: He and Wu 2020, IEEE Transactions on Biomedical Engineering 67(2):399-410.
"""

import functools
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from numpy.polynomial.legendre import legval
from numpy.typing import NDArray

from mfscsn import riemann
from mfscsn.alignment import align
from mfscsn.electrodes import POSITIONS

Array = NDArray[np.float64]

ELECTRODES = {
    "motor21": (
        *("FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6", "C5", "C3", "C1", "Cz", "C2", "C4", "C6"),
        *("CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6"),
    ),
    "motor11": ("FC3", "FCz", "FC4", "C5", "C3", "Cz", "C4", "C6", "CP3", "CPz", "CP4"),
}
ORDER, TERMS = 4, 50  # of the spline, and of the Legendre series that gives it
SMOOTHING = 1e-5  # of the spline
SHRINKAGE = 0.01  # of a trial's covariance: an average reference leaves a direction without power
CUT = 0.01  # directions below this share of the strongest one's amplitude were not observed
VERSION = [1, ORDER, TERMS, SMOOTHING, SHRINKAGE, CUT]  # of what is computed here, for those who keep it


def electrode_names(electrodes: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of a set of `ELECTRODES`, or of a list.

    Raises
    ------
    ValueError
        For a set or an electrode that nobody knows, or that stands there twice; the nearest one is suggested.
    """
    if isinstance(electrodes, str):
        if electrodes not in ELECTRODES:
            raise ValueError(f"no set of electrodes {electrodes!r}; there are {', '.join(ELECTRODES)}, or give a list")
        return ELECTRODES[electrodes]
    if not electrodes:
        raise ValueError("electrodes = []: name at least one")
    positions(electrodes)
    if len({name.lower() for name in electrodes}) < len(electrodes):
        raise ValueError(f"electrodes {list(electrodes)}: one of them stands there twice")
    return tuple(electrodes)


def positions(names: Sequence[str]) -> Array:
    """Return where electrodes sit, as unit vectors ``(n, 3)`` from the head's middle: x right, y front, z up.

    Of the extended 10-20 system (Oostenveld and Praamstra 2001, Clinical Neurophysiology 112(4):713-719), on a standard
    head; names are matched without case.

    Raises
    ------
    ValueError
        That names those which are not in it, each with the nearest one.
    """
    spelt = {name.lower(): name for name in POSITIONS}
    unknown = [name for name in names if name.lower() not in spelt]
    if unknown:
        near = {name: get_close_matches(name.lower(), spelt, 1) for name in unknown}
        told = [f"{name!r}" + (f" (nearest: {spelt[near[name][0]]!r})" if near[name] else "") for name in unknown]
        raise ValueError(f"no position on the scalp is known of {', '.join(told)}")
    there = np.array([POSITIONS[spelt[name.lower()]] for name in names]).reshape(-1, 3)
    unit: Array = there / np.linalg.norm(there, axis=1, keepdims=True)
    return unit


@functools.lru_cache(64)
def interpolation(channels: tuple[str, ...], electrodes: tuple[str, ...]) -> Array:
    """Return ``W``, shape (n_electrodes, n_chans): spherical splines from channels to electrodes.

    Raises
    ------
    ValueError
        As `positions`.
    """
    here, there = positions(channels), positions(electrodes)
    n = len(channels)
    # A constant is added to the spline, and its weights sum to zero
    system = np.block([[_spline(here @ here.T) + SMOOTHING * np.eye(n), np.ones((n, 1))], [np.ones((1, n)), 0.0]])
    weights: Array = np.hstack([_spline(there @ here.T), np.ones((len(there), 1))]) @ np.linalg.pinv(system)[:, :n]
    return weights


def _spline(cosines: Array) -> Array:
    n = np.arange(1, TERMS + 1)
    series = (2 * n + 1) / (n**ORDER * (n + 1.0) ** ORDER * 4 * np.pi)
    values: Array = legval(np.clip(cosines, -1, 1), [0.0, *series])
    return values


def broadband_covariances(signals: NDArray[np.floating]) -> Array:
    """Return trials' covariances ``(n_trials, 1, n_chans, n_chans)``, shrunk; signals are (n_trials, n_chans, n_times).

    Raises ValueError when a trial has no power at all.
    """
    x = signals.astype(np.float64)
    x = x - x.mean(axis=-1, keepdims=True)
    covs = x @ x.swapaxes(-1, -2) / x.shape[-1]
    power = np.trace(covs, axis1=-2, axis2=-1)[:, None, None] / x.shape[1]
    if not (power > 0).all():
        raise ValueError("a trial has no power")
    shrunk: Array = (1 - SHRINKAGE) * covs + SHRINKAGE * power * np.eye(x.shape[1])
    return shrunk[:, None]


def n_seen(mean: Array, weights: Array) -> int:
    """Count the directions of the common space that a headset sees: the rank of ``(W M W')^(-1/2) W``."""
    values = np.linalg.eigvalsh(weights @ mean @ weights.T)
    return int((values > CUT**2 * values[-1]).sum())


def whitener(mean: Array, weights: Array, rank: int) -> Array:
    """Return ``(W M W')^(-1/2) W``, shape (n_electrodes, n_chans): apply it to a trial.

    Parameters
    ----------
    mean : array, shape (n_chans, n_chans)
        ``M``.
    weights : array, shape (n_electrodes, n_chans)
        ``W``.
    rank : int
        Directions to keep, the strongest ones.
    """
    values, vectors = np.linalg.eigh(weights @ mean @ weights.T)
    values, vectors = values[-rank:], vectors[:, -rank:]
    white: Array = (vectors / np.sqrt(values)) @ vectors.T @ weights
    return white


def to_common_space(
    signals: NDArray[np.floating], mean: Array, weights: Array, n_fitted: int | None = None, rank: int | None = None
) -> NDArray[np.float32]:
    """Carry trials ``(n_trials, n_chans, n_times)`` to the electrodes: ``(n_trials, n_electrodes, n_times)``.

    Parameters
    ----------
    mean : array, shape (1, n_chans, n_chans)
        Of the subject's own trials: `mfscsn.riemann.centre` of their `broadband_covariances`.
    weights : array, shape (n_electrodes, n_chans)
        As `interpolation` gives them.
    n_fitted : int, optional
        Where given, these are new trials in time order, and the mean, fitted on so many earlier ones, follows them:
        each moves it before it is whitened, and nothing of a later trial is used. The directions that are seen are
        counted once, so that none comes or goes in the middle of a session.
    rank : int, optional
        So many directions were counted before.
    """
    rank = n_seen(mean[0], weights) if rank is None else rank
    if n_fitted is None:
        return align(signals, whitener(mean[0], weights, rank))
    out = np.empty((len(signals), len(weights), signals.shape[-1]), np.float32)
    for k, (trial, moved) in enumerate(
        zip(signals, riemann.moving_means(broadband_covariances(signals), mean, n_fitted), strict=True)
    ):
        out[k] = whitener(moved[0], weights, rank) @ trial
    return out


def projected_logarithms(covs: Array, mean: Array, weights: Array) -> Array:
    """Carry covariances to the electrodes: ``A log(M^(-1/2) C M^(-1/2)) A'`` of each view.

    Parameters
    ----------
    covs : array, shape (n_trials, n_views, n_chans, n_chans)
    mean : array, shape (n_views, n_chans, n_chans)
    weights : array, shape (n_electrodes, n_chans)

    Returns
    -------
    array, shape (n_trials, n_views, n_electrodes, n_electrodes)
    """
    turned = polar(mean, weights)
    carried: Array = turned @ riemann.logarithms(covs, mean) @ turned.swapaxes(-1, -2)
    return carried


def tangent_in_common_space(
    covs: Array, mean: Array, weights: Array, n_fitted: int | None = None
) -> NDArray[np.float32]:
    """Return `projected_logarithms` as tangent vectors ``(n_trials, n_views, n_electrodes * (n_electrodes + 1) / 2)``.

    Parameters
    ----------
    covs, mean, weights
        As of `projected_logarithms`.
    n_fitted : int, optional
        As of `to_common_space`: the mean follows these trials.
    """
    if n_fitted is None:
        return riemann.upper(projected_logarithms(covs, mean, weights))
    means = riemann.moving_means(covs, mean, n_fitted)
    parts = [projected_logarithms(covs[k : k + 1], moved, weights) for k, moved in enumerate(means)]
    return riemann.upper(np.concatenate(parts))


def polar(mean: Array, weights: Array) -> Array:
    """Return ``A``, the polar factor of ``W M^(1/2)``: (..., n_electrodes, n_chans), a partial isometry."""
    left, values, right = np.linalg.svd(weights @ riemann.power(mean, 0.5), full_matrices=False)
    seen = values > CUT * values[..., :1]
    factor: Array = (left * seen[..., None, :]) @ right
    return factor


def mirrored(name: str) -> str:
    """Name the electrode on the head's other side: C3 for C4, Cz for Cz."""
    letters = name.rstrip("0123456789")
    if letters == name:
        return name
    number = int(name[len(letters) :])
    return f"{letters}{number + 1 if number % 2 else number - 1}"
