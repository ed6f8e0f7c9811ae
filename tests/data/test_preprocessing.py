from dataclasses import replace

import mne
import numpy as np
import pytest

from data.errors import InputError
from data.preprocessing import Preprocessing, Recording, cut_trials
from data.trials import UNLABELLED

TASKS = {"left": "left_hand", "right": "right_hand"}
P = Preprocessing(sfreq=128.0, window=(0.5, 3.5), band=(4.0, 38.0))


def recording(sfreq=250.0, onsets=(5.0, 12.0, 20.0), names=("left", "right", "other"), seconds=30.0, change=None):
    rng = np.random.default_rng(0)
    signals = 1e-5 * rng.normal(size=(3, int(seconds * sfreq)))
    if change:
        change(signals)
    raw = mne.io.RawArray(signals, mne.create_info(["C3", "Cz", "C4"], sfreq, "eeg"), verbose="ERROR")
    raw.set_annotations(mne.Annotations(onsets, 4.0, names))
    return Recording(raw, "ses", "run", "sub-01_eeg.edf")


@pytest.mark.parametrize("sfreq", [100.0, 125.0, 128.0, 160.0, 250.0, 512.0])
def test_one_shape_for_all_rates(sfreq):
    trials = cut_trials(recording(sfreq), P, TASKS, "01")
    assert trials.signals.shape == (2, 3, 384) and trials.signals.dtype == np.float32
    assert trials.labels.tolist() == ["left_hand", "right_hand"]
    assert trials.runs.tolist() == ["run", "run"] and trials.sessions.tolist() == ["ses", "ses"]


def test_how_far_cues_are_apart():
    onsets, names = (2.0, 5.0, 9.0, 12.0, 15.5, 25.0), ("left", "left", "right", "other", "right", "left")
    # Of left and right alone: 3, 4, 6.5 and 9.5 s
    assert recording(onsets=onsets, names=names).cue_interval(TASKS) == pytest.approx(5.25)
    assert recording().cue_interval(TASKS) is None  # two cues tell nothing


def test_microvolts_at_the_right_place_in_time():
    """A burst of 10 Hz and 20 microvolts from 1 to 2 s behind the cue shows there and nowhere else."""

    def burst(signals):
        signals[:] = 0
        t = np.arange(signals.shape[1]) / 250.0
        signals[1] = 20e-6 * np.sin(2 * np.pi * 10 * t) * ((t > 6) & (t < 7))
        signals[[0, 2]] = 1e-6 * np.random.default_rng(0).normal(size=(2, len(t)))

    trial = cut_trials(recording(change=burst), P, TASKS, "01").signals[0, 1]
    power = [trial[a:b].std() for a, b in ((0, 40), (84, 172), (230, 384))]
    assert 12 < power[1] < 16 and power[0] < 3 and power[2] < 1


def test_chosen_channels_in_their_order():
    trials = cut_trials(recording(), P, TASKS, "01", ["C4", "C3"])
    assert trials.channels == ("C4", "C3")


def test_trials_over_the_end_and_bad_segments_are_left_out():
    late = recording(onsets=(5.0, 28.0), names=("left", "right"))
    assert len(cut_trials(late, P, TASKS, "01")) == 1
    bad = recording(onsets=(5.0, 5.5, 12.0), names=("left", "bad_artefact", "right"))
    assert cut_trials(bad, P, TASKS, "01").labels.tolist() == ["right_hand"]


def test_a_recording_without_the_tasks_gives_no_trial():
    assert len(cut_trials(recording(names=("x", "y", "z")), P, TASKS, "01")) == 0


def nan(signals):
    signals[2, 100] = np.nan


