"""BEETL, motor imagery: the competition's files, and what their codes mean.

Two target data sets, cut into 4 s trials: **A** (CybathlonIC, in races) and **B** (Weibo2014), each with a few labelled
trials and many unlabelled ones a subject, in two phases: leaderboard and final. docs/beetl.md has the traps.

References
----------
Wei et al. 2022, "2021 BEETL competition", PMLR 176:205-219. Data: figshare 14839650 (leaderboardMI), 16586213
(finalMI), 21602622 (labels of the final phase).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, nearest
from data.files import fingerprint, replaced, sha256
from data.pickled import read_array
from data.plausible import amplitude, found_unit
from data.preprocessing import Recording
from data.trials import UNLABELLED

FOLDERS: dict[str, str] = {"leaderboard": "leaderboardMI", "final": "finalMI"}
LABEL_FILE = "final_MI_label.txt"
SUMS_FILE = "SHA256SUMS"
N_TEST = 200  # trials a subject
VOLTS = {"volts": 1.0, "microvolts": 1e-6}


@dataclass(frozen=True)
class TargetDataset:
    """A target data set, as published.

    Parameters
    ----------
    name : str
    montage : str
        Channels, in the files' order.
    sfreq : float
        Hz.
    unit : str
        A key of `VOLTS`.
    tasks : tuple of str
        What the codes 0 to 3 of the training labels mean.
    subjects : mapping of phase to names
        In the organisers' order.
    """

    name: str
    montage: str
    sfreq: float
    unit: str
    tasks: tuple[str, ...]
    subjects: dict[str, tuple[str, ...]]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(self.montage.split())

    @property
    def n_times(self) -> int:
        """Samples of a 4 s trial."""
        return round(4 * self.sfreq)

    @property
    def answer_codes(self) -> dict[str, int]:
        """Task -> the code that is submitted for it: ``min(code, 2)``, so that 2 is whatever is left."""
        return {task: min(code, 2) for code, task in enumerate(self.tasks)} | {"other": 2}

    @property
    def answer_names(self) -> tuple[str, str, str]:
        """What the submitted codes 0, 1, 2 mean."""
        return (self.tasks[0], self.tasks[1], "other")


A = TargetDataset(
    "A",
    "Fp1 Fz F3 F7 FT9 FC5 FC1 C3 T7 TP9 CP5 CP1 Pz P3 P7 O1 Oz O2 P4 P8 TP10 CP6 CP2 C4 T8 FT10 FC6 FC2 F4 F8 Fp2"
    " AF7 AF3 AFz F1 F5 FT7 FC3 FCz C1 C5 TP7 CP3 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2 CPz CP4 TP8 C6 C2 FC4 FT8 F6 F2"
    " AF4 AF8",
    500.0,
    "volts",
    ("rest", "left_hand", "right_hand", "feet"),  # published in 2023 only; `mfscsn beetl check` weighs it
    {"leaderboard": ("S1", "S2"), "final": ("S1", "S2", "S3")},
)
B = TargetDataset(
    "B",
    "Fp1 Fp2 F3 Fz F4 FC5 FC1 FC2 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 P7 P5 P3 P1 Pz P2 P4 P6 P8",
    200.0,
    "microvolts",
    ("left_hand", "right_hand", "feet", "rest"),
    {"leaderboard": ("S3", "S4", "S5"), "final": ("S4", "S5")},
)
TARGETS = {"A": A, "B": B}
# Those that A, B, Cho2017, PhysionetMI and BNCI2014_001 all have
COMMON_MONTAGE = "Fz FC1 FC2 C5 C3 C1 C2 C4 C6 CP3 CP1 CPz CP2 CP4 P1 Pz P2"


@dataclass(frozen=True)
class File:
    """One file of trials: a race of A, or the training or testing trials of a subject of B.

    Parameters
    ----------
    part : {"training", "testing"}
    run : str
        "race6", or the part again.
    signals : Path
    labels : Path or None
        None for testing.
    n_trials : int or None
        As published; None where it does not matter.
    """

    part: str
    run: str
    signals: Path
    labels: Path | None
    n_trials: int | None


def files(folder: Path, target: TargetDataset, subject: str) -> list[File]:
    """List a subject's files in the organisers' order: training, then testing."""
    at = folder / subject
    if target.name == "A":
        training = [
            File(
                "training",
                f"race{k}",
                at / f"training/race{k}_padsData.npy",
                at / f"training/race{k}_padsLabel.npy",
                20,
            )
            for k in range(1, 6)
        ]
        testing = [File("testing", f"race{k}", at / f"testing/race{k}_padsData.npy", None, 20) for k in range(6, 16)]
        return training + testing
    number = subject.removeprefix("S")
    stem = at / f"training/training_s{number}"
    return [
        File("training", "training", stem.with_name(f"{stem.name}X.npy"), stem.with_name(f"{stem.name}y.npy"), None),
        File("testing", "testing", at / f"testing/testing_s{number}X.npy", None, N_TEST),
    ]


def phase_folder(root: Path, phase: str) -> Path:
    """Find the folder of a phase; unpacking may have nested it.

    Raises
    ------
    InputError
        When it is not there.
    """
    name = FOLDERS[phase]
    for folder in (root / name / name, root / name):
        if folder.is_dir():
            return folder
    raise InputError(
        f"{root}: no folder {name!r} in it; give the folder that `mfscsn beetl fetch` or `mfscsn beetl simulate` made"
    )


def read_signals(file: File, target: TargetDataset, unit: str | None = None) -> NDArray[np.float64]:
    """Read the trials of a file in volts, ``(n_trials, n_chans, n_times)``.

    Parameters
    ----------
    file : File
    target : TargetDataset
    unit : {"volts", "microvolts"}, optional
        What the file is in; the published unit when left out. The scale of the signals must fit it.

    Raises
    ------
    InputError
        For a file that is missing, cut short, no array, of another shape, not finite, or of another scale.
    """
    signals = read_array(file.signals)
    expected = (file.n_trials or "n_trials", len(target.channels), target.n_times)
    right = signals.ndim == 3 and signals.shape[1:] == expected[1:] and len(signals) == (file.n_trials or len(signals))
    if not right or not len(signals):
        raise InputError(
            f"{file.signals}: shape {signals.shape}, expected {str(expected).replace(chr(39), '')} for {target.name}"
            f"{_another_target(signals, target)}; fetch it again"
        )
    if not np.isfinite(signals).all():
        trial, channel, _ = np.argwhere(~np.isfinite(signals))[0]
        raise InputError(
            f"{file.signals}: trial {trial} holds NaN or infinite samples in {target.channels[channel]}; fetch it again"
        )
    unit_seen = found_unit(signals)
    if unit_seen != (unit or target.unit):
        expected_in = f"--unit says {unit}" if unit else f"{target.name} is published in {target.unit}"
        raise InputError(
            f"{file.signals}: a median deviation of {amplitude(signals):.2g} looks like {unit_seen}, but {expected_in};"
            f" if the file was converted to {unit_seen}, say so with --unit {target.name}={unit_seen}"
        )
    return np.asarray(signals, np.float64) * VOLTS[unit or target.unit]


def read_labels(file: File, target: TargetDataset, n_trials: int) -> NDArray[np.int64]:
    """Read the codes of a training file, ``(n_trials,)``; raise InputError when they do not fit."""
    assert file.labels is not None
    codes = read_array(file.labels)
    if codes.size != n_trials or codes.ndim > 2:
        raise InputError(f"{file.labels}: shape {codes.shape}, expected one code for each of {n_trials} trials")
    codes = codes.reshape(-1)
    known = range(len(target.tasks))
    odd = [value for value in codes.tolist() if value not in known]
    if odd:
        raise InputError(f"{file.labels}: the code {odd[0]!r} is none of {list(known)}; is it another file?")
    return codes.astype(np.int64)


def _another_target(signals: NDArray[Any], target: TargetDataset) -> str:
    for other in TARGETS.values():
        if other is not target and signals.shape[1:] == (len(other.channels), other.n_times):
            return f" (it has the shape of {other.name}: are subjects swapped?)"
    return ""


class BeetlSource:
    """A target data set as a source of recordings: ``beetl:FOLDER``.

    A recording is one race of A, or a block of B: its labelled trials in five blocks, as A's come in five races.
    Sessions are "training" and "testing"; testing trials have no label.

    Parameters
    ----------
    root : Path
        The folder that holds ``finalMI`` and ``leaderboardMI``.
    dataset : {"A", "B"}
    phase : {"leaderboard", "final"}
    leaderboard : bool
        Whether the leaderboard phase's labelled trials join the final phase, as the rules allow: as subjects of their
        own, ``leaderboard-S1`` and so on.
    unit : {"volts", "microvolts"}, optional
        Of the files, where they are not as published.

    Raises
    ------
    InputError
        For a folder or option that is not there.
    """

    N_BLOCKS = 5

    def __init__(
        self, root: Path, dataset: str = "", phase: str = "final", leaderboard: bool = False, unit: str | None = None
    ):
        for value, known, what in (
            (dataset, list(TARGETS), "dataset"),
            (phase, list(FOLDERS), "phase"),
            (unit, [None, *VOLTS], "unit"),
        ):
            if value not in known:
                options = [str(k) for k in known if k is not None]
                raise InputError(
                    f"beetl:{root}: option {what} = {value!r}: expected one of {options}{nearest(str(value), options)}"
                )
        self.root, self.target, self.unit = root, TARGETS[dataset], unit
        self.folders = {subject: (phase_folder(root, phase), subject) for subject in self.target.subjects[phase]}
        if leaderboard and phase == "final":
            extra = phase_folder(root, "leaderboard")
            self.folders |= {f"leaderboard-{s}": (extra, s) for s in self.target.subjects["leaderboard"]}

    def subjects(self) -> list[str]:
        """List the phase's subjects in the organisers' order, then those of the leaderboard phase."""
        return list(self.folders)

    def annotations(self) -> set[str]:
        """Know nothing before recordings are opened."""
        return set()

    def fingerprint(self, subject: str) -> str:
        """Digest names, sizes and times of change of the subject's files."""
        paths = [path for file in self._files(subject) for path in (file.signals, file.labels) if path]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path}: missing")
        return fingerprint(self.root, paths)

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Read the subject's trials, race by race or block by block."""
        for file in self._files(subject):
            signals = read_signals(file, self.target, self.unit)
            if file.labels is None:
                yield self._recording(file, file.run, signals, [UNLABELLED] * len(signals))
                continue
            labels = [self.target.tasks[code] for code in read_labels(file, self.target, len(signals))]
            if self.target.name == "A":
                yield self._recording(file, file.run, signals, labels)
            else:
                for k, block in enumerate(np.array_split(np.arange(len(signals)), self.N_BLOCKS)):
                    yield self._recording(file, f"block{k + 1}", signals[block], [labels[at] for at in block])

    def _files(self, subject: str) -> list[File]:
        folder, name = self.folders[subject]
        of_subject = files(folder, self.target, name)
        return [f for f in of_subject if f.part == "training"] if subject.startswith("leaderboard-") else of_subject

    def _recording(self, file: File, run: str, signals: NDArray[np.float64], labels: Sequence[str]) -> Recording:
        import mne  # heavy, and needed by `prepare` alone

        codes = {name: k for k, name in enumerate(dict.fromkeys(labels))}
        events = np.column_stack([np.arange(len(labels)), np.zeros(len(labels), int), [codes[name] for name in labels]])
        info = mne.create_info(list(self.target.channels), self.target.sfreq, "eeg")
        epochs = mne.EpochsArray(signals, info, events, event_id=codes, baseline=None, verbose="ERROR")
        return Recording(epochs, file.part, run, str(file.signals))


