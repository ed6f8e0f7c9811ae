import numpy as np
import pytest

from data.errors import InputError
from data.preprocessing import Preprocessing, cut_trials
from data.sources import open_source


@pytest.fixture
def bids(tmp_path):
    """A BIDS folder written by MNE-BIDS: two subjects, two runs each."""
    import mne
    import mne_bids

    rng = np.random.default_rng(0)
    for subject in ("01", "02"):
        for run in ("1", "2"):
            info = mne.create_info(["C3", "Cz", "C4"], 128.0, "eeg", verbose="ERROR")
            info["line_freq"] = 50
            raw = mne.io.RawArray(1e-5 * rng.normal(size=(3, 128 * 40)), info, verbose="ERROR")
            raw.set_annotations(mne.Annotations([5, 15, 25], 4.0, ["left_hand", "right_hand", "rest"]))
            path = mne_bids.BIDSPath(subject=subject, run=run, task="imagery", root=tmp_path, datatype="eeg")
            mne_bids.write_raw_bids(raw, path, allow_preload=True, format="EDF", overwrite=True, verbose="ERROR")
    return tmp_path


def test_bids_is_read_in_order_with_its_trial_types(bids):
    source = open_source(f"bids:{bids}")
    assert source.subjects() == ["01", "02"]
    recordings = list(source.recordings("01"))
    assert [r.run for r in recordings] == ["1", "2"] and recordings[0].where.endswith("_eeg.edf")
    p = Preprocessing(128.0, (0.5, 3.5), (4.0, 38.0))
    trials = cut_trials(recordings[0], p, {"left_hand": "left_hand", "rest": "rest"}, "01")
    assert trials.labels.tolist() == ["left_hand", "rest"]
    assert 2 < trials.signals.std() < 12


def test_bids_fingerprint_follows_the_files(bids):
    source = open_source(f"bids:{bids}")
    before = source.fingerprint("01"), source.fingerprint("02")
    events = next(bids.glob("sub-01/eeg/*events.tsv"))
    events.write_text(events.read_text() + "\n")
    assert source.fingerprint("01") != before[0] and source.fingerprint("02") == before[1]


def test_run_10_follows_run_2():
    from data.sources import _natural

    assert sorted(["run-10", "run-2", "run-1"], key=_natural) == ["run-1", "run-2", "run-10"]


def test_an_unreadable_file_is_named(bids):
    next(bids.glob("sub-01/eeg/*run-1_eeg.edf")).write_bytes(b"not an edf")
    with pytest.raises(InputError, match=r"run-1_eeg.edf: it, or its \*_events.tsv or .* cannot be read"):
        list(open_source(f"bids:{bids}").recordings("01"))


def test_events_without_trial_types_are_refused(bids):
    events = next(bids.glob("sub-01/eeg/*run-1_events.tsv"))
    events.write_text(events.read_text().replace("trial_type", "condition", 1))
    with pytest.raises(InputError, match=r"run-1_events.tsv: no column 'trial_type'; there are \['onset'"):
        list(open_source(f"bids:{bids}").recordings("01"))


def test_a_recording_that_ends_before_its_events_is_refused(bids):
    recording = next(bids.glob("sub-01/eeg/*run-1_eeg.edf"))
    content = recording.read_bytes()
    recording.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"run-1_eeg.edf: ends after .* s, but \d of 3 events in .* is the file cut"):
        list(open_source(f"bids:{bids}").recordings("01"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bids:/no/such/folder", "bids:/no/such/folder: no such folder"),
        ("moabb:PhysionetMj", "MOABB has no such data set; did you mean 'PhysionetMI'"),
        ("edf:x", "source 'edf:x': expected one of bids:..., moabb:..., beetl:..., simulated:..."),
    ],
)
def test_what_cannot_be_opened_is_named(spec, message):
    with pytest.raises(InputError, match=message):
        open_source(spec)


def test_a_folder_that_is_no_bids_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no sub-\* folder"):
        open_source(f"bids:{tmp_path}")
