"""One person's decoder: one by one as all at once, from a run, from a file, from labels."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LoopGrid

import mfscsn
from data.errors import InputError
from experiments.decoder import WARM, Decoder
from experiments.predict import FederatedModel
from federation.common_layers import export_common, read_common
from federation.server_app import federate
from mfscsn.inputs import Alignment, Reference

CHANNELS = ("F3", "C3", "Cz", "C4", "P4")


@pytest.fixture(params=["eegnet", "tangent"])
def run(make_run, request):
    run = make_run(extractor="common-space", contract=f'body = "{request.param}"')
    federate(LoopGrid(run), run)
    return run


def trials(n=14, channels=CHANNELS, n_times=256, seed=0):
    return np.random.default_rng(seed).normal(scale=10, size=(n, len(channels), n_times))


def test_one_trial_after_another_is_what_all_of_them_are_in_order(run):
    decoder = Decoder.of_common(read_common(run.path), CHANNELS, ["right_hand", "rest"]).fit(trials(8))
    at_once = decoder.predict_proba(trials(seed=1))
    one_by_one = np.stack([decoder.decode(trial) for trial in trials(seed=1)])
    np.testing.assert_allclose(one_by_one, at_once, atol=1e-6)
    assert np.ptp(at_once[:, 0]) > 1e-3
    np.testing.assert_allclose(one_by_one.sum(axis=1), 1, atol=1e-6)
    still = decoder.decode(trials(seed=2)[0], follow=False)
    np.testing.assert_array_equal(still, decoder.decode(trials(seed=2)[0], follow=False))


def test_a_subject_of_the_site_is_told_as_predict_does(run):
    (north, *_) = run.federation.site
    model = FederatedModel(run, north.name)
    dataset = north.dataset[0]
    subject = dataset.targets[0]
    known = model.trials.training_of(dataset.name, subject)
    wanted = model.told(subject, known).probabilities
    decoder = Decoder.from_run(run.path, north.name, subject)
    assert decoder.labels == dataset.labels(run.federation.contract) and decoder.channels == known.channels
    np.testing.assert_allclose(decoder.predict_proba(known.signals), wanted, atol=1e-6)
    new = Decoder.from_run(run, north.name)
    np.testing.assert_allclose(new.predict_proba(known.signals), model.told("somebody", known).probabilities, atol=1e-6)


def test_nothing_shown_begins_with_the_trials_so_far(run):
    decoder = Decoder.of_common(read_common(run.path), CHANNELS, ["right_hand", "rest"])
    told = [decoder.decode(trial) for trial in trials(WARM + 2)]
    again = Decoder.of_common(read_common(run.path), CHANNELS, ["right_hand", "rest"])
    changed = trials(WARM + 2)
    changed[6:] *= 3  # no trial knows of a later one
    for k, trial in enumerate(changed[:6]):
        np.testing.assert_array_equal(again.decode(trial), told[k])
    shown = Decoder.of_common(read_common(run.path), CHANNELS, ["right_hand", "rest"]).fit(trials(WARM + 2)[:WARM])
    np.testing.assert_allclose(shown.decode(trials(WARM + 2)[WARM]), told[WARM], atol=1e-6)


def test_labels_are_learned_and_common_layers_stay(run, tmp_path):
    export_common(run, tmp_path / "card")
    decoder = mfscsn.Decoder.from_file(tmp_path / "card", CHANNELS, ["right_hand", "rest"])
    x, y = trials(24), ["right_hand", "rest"] * 12
    x[1::2, 1] *= 4  # C3 is louder at rest
    decoder.partial_fit(x[:12], y[:12]).partial_fit(x[12:], y[12:])
    codes = np.array([0, 1] * 12)

    def right(told):
        return (told.argmax(axis=1) == codes).mean()

    test, changed = trials(24, seed=3), decoder._network
    test[1::2, 1] *= 4
    assert right(decoder.predict_proba(test)) > 0.8
    common = read_common(run.path).layers
    assert all(np.array_equal(changed.common_state()[name], value) for name, value in common.items())


def test_what_cannot_be_told_is_said(run):
    common = read_common(run.path)
    decoder = Decoder.of_common(common, CHANNELS, ["right_hand", "rest"])
    with pytest.raises(InputError, match=r"expected \(n_trials, 5 channels, 256 samples: 0.5 to 2.5 s after the cue"):
        decoder.predict_proba(trials(n_times=200))
    with pytest.raises(InputError, match="NaN"):
        decoder.decode(np.full((5, 256), np.nan))
    with pytest.raises(InputError, match="label 'feet': expected one of right_hand, rest"):
        decoder.partial_fit(trials(2), ["feet", "rest"])
    with pytest.raises(InputError, match="3 labels for 2 trials"):
        decoder.partial_fit(trials(2), ["rest"] * 3)
    with pytest.raises(InputError, match="no position on the scalp is known of 'X9'"):
        Decoder.of_common(common, ("X9", *CHANNELS[1:]), ["right_hand", "rest"]).predict_proba(trials())
    with pytest.raises(InputError, match="name at least two"):
        Decoder.of_common(common, CHANNELS, ["rest"])
    with pytest.raises(InputError, match="has no subject '9'"):
        Decoder.from_run(run, run.federation.site[0].name, "9")


@pytest.mark.parametrize("tangent", [True, False])
def test_a_mean_that_moved_gives_what_following_gives(tangent):
    alignment = Alignment("adaptive", 128.0, band=(4.0, 38.0), electrodes=("C3", "Cz", "C4", "FC3"), tangent=tangent)
    reference = alignment.fit(trials(6), CHANNELS)
    new = trials(5, seed=4)
    wanted = reference.inputs(new, follow=True)
    for k in range(len(new)):
        reference = reference.moved(new[k : k + 1])
        np.testing.assert_allclose(reference.inputs(new[k : k + 1], follow=False)[0], wanted[k], atol=1e-5)
    assert reference.n_fitted == 11


def test_directions_that_were_not_seen_stay_out_when_the_mean_moves():
    alignment = Alignment("adaptive", 128.0, band=(4.0, 38.0), electrodes=("C3", "Cz", "C4"))
    reference = Reference(alignment, np.diag([1.0, 1.0, 1e-5])[None], 2, np.eye(3))  # two of three are seen
    new = trials(1, channels=("C3", "Cz", "C4"))
    wanted = reference.inputs(new, follow=True)
    assert np.linalg.matrix_rank(wanted[0], tol=1e-3) == 2
    np.testing.assert_allclose(reference.moved(new).inputs(new, follow=False), wanted, atol=1e-5)


def test_a_decoder_is_shown_kept_and_asked_for_labels(run, tmp_path):
    for decoder in (
        Decoder.of_common(read_common(run.path), CHANNELS, ["right_hand", "rest"]).fit(trials(8)),
        Decoder.from_run(run, run.federation.site[0].name),
    ):
        assert repr(decoder).startswith("Decoder(labels=['") and "256 samples at 128 Hz" in repr(decoder)
        signals = trials(seed=1, channels=decoder.channels)
        told = decoder.predict_proba(signals)
        assert decoder.predict(signals).tolist() == [decoder.labels[k] for k in told.argmax(axis=1)]
        again = pickle.loads(pickle.dumps(decoder))
        np.testing.assert_array_equal(again.predict_proba(signals), told)


def test_names_that_an_amplifier_gives_are_seen_through_and_unknown_ones_named_at_once(run):
    common, labels = read_common(run.path), ["right_hand", "rest"]
    plain = Decoder.of_common(common, CHANNELS, labels).predict_proba(trials())
    spelt = Decoder.of_common(common, [f"EEG {name}-Ref" for name in CHANNELS], labels)
    np.testing.assert_array_equal(spelt.predict_proba(trials()), plain)
    with pytest.raises(InputError, match="no position on the scalp is known of .*X9.*; name channels by"):
        Decoder.of_common(common, ["C3", "X9"], labels)
    with pytest.raises(InputError, match="channel 'C3' stands there twice"):
        Decoder.of_common(common, ["C3", "C4", "C3"], labels)


def test_volts_and_flat_signals_are_refused(run):
    decoder = Decoder.of_common(read_common(run.path), CHANNELS, ["right_hand", "rest"])
    with pytest.raises(InputError, match="they look like volts, and microvolts are expected"):
        decoder.predict_proba(trials() * 1e-6)
    flat = trials()
    flat[:, 2] = 7.0
    with pytest.raises(InputError, match="channel 'Cz' is flat in all trials"):
        decoder.predict_proba(flat)
    flat = trials()
    flat[3] = 0.0
    with pytest.raises(InputError, match="trial 3 is flat in all channels"):
        decoder.predict_proba(flat)


def test_a_recording_with_an_amplifiers_names_is_cut_for_a_decoder_of_electrodes():
    """A site's channels have the names of their electrodes; the next recording comes from the same amplifier."""
    import mne

    from data.preprocessing import Preprocessing

    raw = mne.io.RawArray(
        1e-5 * np.random.default_rng(0).normal(size=(2, 2560)), mne.create_info(["EEG C3-Ref", "Fc5."], 128.0, "eeg")
    )
    raw.set_annotations(mne.Annotations([5.0], 4.0, ["left"]))
    made = SimpleNamespace(preprocessing=Preprocessing(128.0, (0.5, 3.5), (4.0, 38.0)), channels=("FC5", "C3"))
    got = Decoder.cut(made, raw, ["left"])
    assert got.channels == ("FC5", "C3")
