"""Trials from Python, and back."""

import mne
import numpy as np
import pandas as pd
import pytest
from conftest import mfscsn, refused

from data.arrays import ArraysSource, save_trials
from data.errors import InputError
from data.preprocessing import Preprocessing, cut_trials

RNG = np.random.default_rng(0)
SIGNALS = RNG.normal(size=(12, 3, 256)) * 10  # microvolts
NONE = np.array([], dtype=str)


def arrays(**changed):
    whole = {
        "signals": SIGNALS,
        "labels": np.array(["left", "right"] * 6),
        "subjects": np.repeat(["x", "y"], 6),
        "channels": np.array(["C3", "Cz", "C4"]),
        "sfreq": 128.0,
        "runs": np.array(["1", "1", "1", "2", "2", "2"] * 2),
    }
    return {k: v for k, v in (whole | changed).items() if v is not None}


def written(path, **changed):
    np.savez(path, **arrays(**changed))
    return ArraysSource(path)


def test_one_number_may_stand_in_a_list(tmp_path):
    assert written(tmp_path / "a.npz", sfreq=np.array([128.0])).subjects() == ["x", "y"]


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_trials_come_back_by_subject_and_run(tmp_path, scale):
    source = written(tmp_path / "a.npz", signals=SIGNALS * scale)
    assert source.subjects() == ["x", "y"] and source.annotations() == {"left", "right"}
    first, second = source.recordings("y")
    assert [r.run for r in (first, second)] == ["1", "2"]
    assert np.allclose(first.raw.get_data() * 1e6, SIGNALS[6:9], atol=1e-3)
    cut = cut_trials(second, Preprocessing(64.0, (0.25, 1.75), (8.0, 30.0)), {"left": "l", "right": "r"}, "y")
    assert cut.signals.shape == (3, 3, 96) and cut.labels.tolist() == ["r", "l", "r"]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"labels": None}, "no labels in it; expected signals, labels"),
        ({"labels": np.array(["left"])}, r"labels has shape \(1,\) beside signals of shape \(12, 3, 256\)"),
        ({"channels": np.array(["C3"])}, r"channels has shape \(1,\)"),
        ({"signals": SIGNALS[0]}, "expected signals"),
        ({"sfreq": 0.0}, "sfreq is 0, expected Hz above 0"),
        ({"sfreq": np.array([1.0, 2.0])}, "expected one number"),
        ({"sfreq": "256"}, "expected one number"),
        ({"signals": SIGNALS.astype(str)}, "signals are no numbers"),
        (
            {"signals": SIGNALS[:0], "labels": np.array([], str), "subjects": np.array([], str), "runs": None},
            "no trial",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, changed, fault):
    with pytest.raises(InputError, match=fault):
        written(tmp_path / "a.npz", **changed)