def flat(signals):
    signals[1] = 3e-5


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: recording(64.0), "sub-01_eeg.edf: rate 64 Hz is not above twice the band's upper edge of 38 Hz"),
        (lambda: recording(76.0), "rate 76 Hz is not above twice"),
        (lambda: recording(change=nan), "sub-01_eeg.edf: channel 'C4' holds NaN"),
        (lambda: recording(change=flat), "sub-01_eeg.edf: channel 'Cz' is flat"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named(made, message):
    with pytest.raises(InputError, match=message):
        cut_trials(made(), P, TASKS, "01")


def test_a_missing_channel_is_named_with_the_nearest():
    with pytest.raises(InputError, match="no channel 'C33'; did you mean 'C3'"):
        cut_trials(recording(), P, TASKS, "01", ["C33"])


def test_channels_are_found_without_case_and_called_as_asked():
    trials = cut_trials(recording(), P, TASKS, "01", ["CZ", "c3"])
    assert trials.channels == ("CZ", "c3")
    np.testing.assert_array_equal(trials.signals, cut_trials(recording(), P, TASKS, "01", ["Cz", "C3"]).signals)


def test_names_that_are_no_electrodes_are_left_out_and_said():
    made = recording()
    made.raw.rename_channels({"Cz": "HEOG"})
    assert cut_trials(made, P, TASKS, "01").channels == ("C3", "C4")
    assert made.notes == ["left out ['HEOG'], by name no electrodes; channels = [...] decides otherwise"]
    made = recording()
    made.raw.rename_channels({"Cz": "HEOG"})
    assert cut_trials(made, P, TASKS, "01", ["C3", "HEOG"]).channels == ("C3", "HEOG") and not made.notes


def test_a_boundary_inside_a_trial_leaves_it_out():
    """EEGLAB gives it the length of what was cut out, which is in the recording no more."""
    for duration in (0.0, 60.0):
        made = recording(onsets=(5.0, 7.0, 12.0), names=("left", "boundary", "right"))
        made.raw.annotations.duration[1] = duration
        assert cut_trials(made, P, TASKS, "01").labels.tolist() == ["right_hand"]


def test_two_tasks_at_one_moment_are_refused():
    made = recording(onsets=(5.0, 12.0, 12.001), names=("left", "left", "right"))
    with pytest.raises(InputError, match=r"sub-01_eeg.edf: cues of 'left' and 'right' both stand at 12.000 s"):
        cut_trials(made, P, TASKS, "01")
    twice = recording(onsets=(5.0, 12.0, 12.0), names=("left", "left", "left"))
    assert len(cut_trials(twice, P, TASKS, "01")) == 2  # a row that stands there twice


@pytest.mark.parametrize("factor", [1e6, 1e3, 1e-3])
@pytest.mark.parametrize("made", [recording, lambda change: cut_recording(change=change)])
def test_a_wrong_unit_is_refused_with_what_was_measured(made, factor):
    def scale(signals):
        signals *= factor

    with pytest.raises(InputError, match=r"its channels deviate by .* microvolts in the band, and EEG by 0.05 to 1000"):
        cut_trials(made(change=scale), P, TASKS, "01")


def test_a_channel_far_from_the_others_is_noted():
    def loud(signals):
        signals[1] *= 50

    made = recording(change=loud)
    cut_trials(made, P, TASKS, "01")
    (note,) = made.notes
    assert note.startswith("channel 'Cz' deviates by") and "where others have" in note


def test_a_clipped_channel_is_noted():
    def clip(signals):
        np.clip(signals[2], -1.5e-5, 1.5e-5, out=signals[2])

    made = recording(change=clip)
    cut_trials(made, P, TASKS, "01")
    assert made.notes == ["clipped: ['C4'] stand at an end of their range in up to 7 % of the samples"]


def test_annotations_that_no_task_names_are_counted():
    assert recording(names=("left", "rest", "rest")).unused(TASKS) == {"rest": 2}
    assert recording(names=("BAD_ACQ_SKIP", "boundary", "left")).unused(TASKS) == {}
    assert cut_recording(("left", "wink")).unused(TASKS) == {"wink": 1}
    assert cut_recording((UNLABELLED, "left")).unused(TASKS) == {}


def cut_recording(names=("left", "right"), length=4.0, change=None):
    """The same recording as epochs, cut from the cue: how a competition hands its trials out."""
    continuous = recording(change=change)
    starts = [round(onset * 250.0) for onset in (5.0, 12.0)]
    signals = np.stack([continuous.raw.get_data()[:, s : s + round(length * 250)] for s in starts])
    codes = {name: k for k, name in enumerate(dict.fromkeys(names))}
    events = np.array([[k, 0, codes[name]] for k, name in enumerate(names)])
    epochs = mne.EpochsArray(signals, continuous.raw.info, events, event_id=codes, verbose="ERROR")
    return Recording(epochs, "training", "race1", "race1.npy")


def test_trials_that_were_cut_before_are_nearly_those_of_the_recording():
    """Only the filter's edges differ."""
    whole = cut_trials(recording(), P, TASKS, "01")
    cut = cut_trials(cut_recording(), P, TASKS, "01")
    assert cut.signals.shape == whole.signals.shape and cut.labels.tolist() == whole.labels.tolist()
    assert cut.sessions.tolist() == ["training"] * 2 and cut.channels == whole.channels
    middle = np.s_[:, :, 64:320]
    assert np.corrcoef(whole.signals[middle].ravel(), cut.signals[middle].ravel())[0, 1] > 0.99


def test_unlabelled_trials_are_kept_and_other_tasks_passed_over():
    assert cut_trials(cut_recording((UNLABELLED, UNLABELLED)), P, TASKS, "01").labels.tolist() == [UNLABELLED] * 2
    assert cut_trials(cut_recording(("left", "tongue")), P, TASKS, "01").labels.tolist() == ["left_hand"]
    assert len(cut_trials(cut_recording(("wink", "tongue")), P, TASKS, "01")) == 0
    assert cut_recording((UNLABELLED, "left")).annotations() == {"left"}


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (Preprocessing(128.0, (0.5, 8.5), (4.0, 38.0)), r"cut at 0 to 4 s, so the window \[0.5, 8.5\] s does not"),
        (Preprocessing(128.0, (-0.5, 2.0), (4.0, 38.0)), "does not lie within"),
        (Preprocessing(128.0, (0.5, 3.5), (0.5, 38.0)), "too short for a filter from 0.5 Hz"),
    ],
)
def test_a_window_or_band_that_cut_trials_cannot_serve(preprocessing, message):
    with pytest.raises(InputError, match=message):
        cut_trials(cut_recording(), preprocessing, TASKS, "01")


