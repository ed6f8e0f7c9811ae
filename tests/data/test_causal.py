"""What a running stream gives equals what the whole recording gives, and nothing looks ahead."""

import mne
import numpy as np
import pytest

from data.causal import CausalFilter, TrialCutter
from data.preprocessing import Preprocessing, Recording, cut_trials

P = Preprocessing(128.0, (0.25, 3.5), (4.0, 38.0), filter="causal")


def chunks(signals, seed=0):
    rng, at = np.random.default_rng(seed), 0
    while at < signals.shape[1]:
        size = int(rng.integers(1, 60))
        yield signals[:, at : at + size]
        at += size


def test_a_filter_goes_on_from_chunk_to_chunk_and_begins_at_rest():
    x = np.random.default_rng(0).normal(size=(3, 2000)) + 1000.0
    whole = CausalFilter((4.0, 38.0), 250.0)(x)
    going = CausalFilter((4.0, 38.0), 250.0)
    np.testing.assert_allclose(np.concatenate([going(part) for part in chunks(x)], axis=1), whole, atol=1e-9)
    assert np.abs(whole[:, :5]).max() < 10  # the offset of 1000 rings nowhere
    later = x.copy()
    later[:, 1000:] = 0
    assert np.array_equal(CausalFilter((4.0, 38.0), 250.0)(later)[:, :1000], whole[:, :1000])


def test_an_odd_rate_is_cut_as_well():
    cutter = TrialCutter(P.band, P.window, 249.98, P.sfreq, memory=5.0)
    for part in chunks(np.random.default_rng(0).normal(size=(2, 15000))):
        cutter.push(part)
    assert cutter.cut(55.0).shape == (2, 416)


@pytest.mark.parametrize("sfreq", [128.0, 160.0, 250.0, 500.0, 512.0])
def test_trials_of_a_stream_are_those_of_the_recording(sfreq):
    signals = 1e-5 * np.random.default_rng(0).normal(size=(2, int(60 * sfreq)))
    cues = [2.0, 10.123, 40.7, 50.005]
    raw = mne.io.RawArray(signals, mne.create_info(["C3", "C4"], sfreq, "eeg"), verbose="ERROR")
    raw.set_annotations(mne.Annotations(cues, 0, ["left"] * 4))
    wanted = cut_trials(Recording(raw, "", "", ""), P, {"left": "left"}, "s").signals
    cutter, found = TrialCutter(P.band, P.window, sfreq, P.sfreq), {}
    for part in chunks(1e6 * signals):
        cutter.push(part)
        for cue in cues:
            if cue not in found and (trial := cutter.cut(cue)) is not None:
                found[cue] = trial
                assert cutter.n_pushed / sfreq - (cue + P.window[1]) < cutter.delay + 60 / sfreq + 0.02
    assert cutter.delay < 0.1
    np.testing.assert_allclose(np.stack([found[cue] for cue in cues]), wanted, atol=2e-5)


def test_a_trial_that_is_no_longer_kept_is_said():
    cutter = TrialCutter(P.band, P.window, 128.0, 128.0, memory=5.0)
    for part in chunks(np.random.default_rng(0).normal(size=(2, 128 * 20))):
        cutter.push(part)
    with pytest.raises(ValueError, match=r"the cue at 10.000 s begins before 15.0 s"):
        cutter.cut(10.0)
    assert cutter.cut(17.0) is None
