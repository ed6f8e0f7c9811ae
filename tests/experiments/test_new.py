"""`mfscsn new`: from folders of recordings to a federation's file that trains."""

import mne
import mne_bids
import numpy as np
import pytest
from conftest import mfscsn, refused

from federation.contract import load_federation


def write_bids(root, subjects, runs, channels, sfreq=125.0, names=("left_hand", "right_hand"), n=4, pause=True):
    rng = np.random.default_rng(0)
    for subject in subjects:
        for run in runs:
            info = mne.create_info(channels, sfreq, "eeg", verbose="ERROR")
            info["line_freq"] = 50
            tasks = [name for _ in range(n) for name in names]
            onsets = 2.0 + 8.0 * np.arange(len(tasks))
            length = round(sfreq * (onsets[-1] + 10))
            raw = mne.io.RawArray(1e-5 * rng.normal(size=(len(channels), length)), info, verbose="ERROR")
            marks = mne.Annotations(onsets, 4.0, tasks)
            if pause:
                marks += mne.Annotations(onsets + 4.0, 4.0, "rest")
            raw.set_annotations(marks)
            path = mne_bids.BIDSPath(subject=subject, run=run, task="mi", root=root, datatype="eeg")
            mne_bids.write_raw_bids(raw, path, allow_preload=True, format="EDF", overwrite=True, verbose="ERROR")


@pytest.fixture
def folders(tmp_path):
    write_bids(tmp_path / "clinic", ["01", "02", "03", "04"], ["1", "2"], ["C3", "Cz", "C4", "FC1"])
    write_bids(tmp_path / "lab", ["a", "b"], ["1"], ["C3", "C4"], names=("feet", "rest"), pause=False)
    return tmp_path


def test_what_it_writes_is_read_and_trains(folders):
    sites = ("--site", "clinic=clinic", "--site", "lab=lab")
    code, out, err = mfscsn("new", "fed.toml", *sites, cwd=folders)
    assert code == 0, err
    assert "clinic: 4 subjects, 4 channels, 125 Hz; tasks left_hand, right_hand; targets 04" in out
    clinic, lab = load_federation(folders / "fed.toml").site
    assert clinic.dataset[0].tasks == ["left_hand", "right_hand"]  # rest between cues is no task
    assert clinic.dataset[0].calibration.runs == ["1"]
    assert lab.dataset[0].tasks == ["feet", "rest"] and lab.dataset[0].targets == ["a", "b"]
    assert lab.dataset[0].calibration.first == 2
    code, out, err = mfscsn("simulate", "fed.toml", "--rounds", "2", "--out", "run", cwd=folders)
    assert code == 0, err
    assert (folders / "run" / "report.html").exists()
    before = (folders / "fed.toml").read_bytes()
    assert "already exists" in refused("new", "fed.toml", *sites, cwd=folders)
    assert (folders / "fed.toml").read_bytes() == before


def test_what_cannot_be_looked_into_is_named(folders):
    def err(*sites):
        return refused("new", "x.toml", *[word for site in sites for word in ("--site", site)], cwd=folders)

    assert "no such folder" in err("clinic=nowhere")
    assert "--site clinic: expected NAME=FOLDER" in err("clinic")
    assert "'lab' stands there twice" in err("lab=lab", "lab=clinic")
    assert "expected letters, digits" in err("my lab=lab")
    write_bids(folders / "still", ["01"], ["1"], ["C3"], names=("rest",), pause=False)
    assert "subject '01' has the annotations {'rest': 4}" in err("still=still")
    assert not (folders / "x.toml").exists()
