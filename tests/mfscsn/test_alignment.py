import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfscsn.alignment import align, euclidean_whitener, standardise


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


def test_shrinkage_by_hand():
    """Powers 4 and 9, mean 6.5: half way they are 5.25 and 7.75; all the way both are 6.5."""
    signals = np.array([[[2.0, -2.0, 2.0, -2.0], [3.0, 3.0, -3.0, -3.0]]])
    assert np.allclose(euclidean_whitener(signals, 0.5), np.diag([5.25**-0.5, 7.75**-0.5]))
    assert np.allclose(euclidean_whitener(signals, 1.0), np.eye(2) / 6.5**0.5)


def test_every_sample_is_standardised_over_channels():
    signals = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 5, 30))
    standard = standardise(signals)
    assert standard.dtype == np.float32
    assert np.allclose(standard.mean(axis=1), 0, atol=1e-6) and np.allclose(standard.std(axis=1), 1, atol=1e-5)
    assert np.array_equal(standardise(np.ones((1, 2, 3))), np.zeros((1, 2, 3)))
