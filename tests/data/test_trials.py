import numpy as np
import pytest

from data.trials import Trials, concatenate, in_order


def some(n, channels=("C3", "C4")):
    words = np.array([str(k) for k in range(n)])
    signals = np.arange(n * len(channels) * 4, dtype=np.float32).reshape(n, len(channels), 4)
    return Trials(signals, words, words, words, words, channels, 100.0)


def test_chosen_and_joined_trials_keep_what_belongs_together():
    trials = some(6)
    joined = concatenate([trials[np.arange(6) < 2], trials[np.array([5])]])
    assert joined.labels.tolist() == ["0", "1", "5"] and np.array_equal(joined.signals[2], trials.signals[5])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 labels for 2 trials"):
        Trials(some(2).signals, *[some(3).labels] * 4, ("C3", "C4"), 100.0)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 4\) do not fit 1 channels"):
        Trials(some(2).signals, *[some(2).labels] * 4, ("C3",), 100.0)
    with pytest.raises(ValueError, match="different channels"):
        concatenate([some(2), some(2, ("C3", "Cz"))])


def test_channels_are_brought_in_order_and_odd_ones_named():
    trials = in_order(some(2, ("C3", "Cz", "C4")), ("C4", "C3", "Cz"))
    assert trials.channels == ("C4", "C3", "Cz")
    assert np.array_equal(trials.signals[:, 0], some(2, ("C3", "Cz", "C4")).signals[:, 2])
    with pytest.raises(ValueError, match=r"the channels \['C4', 'Cz'\] are not in both"):
        in_order(some(2), ("C3", "Cz"))
