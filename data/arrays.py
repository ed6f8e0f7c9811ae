"""Trials that somebody has cut already: one ``.npz`` file, and how MNE's epochs and braindecode's windows become one.

======== ================================== =====================================================
key      shape                              what
======== ================================== =====================================================
signals  (n_trials, n_chans, n_times)       microvolts or volts; which of them is seen from the numbers
labels   (n_trials,)                        names of tasks
subjects (n_trials,)                        names
channels (n_chans,)                         names of electrodes
sfreq    ()                                 Hz
sessions (n_trials,), may be left out       names
runs     (n_trials,), may be left out       names
bads     (n,), may be left out              names of channels that are bad
tmin     (), may be left out                seconds from the cue to the first sample; 0
======== ================================== =====================================================
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, one_line
from data.files import fingerprint, replaced
from data.plausible import found_unit
from data.preprocessing import Recording

KEYS = ("signals", "labels", "subjects", "channels", "sfreq")
PLACES = ("sessions", "runs")


class ArraysSource:
    """Trials in an ``.npz`` file, in time order.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        When the file is missing or damaged, or its arrays do not fit one another; one line.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                self.arrays = {key: file[key] for key in file.files if key != "signals"}
                signals: NDArray[Any] = file["signals"] if "signals" in file.files else np.empty(())
                shape: tuple[int, ...] = signals.shape
                kind = signals.dtype.kind in "fiu"
        except FileNotFoundError as error:
            raise InputError(f"arrays:{path}: no such file; mend the path, or give --data-root") from error
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"arrays:{path}: cannot be read as .npz ({one_line(error)}); write it with numpy.savez, names as arrays"
                " of text"
            ) from error
        missing = [key for key in KEYS if key not in (*self.arrays, *(["signals"] if shape else []))]
        if missing:
            raise InputError(f"arrays:{path}: no {', '.join(missing)} in it; expected {', '.join(KEYS)}")
        n = shape[0]
        expected = {"labels": n, "subjects": n, "channels": shape[1] if len(shape) == 3 else 0}
        expected |= {key: n for key in PLACES if key in self.arrays}
        for key, size in expected.items():
            if len(shape) != 3 or self.arrays[key].shape != (size,):
                raise InputError(
                    f"arrays:{path}: {key} has shape {self.arrays[key].shape} beside signals of shape {shape}; expected"
                    f" signals (n_trials, n_chans, n_times) and {key} ({size},)"
                )
        for key in ("labels", "subjects", "channels", "bads", *PLACES):
            if key in self.arrays:
                try:
                    self.arrays[key] = _text(self.arrays[key])
                except UnicodeDecodeError as error:
                    raise InputError(f"arrays:{path}: {key} are bytes that are no UTF-8; write them as text") from error
        unknown = sorted(
            set(self.arrays.get("bads", np.array([], str)).tolist()) - set(self.arrays["channels"].tolist())
        )
        if unknown:
            raise InputError(f"arrays:{path}: bads names {', '.join(unknown)}, which are none of its channels")
        for key in ("sfreq", "tmin"):
            if key in self.arrays:
                self.arrays[key] = _one_number(path, key, self.arrays[key])
        if not n:
            raise InputError(f"arrays:{path}: holds no trial")
        if not kind:
            raise InputError(f"arrays:{path}: signals are no numbers; expected microvolts or volts")
        if float(self.arrays["sfreq"]) <= 0:
            raise InputError(f"arrays:{path}: sfreq is {float(self.arrays['sfreq']):g}, expected Hz above 0")

    def subjects(self) -> list[str]:
        """List the subjects in the order of their first trials."""
        return list(dict.fromkeys(self.arrays["subjects"].astype(str).tolist()))

    def annotations(self) -> set[str]:
        """Name all labels."""
        return set(self.arrays["labels"].astype(str).tolist())

    def fingerprint(self, subject: str) -> str:
        """Digest the file's name, size and time of change: a change of one subject is one of all."""
        return fingerprint(self.path.parent, [self.path]) + subject

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Yield the subject's trials, a recording each session and run."""
        import mne

        with np.load(self.path, allow_pickle=False) as file:
            signals = file["signals"]
        arrays = self.arrays
        signals = signals.astype(np.float64)  # half precision knows no microvolt in volts
        here = arrays["subjects"].astype(str) == subject
        unit, of_subject = found_unit(signals), found_unit(signals[here])
        spread = np.median(signals[here].std(axis=2))
        if unit != of_subject and np.isfinite(signals).all() and spread > 0:  # else another line says what is wrong
            raise InputError(
                f"{self.path} subject {subject}: its signals are {of_subject}, most of the file's are {unit}; write"
                " them in one unit"
            )
        volts = signals if unit == "volts" else signals * 1e-6
        none = np.full(len(signals), "")
        sessions, runs = (arrays[key].astype(str) if key in arrays else none for key in PLACES)
        labels = arrays["labels"].astype(str)
        codes = {name: code for code, name in enumerate(sorted(set(labels.tolist())), 1)}
        info = mne.create_info(arrays["channels"].astype(str).tolist(), float(arrays["sfreq"]), "eeg")
        for session, run in dict.fromkeys(zip(sessions[here].tolist(), runs[here].tolist(), strict=True)):
            (of_run,) = np.nonzero(here & (sessions == session) & (runs == run))
            events = np.array([[k, 0, codes[label]] for k, label in enumerate(labels[of_run].tolist())])
            used = {name: code for name, code in codes.items() if code in events[:, 2]}
            tmin = float(arrays.get("tmin", 0.0))
            epochs = mne.EpochsArray(volts[of_run].astype(float), info, events, tmin, used, verbose="ERROR")
            where = f"{self.path} subject {subject}" + "".join(
                f" {what} {name}" for what, name in (("session", session), ("run", run)) if name
            )
            epochs.info["bads"] = _text(arrays["bads"]).tolist() if "bads" in arrays else []
            yield Recording(epochs, session, run, where).by_electrodes()