def test_a_file_that_is_none_or_holds_objects_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ArraysSource(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as .npz"):
        ArraysSource(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **arrays(labels=np.array(["left", None] * 6, dtype=object)))
    with pytest.raises(InputError, match="names as arrays of text"):  # unpickled, a file could run code
        ArraysSource(tmp_path / "b.npz")


def epochs(metadata=None, tmin=-0.5):
    info = mne.create_info(["C3", "Cz", "C4", "EOG"], 128.0, ["eeg"] * 3 + ["eog"], verbose="ERROR")
    data = np.concatenate([SIGNALS, SIGNALS[:, :1]], axis=1) * 1e-6
    events = np.array([[k, 0, 1 + k % 2] for k in range(12)])
    return mne.EpochsArray(data, info, events, tmin, {"left": 1, "right": 2}, metadata=metadata, verbose="ERROR")


def test_epochs_become_a_file_with_their_metadata(tmp_path):
    table = pd.DataFrame({"subject": [1] * 6 + [2] * 6, "run": list("aab" * 4)})
    source = ArraysSource(save_trials(tmp_path / "a.npz", epochs(table)))
    assert source.subjects() == ["1", "2"] and [r.run for r in source.recordings("2")] == ["a", "b"]
    (one,) = ArraysSource(save_trials(tmp_path / "b.npz", epochs(), subject="s")).recordings("s")
    assert one.raw.tmin == -0.5 and np.allclose(one.raw.get_data(), SIGNALS * 1e-6, atol=1e-9)
    assert ArraysSource(save_trials(tmp_path / "c.npz", {"p": epochs(), "q": epochs()})).subjects() == ["p", "q"]
    with pytest.raises(ValueError, match="epochs without a subject"):
        save_trials(tmp_path / "d.npz", epochs())
    with pytest.raises(ValueError, match="the parts differ in tmin"):
        save_trials(tmp_path / "d.npz", {"p": epochs(), "q": epochs(tmin=0.0)})
    with pytest.raises(ValueError, match="give MNE epochs"):
        save_trials(tmp_path / "d.npz", SIGNALS)
    assert not (tmp_path / "d.npz").exists()


@pytest.mark.parametrize("as_epochs", [True, False])
def test_braindecodes_windows_become_a_file(tmp_path, as_epochs):
    datasets = pytest.importorskip("braindecode.datasets")
    from braindecode.preprocessing import create_windows_from_events

    raws = []
    for subject in (1, 2):
        info = mne.create_info(["C3", "Cz", "C4"], 128.0, "eeg", verbose="ERROR")
        raw = mne.io.RawArray(np.random.default_rng(subject).normal(size=(3, 128 * 40)) * 1e-5, info, verbose="ERROR")
        raw.set_annotations(mne.Annotations(5.0 + 5 * np.arange(6), 3.0, ["left", "right"] * 3))
        raws.append(datasets.RawDataset(raw, {"subject": subject, "run": "0"}))
    made = create_windows_from_events(
        datasets.BaseConcatDataset(raws), trial_start_offset_samples=-64, preload=True, use_mne_epochs=as_epochs
    )
    source = ArraysSource(save_trials(tmp_path / "w.npz", made))
    (recording,) = source.recordings("2")
    assert source.subjects() == ["1", "2"] and recording.raw.tmin == -0.5 and recording.run == "0"
    assert np.allclose(recording.raw.get_data()[0], raws[1].raw.get_data()[:, 576:1024], atol=1e-9)
    assert [recording.raw.event_id] == [{"left": 1, "right": 2}]


def test_from_arrays_to_a_federations_file(tmp_path):
    n = 60
    rng = np.random.default_rng(1)
    np.savez(
        tmp_path / "trials.npz",
        signals=rng.normal(size=(n, 3, 128 * 4)) * 10,
        labels=np.array(["left", "right"] * (n // 2)),
        subjects=np.repeat(["x", "y", "z"], n // 3),
        channels=np.array(["C3", "Cz", "C4"]),
        sfreq=128.0,
        tmin=0.5,
    )
    code, out, err = mfscsn("new", "fed.toml", "--site", "lab=trials.npz", cwd=tmp_path)
    assert code == 0 and "trials.npz: 3 subjects, 3 channels, 128 Hz; tasks left, right; targets z" in out, err
    text = (tmp_path / "fed.toml").read_text()
    assert 'source = "arrays:trials.npz"' in text and "window = [0.5, 3.5]" in text
    code, _, err = mfscsn("prepare", "fed.toml", cwd=tmp_path)
    assert code == 0, err
    assert "cut into trials already" in refused("to-bids", "trials.npz", "out", cwd=tmp_path)


def test_channels_that_are_bad_go_with_the_trials(tmp_path):
    """Two ways in, the same data and contract, the same trials."""
    info = mne.create_info(["C3", "Cz", "C4"], 128.0, "eeg")
    events = np.array([[256 * k, 0, 1 + k % 2] for k in range(12)])
    epochs = mne.EpochsArray(SIGNALS * 1e-6, info, events, 0.0, {"left": 1, "right": 2}, verbose="ERROR")
    epochs.info["bads"] = ["Cz"]
    contract = Preprocessing(64.0, (0.25, 1.75), (8.0, 30.0), bad_channels="drop")
    source = ArraysSource(save_trials(tmp_path / "a.npz", epochs, "x"))
    (recording,) = source.recordings("x")
    got = cut_trials(recording, contract, {"left": "l", "right": "r"}, "x")
    assert got.channels == ("C3", "C4") and any("which the recording calls bad" in note for note in recording.notes)
    other = epochs.copy()
    other.info["bads"] = []
    with pytest.raises(ValueError, match="the parts differ in bads"):
        save_trials(tmp_path / "b.npz", {"x": epochs, "y": other})
    with pytest.raises(InputError, match="bads names Pz, which are none of its channels"):
        written(tmp_path / "c.npz", bads=np.array(["Pz"]))


def test_names_as_bytes_and_signals_in_half_precision(tmp_path):
    labels = np.array(["händisch".encode(), b"right"] * 6)
    source = written(tmp_path / "a.npz", labels=labels, signals=SIGNALS.astype(np.float16))
    assert source.annotations() == {"händisch", "right"}
    (first, _) = source.recordings("x")
    np.testing.assert_allclose(first.raw.get_data() * 1e6, SIGNALS.astype(np.float16)[:3].astype(float), rtol=1e-6)
    with pytest.raises(InputError, match="labels are bytes that are no UTF-8"):
        written(tmp_path / "b.npz", labels=np.array([b"\xff", b"right"] * 6))


def test_an_amplifiers_names_are_seen_through_and_one_subject_in_another_unit_is_refused(tmp_path):
    source = written(tmp_path / "a.npz", channels=np.array(["EEG C3-REF", "Cz.", "C4"]))
    recording = next(source.recordings("x"))
    assert recording.raw.ch_names == ["C3", "Cz", "C4"] and "'EEG C3-REF' is 'C3'" in recording.notes[0]
    mixed = SIGNALS.copy()
    mixed[9:] *= 1e-6
    source = written(tmp_path / "b.npz", signals=mixed, subjects=np.array(["x"] * 9 + ["y"] * 3))
    with pytest.raises(InputError, match="subject y: its signals are volts, most of the file's are microvolts"):
        next(source.recordings("y"))