def test_trials_that_end_before_the_window_are_filled_up_and_it_is_said():
    long = cut_recording()
    longer = Preprocessing(128.0, (0.5, 5.0), P.band)
    got, whole = cut_trials(long, longer, TASKS, "01"), cut_trials(cut_recording(), P, TASKS, "01")
    assert got.signals.shape[2] == longer.n_times == 576
    np.testing.assert_array_equal(got.signals[:, :, : P.n_times], whole.signals)
    assert not got.signals[:, :, 448:].any() and got.signals[:, :, 440:448].all()
    assert any("its trials end at 4 s, the window at 5 s: what is missing is 0" in note for note in long.notes)


@pytest.mark.parametrize(("filtered", "told"), [((6.0, 28.0), True), ((0.1, 60.0), False), (None, False)])
def test_a_recording_of_a_narrower_band_is_told(filtered, told):
    given = recording()
    if filtered:
        given.raw.info._unlocked = True
        given.raw.info["highpass"], given.raw.info["lowpass"] = filtered
        given.raw.info._unlocked = False
    cut_trials(given, P, TASKS, "01")
    said = [note for note in given.notes if "the contract's band is 4 to 38 Hz" in note]
    assert len(said) == told and all("its file names a filter of 6 to 28 Hz" in note for note in said)


def test_a_reference_is_found_by_the_name_that_the_file_has():
    given = recording()
    given.raw.rename_channels({"Cz": "EEG Cz-REF"})
    by_file = cut_trials(given.by_electrodes(), replace(P, reference=("EEG Cz-REF",)), TASKS, "01")
    assert by_file.channels == ("C3", "C4")


def test_a_flat_channel_of_cut_trials_is_named():
    def flat(signals):
        signals[2] = 3e-6

    with pytest.raises(InputError, match=r"race1\.npy: channel 'C4' is flat"):
        cut_trials(cut_recording(change=flat), P, TASKS, "01")


RATES = [80.0, 100.0, 124.837, 125.0, 128.0, 160.0, 160.25, 200.0, 250.0, 300.3, 500.0, 512.0, 1000.0, 2048.0]


def wave(t):
    """Four sines within the band, microvolts: known at every moment."""
    return 10 * sum(np.sin(2 * np.pi * f * t + f) for f in (7.3, 11.9, 17.1, 23.7))


@pytest.mark.parametrize("odd", [0, 1, 13])
@pytest.mark.parametrize("sfreq", RATES)
def test_no_rate_or_length_moves_the_signal_against_its_cue(sfreq, odd):
    """Of a signal that is known everywhere, also late in a recording: 1 ms would be 1.4 microvolts."""
    t, cue = np.arange(int(60 * sfreq) + odd) / sfreq, 52.11
    signals = 1e-6 * np.stack([wave(t), wave(t + 0.3)])
    raw = mne.io.RawArray(signals, mne.create_info(["C3", "C4"], sfreq, "eeg"), verbose="ERROR")
    raw.set_annotations(mne.Annotations([cue], 4.0, ["left"]))
    (trial,) = cut_trials(Recording(raw, "ses", "run", "a.edf"), P, TASKS, "01").signals
    times = round(cue * P.sfreq) / P.sfreq + P.window[0] + np.arange(P.n_times) / P.sfreq
    np.testing.assert_allclose(trial, [wave(times), wave(times + 0.3)], rtol=0, atol=0.1)


