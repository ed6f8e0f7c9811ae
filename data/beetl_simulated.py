"""A complete BEETL motor-imagery competition, simulated: same folders, names, pickling and scales, known labels."""

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.beetl import FOLDERS, LABEL_FILE, N_TEST, SUMS_FILE, TARGETS, VOLTS, TargetDataset, files, write_sums
from data.errors import InputError
from data.files import replaced
from data.preprocessing import Recording
from data.simulated import Centre, SimulatedImagery

# As many runs, and trials of each task in each, as the competition has: races of A; 120 + 200 trials of B
RUNS = {"A": (15, 5), "B": (8, 10)}
# So that the organisers' baseline stands near the 49.9 it is published with; set by looking at the baseline alone
DEPTH, NOISE = 0.6, 0.8
CutTrials = tuple[NDArray[np.float64], NDArray[np.int64]]  # volts (n_trials, n_chans, n_times), codes (n_trials,)


def simulate_competition(
    root: Path,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    trials: Callable[[TargetDataset, int, int], CutTrials] | None = None,
) -> None:
    """Write both phases, the final phase's labels and ``SHA256SUMS`` into a new folder; whole, or not at all.

    Parameters
    ----------
    root : Path
    seed : int
        Of all subjects. The three source data sets are simulated when they are prepared, with seeds of their own.
    progress : callable
        Called with the subject, how many are done, and how many there are.
    trials : callable, optional
        Gives a person's trials as ``trials(target, person, seed)``; by default those of a simulated centre.

    Raises
    ------
    InputError
        When something lies at `root` already.
    """
    root = root.resolve()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: already exists; give another folder, or remove it")
    make = trials or _simulated_trials
    subjects = [
        (phase, t, s) for phase in ("final", "leaderboard") for t in TARGETS.values() for s in t.subjects[phase]
    ]
    persons = dict.fromkeys(TARGETS, 0)  # nobody takes part in both phases
    truth = []
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        whole = Path(scratch) / "whole"
        for done, (phase, target, subject) in enumerate(subjects, 1):
            persons[target.name] += 1
            signals, codes = make(target, persons[target.name], seed)
            _write_subject(whole / FOLDERS[phase], target, subject, signals, codes)
            if phase == "final":
                truth.append(np.minimum(codes[-N_TEST:], 2))
            progress(f"{FOLDERS[phase]} {subject}", done, len(subjects))
        (whole / LABEL_FILE).write_text("".join(f"{code}\n" for code in np.concatenate(truth)))
        write_sums(whole)
        root.mkdir(exist_ok=True)
        for part in sorted(whole.iterdir(), key=lambda path: path.name == SUMS_FILE):  # the sums last: then it is whole
            part.rename(root / part.name)


def dump(array: NDArray[Any], path: Path) -> None:
    """Pickle an array as numpy 1 did when the competition's files were made; its functions had another home then."""
    content = pickle.dumps(array, protocol=3)
    with replaced(path) as out:
        out.write(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1))


def _write_subject(
    folder: Path, target: TargetDataset, subject: str, signals: NDArray[np.float64], codes: NDArray[np.int64]
) -> None:
    at = 0
    for file in files(folder, target, subject):
        n = file.n_trials or len(codes) - N_TEST
        dump(signals[at : at + n] / VOLTS[target.unit], file.signals)
        if file.labels is not None:
            dump(codes[at : at + n], file.labels)
        at += n


def _simulated_trials(target: TargetDataset, person: int, seed: int) -> CutTrials:
    n_runs, n_trials = RUNS[target.name]
    centre = Centre(
        montage=list(target.channels),
        sfreq=target.sfreq,
        tasks=list(target.tasks),
        n_subjects=person,
        n_runs=n_runs,
        n_trials=n_trials,
        depth=DEPTH,
        noise=NOISE,
        seed=10 * seed + list(TARGETS).index(target.name) + 500,
    )
    runs = SimulatedImagery(centre).get_data([person])[person]["0"]
    parts = [_cut(Recording(runs[name], "", name, "simulated"), target) for name in runs]
    return np.concatenate([signals for signals, _ in parts]), np.concatenate([codes for _, codes in parts])


def _cut(recording: Recording, target: TargetDataset) -> CutTrials:
    """Filter and cut a run as the organisers did: 1 to 100 Hz, A without 50 Hz, 4 s from the cue."""
    raw = recording.raw
    raw.filter(1.0, 100.0 if target.sfreq > 200.0 else None, verbose="ERROR")
    if target.name == "A":
        raw.notch_filter(50.0, verbose="ERROR")
    signals = raw.get_data()
    starts = np.round(raw.annotations.onset * target.sfreq).astype(int)
    cut = np.stack([signals[:, start : start + target.n_times] for start in starts])
    return cut, np.array([target.tasks.index(name) for name in raw.annotations.description])
