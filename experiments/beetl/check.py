"""BEETL's files as a whole: fetch them through MOABB, and check them before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch

from data.beetl import (
    LABEL_FILE,
    TARGETS,
    A,
    TargetDataset,
    check_sums,
    files,
    phase_folder,
    read_labels,
    read_signals,
    write_sums,
)
from data.beetl_answer import read_true_labels
from data.errors import InputError
from data.plausible import amplitude

MU = (8.0, 13.0)  # Hz
DATA_SET = "Beetl2021_A"  # MOABB would fetch everything a second time for Beetl2021_B


def fetch_competition(phase: str, to: Path | None = None) -> Path:
    """Download both phases and the final labels through MOABB, which checks the archives' published hashes.

    Returns
    -------
    Path
        The folder, with ``SHA256SUMS`` of all files as they were unpacked.

    Raises
    ------
    InputError
        When MOABB cannot fetch them, or what is there is not whole: MOABB takes a folder for whole when it exists.
    """
    import moabb
    from moabb.datasets import Beetl2021_A

    moabb.set_log_level("ERROR")
    try:
        (folder,) = Beetl2021_A(phase=phase).data_path(1, path=None if to is None else str(to))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{DATA_SET}: MOABB cannot fetch it ({reason[0] if reason else type(error).__name__}); fetch the figshare"
            " articles 14839650, 16586213 and 21602622 by hand, unpack them into one folder, and check that"
        ) from error
    root = Path(folder)
    try:
        if check_sums(root) == 0:
            if read_true_labels(root) is None:
                raise InputError(f"{root / LABEL_FILE}: missing")
            for name in ("final", "leaderboard"):
                check_competition(root, name, {})
            write_sums(root)
    except InputError as error:
        raise InputError(f"{error}; or remove all of {root}, so that MOABB fetches it anew") from error
    return root


@dataclass(frozen=True)
class SubjectCheck:
    """What was found of one subject: labelled and test trials, scale, and how often each code occurs."""

    target: str
    subject: str
    n_labelled: int
    n_test: int
    unit: str
    amplitude: float  # median deviation, microvolts
    counts: tuple[int, ...]


@dataclass(frozen=True)
class CodeCheck:
    """Mu power of one code of A's labelled trials against the mean of all codes, dB; with standard errors.

    Imagery of a hand lowers mu power on the far side: under C4 for the left hand, under C3 for the right one.
    `lateral` is C3 minus C4, highest for the left hand and lowest for the right one; `of_subjects` is the same of each
    subject.
    """

    code: int
    meaning: str
    n_trials: int
    c3: float
    c4: float
    lateral: float
    lateral_error: float
    of_subjects: tuple[float | None, ...]  # None where a subject has no trial of the code


@dataclass(frozen=True)
class CompetitionCheck:
    """What `mfscsn beetl check` found."""

    root: Path
    phase: str
    subjects: tuple[SubjectCheck, ...]
    codes: tuple[CodeCheck, ...]
    n_sums: int
    n_labels: int


def check_competition(root: Path, phase: str, units: Mapping[str, str]) -> CompetitionCheck:
    """Read every file of a phase; raise InputError for the first one that is missing or not what it should be."""
    n_sums = check_sums(root)
    folder = phase_folder(root, phase)
    subjects, power, codes = [], [], []
    for target in TARGETS.values():
        for subject in target.subjects[phase]:
            check, signals, labels = _check_subject(folder, target, subject, units.get(target.name))
            subjects.append(check)
            if target is A:
                power.append(_mu_power(signals, target))
                codes.append(labels)
    truth = read_true_labels(root)
    return CompetitionCheck(
        root, phase, tuple(subjects), _weigh_codes(power, codes), n_sums, 0 if truth is None else len(truth)
    )


def _check_subject(
    folder: Path, target: TargetDataset, subject: str, unit: str | None
) -> tuple[SubjectCheck, NDArray[np.float64], NDArray[np.int64]]:
    labelled, codes, deviations, n_test = [], [], [], 0
    for file in files(folder, target, subject):
        signals = read_signals(file, target, unit)
        deviations.append(amplitude(signals) * 1e6)
        if file.labels is None:
            n_test += len(signals)
        else:
            labelled.append(signals)
            codes.append(read_labels(file, target, len(signals)))
    counts = np.bincount(np.concatenate(codes), minlength=len(target.tasks))
    check = SubjectCheck(
        target.name,
        subject,
        int(counts.sum()),
        n_test,
        unit or target.unit,
        float(np.median(deviations)),
        tuple(counts.tolist()),
    )
    return check, np.concatenate(labelled), np.concatenate(codes)


def _mu_power(signals: NDArray[np.float64], target: TargetDataset) -> NDArray[np.float64]:
    """Log power at C3 and C4 of trials, dB, against the subject's own mean over trials: ``(n_trials, 2)``."""
    at = [target.channels.index("C3"), target.channels.index("C4")]
    frequencies, density = welch(signals[:, at], target.sfreq, nperseg=round(target.sfreq))
    band = (frequencies >= MU[0]) & (frequencies <= MU[1])
    decibel = 10 * np.log10(density[:, :, band].mean(axis=2))
    centred: NDArray[np.float64] = decibel - decibel.mean(axis=0)
    return centred


def _weigh_codes(power: list[NDArray[np.float64]], codes: list[NDArray[np.int64]]) -> tuple[CodeCheck, ...]:
    checks = []
    for code, meaning in enumerate(A.tasks):
        of_code = [values[labels == code] for values, labels in zip(power, codes, strict=True)]
        trials = np.concatenate(of_code)
        if len(trials) < 2:
            continue
        lateral = trials[:, 0] - trials[:, 1]
        c3, c4 = trials.mean(axis=0)
        checks.append(
            CodeCheck(
                code,
                meaning,
                len(trials),
                float(c3),
                float(c4),
                float(lateral.mean()),
                float(lateral.std(ddof=1) / np.sqrt(len(lateral))),
                tuple(float((v[:, 0] - v[:, 1]).mean()) if len(v) else None for v in of_code),
            )
        )
    return tuple(checks)
