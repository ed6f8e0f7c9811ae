"""The simulated competition: complete, in the organisers' form, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from conftest import planted_trials

from data.beetl import A, B, files, read_signals
from data.beetl_simulated import _simulated_trials, _write_subject, simulate_competition
from data.errors import InputError
from data.pickled import read_array


def test_it_has_all_files_and_balanced_labels(competition):
    for phase, subjects in {"finalMI": 5, "leaderboardMI": 5}.items():
        assert len(list((competition / phase).iterdir())) == subjects
    assert len(list(competition.rglob("*.npy"))) == 5 * 20 + 5 * 3
    labels = np.loadtxt(competition / "final_MI_label.txt", dtype=int).reshape(5, 200)
    assert [np.bincount(row).tolist() for row in labels] == [[50, 50, 100]] * 5


def test_files_are_pickles_as_numpy_1_wrote_them(competition):
    head = (competition / "finalMI/S1/training/race1_padsData.npy").read_bytes()[:100]
    assert head.startswith(b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n")


@pytest.mark.parametrize(
    ("target", "subject", "first", "shape"),
    [
        (A, "S1", "training/race1_padsData.npy", (20, 63, 2000)),
        (B, "S4", "training/training_s4X.npy", (120, 32, 800)),
    ],
)
def test_files_have_the_published_shape_and_scale(tmp_path, target, subject, first, shape):
    signals, codes = planted_trials(target, 1, 3)
    _write_subject(tmp_path, target, subject, signals, codes)
    written = read_array(tmp_path / subject / first)
    assert written.shape == shape and (written.std() < 1e-4) == (target is A)  # A in volts, B in microvolts
    parts = [read_signals(file, target, None) for file in files(tmp_path, target, subject)]
    assert np.allclose(np.concatenate(parts), signals, rtol=1e-5, atol=0)


def test_a_broken_simulation_leaves_nothing(tmp_path):
    def fail(target, person, seed):
        if target is B:
            raise KeyboardInterrupt
        return planted_trials(target, person, seed)

    with pytest.raises(KeyboardInterrupt):
        simulate_competition(tmp_path / "new", trials=fail)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_also_when_it_is_this_one(tmp_path, monkeypatch):
    def tiny(target, person, seed):
        n = 300 if target.name == "A" else 320
        return np.full((n, 1, 1), 1e-5), np.arange(n) % 4

    monkeypatch.chdir(tmp_path)
    simulate_competition(Path(), trials=tiny)
    assert {path.name for path in tmp_path.iterdir()} == {
        "finalMI",
        "leaderboardMI",
        "final_MI_label.txt",
        "SHA256SUMS",
    }


def test_an_existing_folder_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        simulate_competition(tmp_path, trials=planted_trials)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_simulated_persons_repeat_and_differ():
    signals, codes = _simulated_trials(B, 1, 0)
    assert signals.shape == (320, 32, 800) and np.bincount(codes).tolist() == [80] * 4
    assert np.bincount(codes[:120]).tolist() == [30] * 4 and 1e-6 < np.median(signals.std(axis=2)) < 1e-4
    again, _ = _simulated_trials(B, 1, 0)
    other, _ = _simulated_trials(B, 1, 1)
    assert np.array_equal(again, signals) and not np.allclose(other, signals)


def test_races_hold_every_task_five_times(competition):
    from data.beetl import A, read_labels

    for file in files(competition / "finalMI", A, "S2")[:5]:
        assert np.bincount(read_labels(file, A, 20)).tolist() == [5] * 4
