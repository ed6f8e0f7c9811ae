import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfscsn.alignment import align, euclidean_whitener


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_mean_covariance_becomes_the_identity(n_chans, n_trials, seed):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_chans, n_chans)) + 3 * np.eye(n_chans)
    signals = (mixing @ rng.normal(size=(n_trials, n_chans, 200))).astype(np.float32)
    aligned = align(signals, euclidean_whitener(signals)).astype(float)
    covariance = np.mean([x @ x.T / 200 for x in aligned], axis=0)
    assert np.allclose(covariance, np.eye(n_chans), atol=1e-3)


def test_by_hand():
    """Two channels of power 4 and 9, not correlated: they are divided by 2 and 3."""
    signals = np.array([[[2.0, -2.0, 2.0, -2.0], [3.0, 3.0, -3.0, -3.0]]])
    assert np.allclose(euclidean_whitener(signals), np.diag([1 / 2, 1 / 3]))


def test_an_average_reference_is_not_blown_up():
    x = np.random.default_rng(0).normal(size=(4, 5, 300))
    x -= x.mean(axis=1, keepdims=True)
    aligned = align(x, euclidean_whitener(x))
    assert np.abs(aligned).max() < 10 and np.allclose(aligned.sum(axis=1), 0, atol=1e-4)


def test_no_trial_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        euclidean_whitener(np.empty((0, 3, 10)))
