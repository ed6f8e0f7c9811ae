"""The last lines of `prepare`: what a user should know of recordings that were taken."""

import re

import mne
import numpy as np
import pytest
from conftest import federation_of, write_bids

from data.errors import InputError
from experiments.prepare import prepare_sites
from experiments.remarks import remarks

TEXT = """
name = "one"
[contract]
window = [0.5, 2.5]
[[site]]
name = "north"
[[site.dataset]]
source = "bids:study"
tasks = ["left_hand", "right_hand"]
targets = ["02"]
calibration = {{ first = {first} }}
"""


@pytest.fixture
def folder(tmp_path):
    write_bids(tmp_path / "study", ["01", "02"], ["1", "2"], ["C3", "Cz", "C4"])
    return tmp_path


def lines_of(folder, first=8):
    federation = prepare_sites(federation_of(TEXT.format(first=first), folder), folder / "store")
    return remarks(federation, folder / "store")


def change_edf(folder, subject, run, change):
    """Write a recording again with other samples."""
    path = folder / f"study/sub-{subject}/eeg/sub-{subject}_task-mi_run-{run}_eeg.edf"
    raw = mne.io.read_raw(path, preload=True, verbose="ERROR")
    change(raw._data)
    mne.export.export_raw(path, raw, overwrite=True, verbose="ERROR")


def test_annotations_without_a_task_are_listed_with_counts(folder):
    assert "Site north, data set study: annotations that no task names: rest 32." in lines_of(folder)


def test_a_recording_whose_cues_come_at_another_pace_is_named(folder):
    events = folder / "study/sub-01/eeg/sub-01_task-mi_run-2_events.tsv"
    head, *rows = events.read_text().splitlines()
    faster = [re.sub(r"^[\d.]+", lambda onset: str(0.8 * float(onset[0])), row) for row in rows]
    events.write_text("\n".join([head, *faster]) + "\n")
    assert any("Site north, subject 01: cues are usually 7.20 s apart" in line for line in lines_of(folder))


def test_a_recording_far_louder_than_the_others_is_named(folder):
    change_edf(folder, "01", "2", lambda signals: np.multiply(signals, 20, out=signals))
    (line,) = [line for line in lines_of(folder) if "deviate" in line]
    assert (
        line.startswith("Site north, data set study: subject 01, 2: channels deviate by")
        and "is the unit right" in line
    )


def test_a_channel_far_louder_than_the_others_is_named(folder):
    change_edf(folder, "01", "2", lambda signals: np.multiply(signals[1], 40, out=signals[1]))
    assert any("subject 01: channel 'Cz' deviates by" in line for line in lines_of(folder))


def test_a_calibration_of_one_class_is_named(folder):
    events = folder / "study/sub-02/eeg/sub-02_task-mi_run-1_events.tsv"
    events.write_text(events.read_text().replace("right_hand", "left_hand"))
    wanted = "target 02: the calibration holds trials of left_hand alone"
    assert any(wanted in line for line in lines_of(folder)) and not any(wanted in line for line in lines_of(folder, 12))


def test_a_recording_that_lies_there_twice_is_refused(folder):
    path = folder / "study/sub-01/eeg"
    for copy in list(path.glob("*run-1_*")):
        (path / copy.name.replace("run-1", "run-3")).write_bytes(copy.read_bytes())
    with pytest.raises(InputError, match=r"subject '01' has one trial twice, in session '', run '1' and in .* run '3'"):
        lines_of(folder)


def test_subjects_whose_channels_differ_in_case_alone_are_read(folder):
    for path in (folder / "study/sub-02/eeg").glob("*channels.tsv"):
        path.write_text(path.read_text().replace("Cz", "CZ"))
    assert not any("CZ" in line for line in lines_of(folder))


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (["C3", "Cz", "C4"], []),
        (["CP1", "FC6", "Oz"], []),
        (["O1", "Oz", "O2"], ["no electrode near C3 and C4"]),
        (["C3", "Fz", "Pz"], ["no electrode near C4"]),
    ],
)
def test_a_headset_far_from_the_motor_strip_is_named_in_the_common_space(tmp_path, channels, words):
    write_bids(tmp_path / "study", ["01", "02"], ["1", "2"], channels)
    text = TEXT.replace("[contract]", '[contract]\nextractor = "common-space"\nelectrodes = ["C3", "Cz", "C4", "Fz"]')
    federation = prepare_sites(federation_of(text.format(first=8), tmp_path), tmp_path / "store")
    *_, said, about_size = ["", *remarks(federation, tmp_path / "store")]
    assert "has 4 electrodes, and no headset more than 3 channels: what none of them sees is 0" in about_size
    assert [w in said for w in words] == [True] * len(words) and ("no electrode" in said) == bool(words)


def test_channels_that_the_common_space_cannot_place_are_named(tmp_path):
    write_bids(tmp_path / "study", ["01", "02"], ["1", "2"], ["C3", "E12", "Fcz1"])
    text = TEXT.replace("[contract]", '[contract]\nextractor = "common-space"').format(first=8)
    with pytest.raises(InputError) as caught:
        lines = prepare_sites(federation_of(text, tmp_path), tmp_path / "store")
        remarks(lines, tmp_path / "store")
    assert "site 'north', data set 'study': no position on the scalp is known of 'E12'" in str(caught.value)
    assert "'Fcz1' (nearest: 'FCz')" in str(caught.value) and "channels = [...]" in str(caught.value)
