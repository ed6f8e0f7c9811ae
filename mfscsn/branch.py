"""A branch: what the separate layers of one data set must fit, and the trials that go through them. No torch."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Branch:
    """What the separate layers of one data set must fit.

    Parameters
    ----------
    n_chans, n_outputs : int
    labels : tuple of str
        The outputs' names, where they matter: of `Anchored`.
    """

    n_chans: int
    n_outputs: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class BranchTrials:
    """Training trials of one branch.

    Parameters
    ----------
    signals : array, shape (n_trials, n_chans, n_times), or (n_trials, n_views, n_pairs) of `mfscsn.riemann`, float32
    labels : array of int, shape (n_trials,)
        Indices into `names`.
    names : tuple of str
        The branch's label names, in the order of the head's outputs.
    persons : array of str, shape (n_trials,)
        Whose each trial is, where that matters; else empty.
    """

    signals: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    persons: NDArray[np.str_] = field(default_factory=lambda: np.array([], str))
