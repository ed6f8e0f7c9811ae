"""Several experts of one trial, averaged at one scale.

The logits of a network are large, those of a strongly regularised linear classifier small: a mean of their
probabilities is the network's answer. So each expert's logits, less their mean over the labels that may be, are divided
by one constant of its kind before they are averaged.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Kind = Literal["network", "linear", "own-linear", "common-linear"]
# How far such logits spread: the median, over targets of folds 0 and 1 of the nine centres, of their standard deviation
# on test signals; no label is looked at. `mfscsn benchmark experiments/benchmark/fair.toml --scales` prints them: of
# `mf-scsn`, `site-weighted-adaptive`, `own-adaptive` and `one-message`
SCALES: dict[Kind, float] = {"network": 1.11, "linear": 0.164, "own-linear": 0.189, "common-linear": 0.408}
LEAST = 1e-300  # a probability; in double precision none that a softmax gives is less


def centred_logits(probabilities: NDArray[np.float64], outputs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logits of some outputs, less their mean over these: ``(n_trials, len(outputs))``.

    Parameters
    ----------
    probabilities : array, shape (n_trials, n_outputs)
        In double precision: in single precision a softmax reaches 0.
    outputs : array of int
    """
    logs = np.log(np.maximum(probabilities[:, outputs], LEAST))
    centred: NDArray[np.float64] = logs - logs.mean(axis=1, keepdims=True)
    return centred


def mean_logits(experts: Sequence[tuple[float, Kind, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Return the weighted mean of experts' centred logits ``(n_trials, n_labels)``, each at the scale of its kind."""
    mean: NDArray[np.float64] = np.sum([weight / SCALES[kind] * logits for weight, kind, logits in experts], axis=0)
    return mean


def averaged(
    experts: Sequence[tuple[float, Kind, NDArray[np.float64]]], outputs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Average what experts say of the same trials, each at the scale of its kind.

    Parameters
    ----------
    experts : sequence of (float, str, array of shape (n_trials, n_outputs))
        Weight, kind and probabilities of each; the weights' sum is 1.
    outputs : array of int
        The outputs that may be.

    Returns
    -------
    array, shape (n_trials, n_outputs)
        Probabilities, 0 where an output may not be. Their sureness is of no expert: it is for a temperature to fit.
    """
    _, _, first = experts[0]
    answers = np.zeros_like(first)
    centred = [(weight, kind, centred_logits(told, outputs)) for weight, kind, told in experts]
    answers[:, outputs] = softmax(mean_logits(centred), axis=1)
    return answers