@pytest.mark.parametrize("odd", [0, 1, 7])
@pytest.mark.parametrize("sfreq", [125.0, 160.25, 250.0, 500.0])
def test_no_rate_or_length_moves_trials_that_were_cut_before(sfreq, odd):
    t = np.arange(int(8 * sfreq) + odd) / sfreq
    signals = 1e-6 * np.stack([[wave(t), wave(t + 0.3)]])
    info = mne.create_info(["C3", "C4"], sfreq, "eeg")
    epochs = mne.EpochsArray(signals, info, [[0, 0, 1]], event_id={"left": 1}, verbose="ERROR")
    preprocessing = Preprocessing(128.0, (3.0, 6.0), (4.0, 38.0))
    (trial,) = cut_trials(Recording(epochs, "training", "1", "a.npy"), preprocessing, TASKS, "01").signals
    np.testing.assert_allclose(trial[0], wave(3.0 + np.arange(384) / 128.0), rtol=0, atol=0.5)


def test_the_first_sample_of_a_file_need_not_be_its_first_moment():
    """A FIF file begins where its recorder was switched on: cues count from there."""
    first = recording().raw
    later = mne.io.RawArray(first.get_data(), first.info, first_samp=1000, verbose="ERROR")
    later.set_meas_date(0)
    later.set_annotations(mne.Annotations(first.annotations.onset + 4.0, 4.0, first.annotations.description, 0))
    moved = cut_trials(Recording(later, "ses", "run", "a.fif"), P, TASKS, "01")
    np.testing.assert_array_equal(moved.signals, cut_trials(recording(), P, TASKS, "01").signals)


def test_a_reference_is_taken_away_from_all_channels():
    plain = cut_trials(recording(), P, TASKS, "01")
    average = cut_trials(recording(), replace(P, reference="average"), TASKS, "01")
    assert np.abs(average.signals.mean(axis=1)).max() < 1e-4
    assert np.allclose(average.signals, plain.signals - plain.signals.mean(axis=1, keepdims=True), atol=1e-3)
    to_cz = cut_trials(recording(), replace(P, reference=("cz",)), TASKS, "01")
    assert to_cz.channels == ("C3", "C4")
    assert np.allclose(to_cz.signals, plain.signals[:, [0, 2]] - plain.signals[:, 1:2], atol=1e-3)
    with pytest.raises(InputError, match=r"no channel 'Mz'.*which is the reference"):
        cut_trials(recording(), replace(P, reference=("Mz",)), TASKS, "01")


def with_bad(names=("C3", "C1", "Cz", "C2", "C4")):
    rng = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * 10 * np.arange(7500) / 250.0)
    signals = 1e-5 * wave + 1e-7 * rng.normal(size=(len(names), 7500))
    signals[2] = 1e-3 * rng.normal(size=7500)
    raw = mne.io.RawArray(signals, mne.create_info(list(names), 250.0, "eeg"), verbose="ERROR")
    raw.set_annotations(mne.Annotations([5.0, 12.0], 4.0, ["left", "right"]))
    raw.info["bads"] = [names[2]]
    return Recording(raw, "ses", "run", "sub-01_eeg.edf")


def test_bad_channels_are_kept_dropped_or_interpolated():
    kept = with_bad()
    assert cut_trials(kept, P, TASKS, "01").channels == ("C3", "C1", "Cz", "C2", "C4")
    dropped = with_bad()
    assert cut_trials(dropped, replace(P, bad_channels="drop"), TASKS, "01").channels == ("C3", "C1", "C2", "C4")
    assert "left out ['Cz'], which the recording calls bad" in dropped.notes
    mended = with_bad()
    trials = cut_trials(mended, replace(P, bad_channels="interpolate"), TASKS, "01")
    near, cz = trials.signals[:, 1], trials.signals[:, 2]
    assert np.corrcoef(near.ravel(), cz.ravel())[0, 1] > 0.99 and "interpolated ['Cz']" in mended.notes[0]
    with pytest.raises(InputError, match="its bad channels cannot be interpolated"):
        cut_trials(with_bad(("C3", "C1", "X", "C2", "C4")), replace(P, bad_channels="interpolate"), TASKS, "01")


@pytest.mark.parametrize(
    "changed",
    [{"bad_channels": "drop"}, {"reference": ("C3", "Cz", "C4")}, {"reference": ("Cz",), "bad_channels": "drop"}],
)
def test_a_contract_that_leaves_no_channel_is_one_line(changed):
    one = recording()
    one.raw.info["bads"] = ["C3", "C4", "Cz"]
    with pytest.raises(InputError, match="its channels do not fit the contract's reference"):
        cut_trials(one, replace(P, **changed), TASKS, "01")


def test_trials_above_the_amplitude_limit_are_left_out_and_counted():
    def jump(signals):
        signals[1, int(13 * 250.0)] += 2e-3  # in the second trial

    one = recording(change=jump)
    trials = cut_trials(one, replace(P, reject=150.0), TASKS, "01")
    assert trials.labels.tolist() == ["left_hand"] and "1 of 2 trials above 150 microvolts are left out" in one.notes
    assert len(cut_trials(recording(change=jump), P, TASKS, "01")) == 2
