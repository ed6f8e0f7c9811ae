import numpy as np
import pytest
from pyriemann.tangentspace import tangent_space
from scipy.linalg import logm, sqrtm

from mfscsn import riemann


def noise(n_trials=12, n_chans=5, n_times=416, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n_chans, n_chans))
    return np.einsum("ij,njt->nit", mixing, rng.standard_normal((n_trials, n_chans, n_times)))


@pytest.mark.parametrize(("seconds", "n_views"), [(1.0, 5), (2.0, 5), (3.25, 10)])
def test_a_trial_has_a_covariance_for_each_band_and_piece(seconds, n_views):
    covs = riemann.covariances(noise(n_times=round(seconds * 128)), 128.0)
    assert covs.shape == (12, n_views, 5, 5) and riemann.n_views(round(seconds * 128), 128.0) == n_views
    assert (np.linalg.eigvalsh(covs) > 0).all()


def test_power_shows_in_the_band_of_a_wave_and_in_its_piece():
    time = np.arange(512) / 128
    wave = np.sin(2 * np.pi * 11 * time) * (time < 1.8)
    signals = 1e-3 * noise(1, 2, 512)
    signals[0, 0] += wave
    power = riemann.covariances(signals, 128.0)[0, :, 0, 0]
    assert power.argmax() == 1 and power[1] > 50 * power[3:].max()


def test_tangent_vectors_are_pyriemanns():
    covs = riemann.covariances(noise(), 128.0)
    mean = riemann.centre(covs)
    ours = riemann.tangent(covs, mean)
    for view in range(covs.shape[1]):
        np.testing.assert_allclose(ours[:, view], tangent_space(covs[:, view], mean[view]), rtol=1e-4, atol=1e-5)


def test_one_matrix_by_hand():
    mean, cov = np.diag([4.0, 9.0]), np.diag([4.0 * np.e, 9.0])
    np.testing.assert_allclose(riemann.tangent(cov[None, None], mean[None])[0, 0], [1.0, 0.0, 0.0], atol=1e-6)
    full = np.array([[2.0, 0.5], [0.5, 1.0]])
    whitener = np.linalg.inv(sqrtm(mean))
    logs = logm(whitener @ full @ whitener)
    expected = [logs[0, 0], np.sqrt(2) * logs[0, 1], logs[1, 1]]
    np.testing.assert_allclose(riemann.tangent(full[None, None], mean[None])[0, 0], expected, atol=1e-6)


def test_the_mean_of_the_fitted_trials_is_near_the_origin():
    covs = riemann.covariances(noise(40), 128.0)
    assert np.abs(riemann.tangent(covs, riemann.centre(covs)).mean(axis=0)).max() < 0.05
    with pytest.raises(ValueError, match="at least one"):
        riemann.centre(covs[:0])


def test_following_uses_no_later_trial():
    covs = riemann.covariances(noise(20), 128.0)
    mean = riemann.centre(covs[:8])
    whole, cut = riemann.follow(covs[8:], mean, 8), riemann.follow(covs[8:12], mean, 8)
    np.testing.assert_array_equal(whole[:4], cut)


def test_following_takes_a_drift_away():
    covs = riemann.covariances(noise(90), 128.0)
    mean = riemann.centre(covs[:30])
    gain = np.diag([3.0, 1.0, 1.0, 1.0, 1.0])  # an electrode that was pressed on between the parts
    drifted = gain @ covs[30:] @ gain
    still, followed = riemann.tangent(drifted, mean), riemann.follow(drifted, mean, 30)
    assert np.linalg.norm(followed[-20:].mean(0)) < 0.4 * np.linalg.norm(still[-20:].mean(0))


def test_no_power_is_refused():
    signals = noise(2)
    signals[1] = 0
    with pytest.raises(ValueError, match="no power"):
        riemann.covariances(signals, 128.0)


def test_views_outside_the_filters_band_are_left_out():
    """A band of 8 to 13 Hz holds the middles of 6 to 10 and 9 to 13 Hz; what the filter left elsewhere is no signal."""
    assert riemann.bands_within(None) == riemann.bands_within((4.0, 38.0)) == riemann.BANDS
    assert riemann.bands_within((8.0, 13.0)) == ((6.0, 10.0), (9.0, 13.0))
    signals = noise()
    inside = riemann.covariances(signals, 128.0, (8.0, 13.0))
    every = riemann.covariances(signals, 128.0)
    assert inside.shape[1] == riemann.n_views(416, 128.0, (8.0, 13.0)) == 4
    assert np.array_equal(inside, every[:, [0, 1, 5, 6]])  # of both pieces
    with pytest.raises(ValueError, match=r"band \[40.0, 60.0\] Hz holds the middle of none of the extractor's bands"):
        riemann.bands_within((40.0, 60.0))


def test_no_trials_follow_to_no_vectors():
    none, mean = np.empty((0, 2, 3, 3)), np.stack([np.eye(3)] * 2)
    assert riemann.follow(none, mean, 5).shape == (0, 2, 6)
