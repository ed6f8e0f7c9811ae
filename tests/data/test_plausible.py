import numpy as np
import pytest

from data.plausible import amplitude, found_unit, hum, implausible, without_electrode


def test_the_amplitude_is_the_median_deviation():
    signals = np.stack([[[-k, k] for k in (1.0, 2.0, 30.0)]])  # deviations of 1, 2 and 30
    assert amplitude(signals) == 2.0
    assert found_unit(signals) == "microvolts" and found_unit(1e-6 * signals) == "volts"


@pytest.mark.parametrize(("microvolts", "fits"), [(0.04, False), (0.06, True), (30, True), (900, True), (1100, False)])
def test_eeg_deviates_by_tenths_to_hundreds_of_microvolts(microvolts, fits):
    signals = np.array([[[-microvolts, microvolts]]], np.float32)
    assert (implausible(signals) is None) == fits


@pytest.mark.parametrize(
    "name",
    ["EOG", "HEOG", "vEOG1", "EOG-left", "ECG", "EKG", "EMG1", "ACC_X", "AccelX", "STI 014", "Trigger", "STATUS"],
)
def test_names_of_what_is_on_no_scalp(name):
    assert without_electrode([name]) == [name]


def test_electrodes_of_the_ten_five_system_are_electrodes():
    import mne

    names = mne.channels.make_standard_montage("standard_1005").ch_names
    more = ["A1", "M2", "EEG 001", "E12", "Fp1-Ref", "CH1", "Respz"[:2], "St1"]
    assert without_electrode([*names, *more]) == []


@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_hum_is_told_in_decibels(mains):
    """White noise of 1, and a sine: its line's power over the noise's density, at a resolution of half a hertz."""
    sfreq, times = 250.0, np.arange(60 * 250) / 250.0
    noise = np.random.default_rng(0).standard_normal((3, len(times)))
    assert hum(noise, sfreq) == []
    (line,) = hum(noise + 5 * np.sin(2 * np.pi * mains * times), sfreq)
    assert line.startswith(f"mains: {mains:g} Hz stand 3")  # 12.5 / (2 / 250) / 0.75 Hz are 33 dB
    assert hum(noise + 0.2 * np.sin(2 * np.pi * mains * times), sfreq) == []
    assert hum(noise[:, :6000] + 5 * np.sin(2 * np.pi * 40 * times[:6000]), 90.0) == []  # the mains are not in it


def test_hum_of_a_recording_too_short_to_tell_is_not_told():
    assert hum(np.zeros((2, 40)), 250.0) == []
