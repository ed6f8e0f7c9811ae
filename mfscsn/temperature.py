"""Temperature scaling: how sure a network may be of what it says, fitted on trials that it was not trained on.

References
----------
Guo et al. 2017, On Calibration of Modern Neural Networks, ICML.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

PRIOR_SD = 1.0  # of the temperature's logarithm: a few trials that were all told right are no proof
RANGE = (0.05, 20.0)
LEAST = 1e-12  # a probability


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return probabilities at a temperature: above 1 less sure, below 1 surer; which one is likeliest stays.

    Parameters
    ----------
    probabilities : array, shape (n_trials, n_outputs)
    temperature : float

    Returns
    -------
    array, shape (n_trials, n_outputs)
        Their logarithms divided by the temperature, and each row's sum brought back to 1.
    """
    if temperature == 1:
        return probabilities
    logs = np.log(np.maximum(probabilities, LEAST)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    scaled: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def fitted_temperature(parts: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]) -> float:
    """Return the temperature at which trials' labels are likeliest; 1 without any trial.

    Its logarithm has a normal prior around 0, so that a few trials move it little.

    Parameters
    ----------
    parts : sequence of (array of shape (n_trials, n_outputs), array of int of shape (n_trials,))
        Probabilities and labels; parts may differ in their outputs.
    """
    if not sum(len(labels) for _, labels in parts):
        return 1.0

    def cost(log_temperature: float) -> float:
        at = [tempered(told, float(np.exp(log_temperature))) for told, _ in parts]
        likely = [p[np.arange(len(labels)), labels] for p, (_, labels) in zip(at, parts, strict=True)]
        return float(-np.log(np.maximum(np.concatenate(likely), LEAST)).sum() + (log_temperature / PRIOR_SD) ** 2 / 2)

    return float(np.exp(minimize_scalar(cost, bounds=np.log(RANGE), method="bounded").x))
