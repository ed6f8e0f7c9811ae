"""Is there imagery in the signals? One number a subject, whatever the networks make of them."""

import numpy as np
from scipy.signal import welch

from data.trials import Trials

LEFT, RIGHT = "left_hand", "right_hand"
MU = (8.0, 13.0)  # Hz
FEWEST = 5  # trials of a hand


def mu_difference(trials: Trials) -> float | None:
    """Return how far the two hands' trials lie apart in mu power, C3 over C4, in standard deviations.

    The imagery of a hand lowers the mu rhythm over the other side (event-related desynchronisation), so that the left
    hand's ratio is expected above the right hand's.

    Parameters
    ----------
    trials : Trials
        Of one subject.

    Returns
    -------
    float or None
        Cohen's d of the logarithm of the ratio, left minus right; None without C3, C4 or five trials of each hand.

    References
    ----------
    Pfurtscheller and Lopes da Silva 1999, Clinical Neurophysiology 110(11):1842-1857.
    """
    of = {name.upper(): k for k, name in enumerate(trials.channels)}
    hands = [trials.labels == hand for hand in (LEFT, RIGHT)]
    if not {"C3", "C4"} <= set(of) or min(hand.sum() for hand in hands) < FEWEST:
        return None
    signals = trials.signals[:, [of["C3"], of["C4"]]].astype(np.float64)
    n = min(signals.shape[2], round(trials.sfreq))
    frequencies, power = welch(signals, trials.sfreq, nperseg=n)
    band = power[:, :, (frequencies >= MU[0]) & (frequencies <= MU[1])].mean(axis=2)
    ratios = np.log(band[:, 0]) - np.log(band[:, 1])
    left, right = (ratios[hand] for hand in hands)
    spread = np.sqrt((left.var(ddof=1) + right.var(ddof=1)) / 2)
    return float((left.mean() - right.mean()) / spread) if spread > 0 else None
