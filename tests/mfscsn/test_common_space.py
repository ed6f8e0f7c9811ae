"""The common space: what is true of it, for any headset, unit, order of channels and subject."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfscsn import riemann
from mfscsn.alignment import align
from mfscsn.common_space import (
    ELECTRODES,
    broadband_covariances,
    electrode_names,
    interpolation,
    mirrored,
    n_seen,
    polar,
    positions,
    projected_logarithms,
    to_common_space,
    whitener,
)
from mfscsn.inputs import Alignment

MOTOR21, MOTOR11 = ELECTRODES["motor21"], ELECTRODES["motor11"]
HEADSETS = [
    ("C3", "Cz", "C4"),
    ("Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"),
    ("F3", "Fz", "F4", "C3", "Cz", "C4", "P3", "Pz", "P4", "T7", "T8"),
    MOTOR21,
]


def recording(channels, n_trials=12, n_times=200, seed=0):
    """Trials whose channels are mixed as neighbours are."""
    rng = np.random.default_rng(seed)
    here = positions(channels)
    mixing = np.exp(here @ here.T) * rng.uniform(0.5, 2.0, len(channels))
    return 10 * np.einsum("cd,tds->tcs", mixing, rng.normal(size=(n_trials, len(channels), n_times)))


headsets = st.sampled_from(HEADSETS)
seeds = st.integers(0, 1000)


def test_the_positions_are_those_of_the_standard_and_the_spline_is_mnes():
    import mne
    from mne.channels.interpolation import _make_interpolation_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = mne.channels.make_standard_montage("standard_1005").get_positions()["ch_pos"]
    points = np.array(list(places.values()))
    middle = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(axis=1), rcond=None)[0][:3]
    there = (points - middle) / np.linalg.norm(points - middle, axis=1, keepdims=True)
    np.testing.assert_allclose(positions(list(places)), there, atol=2e-5)
    for channels in HEADSETS:
        expected = _make_interpolation_matrix(positions(channels), positions(MOTOR21), alpha=1e-5)
        np.testing.assert_allclose(interpolation(channels, MOTOR21), expected, atol=1e-8)


def test_an_electrode_that_is_there_keeps_its_signal_and_a_constant_stays_one():
    far = ("Fp1", "C3", "C4", "O2")
    np.testing.assert_allclose(interpolation(far, ("C4", "C3")), [[0, 0, 1, 0], [0, 1, 0, 0]], atol=0.02)
    for channels in HEADSETS:
        np.testing.assert_allclose(interpolation(channels, MOTOR21).sum(axis=1), 1.0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(headsets, seeds)
def test_the_two_ways_to_write_it_are_one(channels, seed):
    mean = riemann.centre(broadband_covariances(recording(channels, seed=seed)))
    weights = interpolation(channels, MOTOR21)
    turned = polar(mean[0], weights)
    rank = n_seen(mean[0], weights)
    assert np.linalg.matrix_rank(turned) == rank <= len(channels)
    np.testing.assert_allclose(
        turned @ riemann.power(mean[0], -0.5), whitener(mean[0], weights, rank), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(turned @ turned.T @ turned, turned, atol=1e-8)  # a partial isometry


@settings(max_examples=30, deadline=None)
@given(headsets, seeds, st.floats(1e-6, 1e6))
def test_units_and_the_order_of_channels_change_nothing(channels, seed, unit):
    x = recording(channels, seed=seed)
    order = np.random.default_rng(seed).permutation(len(channels))
    shuffled = tuple(channels[k] for k in order)
    alignment = Alignment("adaptive", 128.0, electrodes=MOTOR21)
    for follow in (False, True):
        plain = alignment.fit(x[:6], channels).inputs(x[6:], follow=follow)
        moved = alignment.fit(unit * x[:6][:, order], shuffled).inputs(unit * x[6:][:, order], follow=follow)
        np.testing.assert_allclose(moved, plain, atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(headsets, seeds)
def test_the_mean_is_white_where_the_headset_sees_and_nothing_elsewhere(channels, seed):
    covs = broadband_covariances(recording(channels, seed=seed))[:, 0]
    weights = interpolation(channels, MOTOR21)
    mean = covs.mean(axis=0)
    rank = n_seen(mean, weights)
    white = whitener(mean, weights, rank)
    values = np.linalg.eigvalsh((white @ covs @ white.T).mean(axis=0))
    np.testing.assert_allclose(values, [0.0] * (21 - rank) + [1.0] * rank, atol=1e-6)


def test_logarithms_at_the_mean_have_the_mean_zero_before_they_are_projected():
    covs = riemann.covariances(recording(MOTOR21), 128.0)
    mean = riemann.centre(covs)
    weights = interpolation(MOTOR21, MOTOR11)
    logs = projected_logarithms(covs, mean, weights)
    assert logs.shape == (12, covs.shape[1], 11, 11) and np.abs(logs.mean(axis=0)).max() < 0.1 * np.abs(logs).max()
    # The order matters: the logarithm behind the projection is another thing
    turned = polar(mean, weights)
    whitened = riemann.power(mean, -0.5)
    behind = riemann.logarithms(turned @ whitened @ covs @ whitened @ turned.swapaxes(-1, -2), np.eye(11)[None])
    assert not np.allclose(behind, logs, atol=1e-3)


def test_a_mean_that_follows_is_causal_and_its_rank_does_not_jump():
    x = recording(MOTOR21, n_trials=30)
    x[15:] *= np.linspace(1, 40, 21)[:, None]  # the montage dries out, unevenly
    mean, weights = riemann.centre(broadband_covariances(x[:10])), interpolation(MOTOR21, MOTOR21)
    z = to_common_space(x[10:], mean, weights, n_fitted=10)
    np.testing.assert_array_equal(to_common_space(x[10:20], mean, weights, n_fitted=10), z[:10])
    assert len({np.linalg.matrix_rank(trial @ trial.T, tol=1e-3) for trial in z.astype(float)}) == 1
    assert not np.allclose(z, align(x[10:], whitener(mean[0], weights, 21)), atol=0.1)


def test_electrodes_are_a_set_or_a_list_and_the_nearest_name_is_suggested():
    assert electrode_names("motor11") == MOTOR11 and electrode_names(["C3", "Cz"]) == ("C3", "Cz")
    for electrodes, message in (
        ("motor12", "no set of electrodes 'motor12'; there are motor21, motor11, or give a list"),
        (["C3", "CZZ"], r"no position on the scalp is known of 'CZZ' \(nearest: 'Cz'\)"),
        (["C3", "c3"], "stands there twice"),
        ([], r"electrodes = \[\]: name at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            electrode_names(electrodes)


def test_the_other_side_of_the_head():
    assert [mirrored(name) for name in ("C3", "CP6", "Cz", "FC10")] == ["C4", "CP5", "Cz", "FC9"]


def test_as_tangent_vectors_the_mean_follows_as_well():
    x = recording(HEADSETS[2], n_trials=20)
    alignment = Alignment("adaptive", 128.0, band=(4.0, 38.0), electrodes=MOTOR11, tangent=True)
    reference = alignment.fit(x[:10], HEADSETS[2])
    still, moved = (reference.inputs(x[10:], follow=follow) for follow in (False, True))
    logs = projected_logarithms(riemann.covariances(x[10:], 128.0), reference.fitted, reference.weights)
    np.testing.assert_allclose(still, riemann.upper(logs), atol=1e-5)
    assert still.shape == moved.shape == (10, 5, 66) and not np.allclose(still, moved, atol=1e-3)
    np.testing.assert_array_equal(reference.inputs(x[10:15], follow=True), moved[:5])