def write_sums(root: Path) -> None:
    """Write ``SHA256SUMS`` of all files of the competition below `root`, as ``sha256sum`` does."""
    trial_files = sorted(p for name in FOLDERS.values() for p in (root / name).rglob("*.npy"))
    if (root / LABEL_FILE).exists():
        trial_files.append(root / LABEL_FILE)
    with replaced(root / SUMS_FILE) as out:
        out.write("".join(f"{sha256(path)}  {path.relative_to(root)}\n" for path in trial_files).encode())


def check_sums(root: Path) -> int:
    """Compare the files below `root` with its ``SHA256SUMS``, if there is one, and count them.

    Raises
    ------
    InputError
        For the first file that is missing or another one; it says whose place the file belongs in, if any.
    """
    if not (root / SUMS_FILE).is_file():
        return 0
    sums = {}
    for line in (root / SUMS_FILE).read_text(errors="replace").splitlines():
        digest, _, name = line.partition(" ")
        if name:
            sums[name.removeprefix(" ").removeprefix("*")] = digest
    names = {digest: name for name, digest in sums.items()}
    for name, digest in sums.items():
        if name == LABEL_FILE:  # compared by its codes, not its line endings: `data.beetl_answer.read_true_labels`
            continue
        path = root / name
        if not path.is_file():
            raise InputError(f"{path}: missing, though {SUMS_FILE} lists it; fetch or simulate it again")
        seen = sha256(path)
        if seen != digest:
            swapped = f": it is {names[seen]}, are files swapped?" if seen in names else "; fetch or simulate it again"
            raise InputError(f"{path}: not the file that {SUMS_FILE} lists, sha256 {seen[:12]}...{swapped}")
    return len(sums)