def _text(values: NDArray[Any]) -> NDArray[np.str_]:
    """Return names as text; bytes are UTF-8."""
    if values.dtype.kind == "S":
        return np.array([value.decode() for value in values.tolist()], str)
    return values.astype(str)


def _one_number(path: Path, key: str, value: NDArray[Any]) -> NDArray[np.float64]:
    if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise InputError(f"arrays:{path}: {key} is {value!r}, expected one number")
    return np.asarray(value.item(), dtype=float)


def save_trials(path: str | Path, trials: Any, subject: str | None = None) -> Path:
    """Write trials from Python as a file that ``source = "arrays:FILE"`` reads.

    Parameters
    ----------
    path : path
        Of the file, which ends in ``.npz``; replaced when it is there.
    trials : mne.BaseEpochs, mapping of str to mne.BaseEpochs, or braindecode windows
        Epochs of one subject; epochs of several subjects, by name; or what braindecode's
        `create_windows_from_events` returns. Session and run are taken from columns of the epochs' metadata, or from
        the windows' description, where they stand.
    subject : str, optional
        Of epochs; their metadata may have a column ``subject`` instead.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        For another type, epochs without a subject, or parts of different channels, rates or lengths.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: give a name that ends in .npz")
    parts = list(_parts(trials, subject))
    if not parts:
        raise ValueError("there are no trials")
    for key in ("channels", "bads", "sfreq", "tmin"):
        if any(not np.array_equal(np.asarray(part[key]), np.asarray(parts[0][key])) for part in parts[1:]):
            raise ValueError(f"the parts differ in {key}; write one file for each headset")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in ("signals", "labels", "subjects", *PLACES)}
    with replaced(path) as out:
        np.savez(out, **(joined | {key: np.asarray(parts[0][key]) for key in ("channels", "bads", "sfreq", "tmin")}))  # type: ignore[arg-type]
    return path


def _parts(trials: Any, subject: str | None) -> Iterator[dict[str, Any]]:
    if hasattr(trials, "datasets"):  # braindecode's BaseConcatDataset
        for windows in trials.datasets:
            yield _of_windows(windows)
    elif isinstance(trials, Mapping):
        for name, epochs in trials.items():
            yield _of_epochs(epochs, str(name))
    elif hasattr(trials, "event_id"):
        yield _of_epochs(trials, subject)
    else:
        raise ValueError(f"{type(trials).__name__}: give MNE epochs, a mapping of them, or braindecode's windows")


def _of_epochs(epochs: Any, subject: str | None) -> dict[str, Any]:
    epochs = epochs.copy().pick("eeg", exclude=())
    names = {code: name for name, code in epochs.event_id.items()}
    table, n = epochs.metadata, len(epochs)

    def column(name: str) -> NDArray[np.str_] | None:
        return np.asarray(table[name], dtype=str) if table is not None and name in table else None

    subjects = column("subject") if subject is None else np.full(n, subject)
    if subjects is None:
        raise ValueError('epochs without a subject: give subject="...", or a column "subject" in their metadata')
    return {
        "signals": (epochs.get_data(copy=True) * 1e6).astype(np.float32),
        "labels": np.array([names[code] for code in epochs.events[:, 2]]),
        "subjects": subjects,
        "sessions": (np.full(n, "") if (found := column("session")) is None else found),
        "runs": (np.full(n, "") if (found := column("run")) is None else found),
        "channels": np.array(epochs.ch_names),
        "bads": np.array(epochs.info["bads"], str),
        "sfreq": float(epochs.info["sfreq"]),
        "tmin": float(epochs.tmin),
    }


def _of_windows(windows: Any) -> dict[str, Any]:
    """Take one recording's windows; its `description` tells whose they are."""
    described = windows.description
    if described is None or "subject" not in described:
        raise ValueError('windows without a subject: give their data set a description with "subject"')
    made = dict(getattr(windows, "window_kwargs", [])).get("create_windows_from_events", {})
    if "mapping" not in made:
        raise ValueError("windows of another kind: give what braindecode's create_windows_from_events returns")
    if (windows.metadata["i_window_in_trial"] > 0).any():
        raise ValueError("several windows of one trial: cut a whole trial each, without window_size_samples")
    inner = windows.windows if hasattr(windows, "windows") else windows.raw
    triples = [windows[k] for k in range(len(windows))]
    names = {int(code): str(name) for name, code in made["mapping"].items()}
    n, start = len(triples), made["trial_start_offset_samples"]
    if isinstance(start, Mapping):
        raise ValueError("windows that begin at other times for each recording: give one trial_start_offset_samples")
    if len({np.shape(x) for x, *_ in triples}) > 1:
        raise ValueError("windows of differing lengths: give one window_size_samples to create_windows_from_events")

    def place(name: str) -> NDArray[np.str_]:
        return np.full(n, str(described[name]) if name in described else "")

    return {
        "signals": np.stack([np.asarray(x) for x, *_ in triples]).astype(np.float32),
        "labels": np.array([names[int(y)] for _, y, *_ in triples]),
        "subjects": place("subject"),
        "sessions": place("session"),
        "runs": place("run"),
        "channels": np.array(inner.ch_names),
        "bads": np.array(inner.info["bads"], str),
        "sfreq": float(inner.info["sfreq"]),
        "tmin": start / float(inner.info["sfreq"]),
    }
