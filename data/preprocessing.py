"""Preprocessing by contract: filter, resample, cut, check. Filters are MNE's, resampling is SciPy's."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.causal import CausalFilter, resampled
from data.channel_names import plain_names
from data.errors import InputError, nearest, one_line
from data.marks import BROKEN, is_break, is_mark
from data.plausible import clipped_channels, hum, implausible, odd_channels, without_electrode
from data.trials import UNLABELLED, Trials

FLAT = 1e-9  # volts peak to peak in a whole recording: no electrode is that quiet
LEAST_OF_WINDOW = 0.5  # that trials which somebody else has cut must cover


@dataclass(frozen=True)
class Preprocessing:
    """What all sites do to their recordings, so that trials agree in time; channels stay each site's own.

    Parameters
    ----------
    sfreq : float
        Rate after resampling, Hz.
    window : tuple of float
        Start and end of a trial, seconds after the cue.
    band : tuple of float
        Edges of the band-pass, Hz.
    reference : str or tuple of str
        "recorded", "average", or channels whose mean is the reference; these are left out then.
    bad_channels : {"keep", "drop", "interpolate"}
        What becomes of channels that the recording calls bad, as BIDS does with `status`.
    reject : float, optional
        Microvolts peak to peak, in the band, above which in any channel a trial is left out.
    filter : {"zero-phase", "causal"}
        "causal" is `data.causal.CausalFilter`, as a running stream allows; the other one looks at later samples too.
    """

    sfreq: float
    window: tuple[float, float]
    band: tuple[float, float]
    reference: str | tuple[str, ...] = "recorded"
    bad_channels: str = "keep"
    reject: float | None = None
    filter: str = "zero-phase"

    @property
    def n_times(self) -> int:
        """Samples of a trial."""
        return round((self.window[1] - self.window[0]) * self.sfreq)


@dataclass(frozen=True)
class Recording:
    """One recording: continuous, with its cues as annotations, or cut into trials already.

    Parameters
    ----------
    raw : mne.io.BaseRaw or mne.BaseEpochs
        Volts. Of epochs, time 0 is the cue, and the event names are the tasks or `UNLABELLED`.
    session, run : str
    where : str
        How an error should call it: a file's path, or data set and subject.
    notes : list of str
        What was left out of it, or looks odd, a line each; `cut_trials` adds to it.
    renamed : dict
        A channel's name in the file -> the name that it has here.
    """

    raw: Any
    session: str
    run: str
    where: str
    notes: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)

    def by_electrodes(self) -> "Recording":
        """Give channels the names of their electrodes, where an amplifier's name tells them; say so in `notes`."""
        renamed = plain_names(self.raw.ch_names)
        if not renamed:
            return self
        self.raw.rename_channels(renamed, verbose="ERROR")
        old, new = next(iter(renamed.items()))
        self.notes.append(f"{len(renamed)} channels get the names of their electrodes: {old!r} is {new!r}")
        return replace(self, renamed=renamed)

    def annotations(self) -> set[str]:
        """Name all tasks that it holds, known or not."""
        if hasattr(self.raw, "event_id"):
            return set(self.raw.event_id) - {UNLABELLED}
        return {str(name) for name in self.raw.annotations.description}

    def cue_interval(self, tasks: Mapping[str, str]) -> float | None:
        """Return the median seconds from one cue of the tasks to the next; None where there are too few to tell."""
        if hasattr(self.raw, "event_id"):  # cut into trials already: when they were recorded is gone
            return None
        known = zip(self.raw.annotations.onset, self.raw.annotations.description, strict=True)
        onsets = np.unique([onset for onset, name in known if name in tasks])
        return float(np.median(np.diff(onsets))) if len(onsets) > 4 else None

    def unused(self, tasks: Mapping[str, str]) -> dict[str, int]:
        """Count the annotations that are none of the tasks, and mark nothing bad."""
        if hasattr(self.raw, "event_id"):
            of_code = {code: name for name, code in self.raw.event_id.items() if name != UNLABELLED}
            names = [of_code[code] for code in self.raw.events[:, 2] if code in of_code]
        else:
            names = [str(name) for name in self.raw.annotations.description]
        others = {name for name in names if name not in tasks and not is_mark(name)}
        return {name: names.count(name) for name in sorted(others)}


def cut_trials(
    recording: Recording,
    preprocessing: Preprocessing,
    tasks: Mapping[str, str],
    subject: str,
    channels: Sequence[str] | None = None,
) -> Trials:
    """Turn a recording into trials, in time order.

    Parameters
    ----------
    recording : Recording
        Its raw object is changed in place.
    preprocessing : Preprocessing
    tasks : mapping of str to str
        Annotation -> label; other annotations are passed over. Unlabelled trials are kept.
    subject : str
    channels : sequence of str, optional
        Which channels, in which order; all EEG channels as recorded when left out.

    Returns
    -------
    Trials
        Signals in microvolts. Empty when the recording holds none of the tasks. Trials that reach over an end of
        the recording, or into a "boundary" or an annotation whose name begins with "bad", are left out.

    Raises
    ------
    InputError
        For a rate too low for the band, a channel that is missing or flat, NaN, numbers that are no EEG in volts, two
        tasks at one moment, or trials that were cut too short for the window or the band.
    """
    raw, p, where = recording.raw, preprocessing, recording.where
    if raw.info["sfreq"] <= 2 * p.band[1]:
        raise InputError(
            f"{where}: rate {raw.info['sfreq']:g} Hz is not above twice the band's upper edge of {p.band[1]:g} Hz;"
            " lower band[1] in the contract, or leave the recording out"
        )
    recording.notes.extend(_narrower(recording.raw.info, p))
    _refer(recording, p, channels)
    cut = _trials_of_epochs if hasattr(raw, "event_id") else _trials_of_raw
    trials = cut(recording, p, tasks, subject)
    if p.reject is not None and len(trials):
        loud = (np.ptp(trials.signals, axis=2) > p.reject).any(axis=1)
        if loud.any():
            recording.notes.append(f"{loud.sum()} of {len(loud)} trials above {p.reject:g} microvolts are left out")
        trials = trials[~loud]
    if len(trials):
        fault = implausible(trials.signals)
        if fault:
            raise InputError(f"{where}: {fault}; mend the unit in the file, or leave the recording out")
        recording.notes.extend(odd_channels(trials.signals, trials.channels))
    return trials


def _narrower(info: Any, p: Preprocessing) -> list[str]:
    """Say, in a line, where a file names a filter, of any channel, that is narrower than the contract's band."""
    low, high = info["highpass"], info["lowpass"]
    least, most = p.band
    if not (low > least or 0 < high < most):
        return []
    return [
        f"its file names a filter of {max(low, 0):g} to {high:g} Hz, the contract's band is {least:g} to {most:g} Hz:"
        " what was filtered out has nothing to say"
    ]


def _refer(recording: Recording, p: Preprocessing, channels: Sequence[str] | None) -> None:
    """Pick channels, and bring them to the contract's reference; mend or drop those that are called bad."""
    try:
        _refer_and_mend(recording, p, channels)
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"{recording.where}: its channels do not fit the contract's reference = {p.reference!r} and bad_channels ="
            f" {p.bad_channels!r} ({one_line(error)}); mend their types in the file, or change the contract"
        ) from error


def _refer_and_mend(recording: Recording, p: Preprocessing, channels: Sequence[str] | None) -> None:
    raw, where = recording.raw, recording.where
    named = list(p.reference) if not isinstance(p.reference, str) else []
    if named:
        spelt = {old.lower(): new for old, new in recording.renamed.items()}
        spelt |= {name.lower(): name for name in raw.ch_names}
        for name in named:
            if name.lower() not in spelt:
                raise InputError(f"{where}: no channel {name!r}{nearest(name, raw.ch_names)}, which is the reference")
        named = [spelt[name.lower()] for name in named]
        load_whole(raw, where)
        raw.set_eeg_reference(named, ch_type="eeg" if "eeg" in raw else "auto", verbose="ERROR")
        if channels is None:
            raw.drop_channels(named)  # flat, where it is one
    _pick(recording, channels)
    bad = list(raw.info["bads"])
    if bad and p.bad_channels == "drop":
        raw.drop_channels(bad)
    if bad and p.bad_channels == "interpolate":
        _interpolate(raw, where)
    if bad and p.bad_channels != "keep":
        done = "left out" if p.bad_channels == "drop" else "interpolated"
        recording.notes.append(f"{done} {bad}, which the recording calls bad")
    if p.reference == "average":
        load_whole(raw, where)
        raw.set_eeg_reference("average", ch_type="eeg", verbose="ERROR")


def _interpolate(raw: Any, where: str) -> None:
    """Replace bad channels by spherical splines of the others, on a standard head where positions are missing."""
    raw.load_data()
    try:
        if raw.get_montage() is None:
            raw.set_montage("colin27_1005", match_case=False, verbose="ERROR")
        raw.interpolate_bads(reset_bads=True, verbose="ERROR")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"{where}: its bad channels cannot be interpolated ({one_line(error)}); set bad_channels = 'drop' or"
            " 'keep' in the contract, or channels = [...]"
        ) from error


def _pick(recording: Recording, channels: Sequence[str] | None) -> None:
    """Keep the EEG channels of a recording, or those named, whose names are matched without case."""
    raw, where = recording.raw, recording.where
    if channels is None:
        if "eeg" not in raw:
            raise InputError(
                f"{where}: no channel of type EEG; mend the file's channel types, or give channels = [...]"
            )
        raw.pick("eeg", exclude=())
        others = without_electrode(raw.ch_names)
        if others and len(others) < len(raw.ch_names):
            raw.drop_channels(others)
            recording.notes.append(f"left out {others}, by name no electrodes; channels = [...] decides otherwise")
        return
    of_lower = {name.lower(): name for name in raw.ch_names}
    of_lower |= {file.lower(): name for file, name in recording.renamed.items() if file.lower() not in of_lower}
    for name in channels:
        if name not in raw.ch_names and name.lower() not in of_lower:
            raise InputError(f"{where}: no channel {name!r}{nearest(name, raw.ch_names)}")
    there = [name if name in raw.ch_names else of_lower[name.lower()] for name in channels]
    raw.pick(there)
    as_asked = {old: new for old, new in zip(there, channels, strict=True) if old.lower() == new.lower() and old != new}
    raw.rename_channels(as_asked, verbose="ERROR")


def _trials_of_raw(recording: Recording, p: Preprocessing, tasks: Mapping[str, str], subject: str) -> Trials:
    import mne  # heavy, and needed by no step but this one

    raw, where = recording.raw, recording.where
    cues = [d for d in raw.annotations.description if d in tasks]
    if not cues:
        return _no_trials(raw.ch_names, p)

    _check_cues(raw.annotations, tasks, 1 / raw.info["sfreq"], where)
    _mark_breaks(raw, tasks)
    load_whole(raw, where)
    _check_channels(raw.get_data(), raw.ch_names, where)
    recording.notes.extend(clipped_channels(raw.get_data(), raw.ch_names))
    recording.notes.extend(hum(raw.get_data(), raw.info["sfreq"]))
    if p.filter == "causal":
        raw.apply_function(CausalFilter(p.band, raw.info["sfreq"]), picks="all", channel_wise=False, verbose="ERROR")
    else:
        raw.filter(*p.band, verbose="ERROR")
    if raw.info["sfreq"] != p.sfreq:
        onsets = raw.annotations.onset - (raw.first_time if raw.annotations.orig_time else 0.0)
        marks = mne.Annotations(onsets, raw.annotations.duration, raw.annotations.description)
        signals = resampled(raw.get_data(), raw.info["sfreq"], p.sfreq)
        raw = mne.io.RawArray(signals, mne.create_info(raw.ch_names, p.sfreq, "eeg"), verbose="ERROR")
        raw.set_annotations(marks, verbose="ERROR")
    codes = {name: code for code, name in enumerate(sorted(set(cues)))}
    events, _ = mne.events_from_annotations(raw, event_id=codes, verbose="ERROR")
    first = round(p.window[0] * p.sfreq)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that no trial is left is for the caller to say
        epochs = mne.Epochs(
            raw,
            events,
            event_id=codes,
            tmin=first / p.sfreq,
            tmax=(first + p.n_times - 1) / p.sfreq,
            baseline=None,
            preload=True,
            event_repeated="drop",
            verbose="ERROR",
        )
        signals = (epochs.get_data(copy=False) * 1e6).astype(np.float32)
    names = {code: tasks[name] for name, code in codes.items()}
    n = len(epochs)
    return Trials(
        signals=signals,
        labels=np.array([names[code] for code in epochs.events[:, 2]], dtype=str),
        subjects=np.full(n, subject),
        sessions=np.full(n, recording.session),
        runs=np.full(n, recording.run),
        channels=tuple(raw.ch_names),
        sfreq=p.sfreq,
        onsets=(epochs.events[:, 0] - raw.first_samp) / p.sfreq,
    )


def _mark_breaks(raw: Any, tasks: Mapping[str, str]) -> None:
    """Name the places where a recording stood still so that MNE leaves out the trials that reach over them."""
    notes = raw.annotations
    begin = raw.first_time if notes.orig_time is not None else 0.0
    later = notes.onset - begin > 1 / raw.info["sfreq"]  # the first segment is no break
    breaks = np.array([is_break(str(name)) and name not in tasks for name in notes.description], bool) & later
    if not breaks.any():
        return
    notes.duration[breaks] = 0.0  # of what was cut out
    import mne

    names = np.where(breaks, BROKEN, notes.description)
    raw.set_annotations(mne.Annotations(notes.onset, notes.duration, names, orig_time=notes.orig_time), verbose="ERROR")


def load_whole(raw: Any, where: str) -> None:
    """Read a recording's samples; a file that ends before its header says is one line."""
    try:
        raw.load_data(verbose="ERROR")
    except InputError:
        raise
    except Exception as error:  # each format has its own
        raise InputError(
            f"{where}: its samples cannot be read to the end ({one_line(error)}); was the file cut short? copy it anew,"
            " or leave the subject out with subjects = [...]"
        ) from error


def _trials_of_epochs(recording: Recording, p: Preprocessing, tasks: Mapping[str, str], subject: str) -> Trials:
    epochs, where = recording.raw, recording.where
    names = {code: UNLABELLED if name == UNLABELLED else tasks.get(name) for name, code in epochs.event_id.items()}
    labels = [names[code] for code in epochs.events[:, 2]]
    epochs = epochs[np.flatnonzero([label is not None for label in labels])]
    if not len(epochs):
        return _no_trials(epochs.ch_names, p)
    length = len(epochs.times) / epochs.info["sfreq"]
    end, (begins, ends) = epochs.tmin + length, p.window
    if epochs.tmin > begins or end < begins + LEAST_OF_WINDOW * (ends - begins):
        raise InputError(
            f"{where}: its trials were cut at {epochs.tmin:g} to {end:g} s, so the window {list(p.window)} s does not"
            f" lie within, not even {LEAST_OF_WINDOW:.0%} of it; change window in the contract"
        )
    if end < ends - 0.5 / p.sfreq:
        recording.notes.append(f"its trials end at {end:g} s, the window at {ends:g} s: what is missing is 0")
    _check_channels(epochs.get_data(), epochs.ch_names, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            if p.filter == "causal":
                filtered = CausalFilter(p.band, epochs.info["sfreq"])(epochs.get_data())
            else:
                filtered = epochs.filter(*p.band, verbose="WARNING").get_data()
    except RuntimeWarning as error:
        raise InputError(
            f"{where}: its trials were cut to {length:g} s, too short for a filter from {p.band[0]:g} Hz; raise"
            " band[0] in the contract"
        ) from error
    first = round((p.window[0] - epochs.tmin) * p.sfreq)
    signals = resampled(filtered, epochs.info["sfreq"], p.sfreq)[:, :, first : first + p.n_times]
    signals = np.pad(signals, ((0, 0), (0, 0), (0, p.n_times - signals.shape[2])))
    n = len(epochs)
    return Trials(
        signals=(signals * 1e6).astype(np.float32),
        labels=np.array([label for label in labels if label is not None], dtype=str),
        subjects=np.full(n, subject),
        sessions=np.full(n, recording.session),
        runs=np.full(n, recording.run),
        channels=tuple(epochs.ch_names),
        sfreq=p.sfreq,
    )


def _check_cues(annotations: Any, tasks: Mapping[str, str], apart: float, where: str) -> None:
    """Refuse two tasks whose cues stand less than `apart` seconds from one another: one trial would have two labels."""
    cues = [(float(o), str(n)) for o, n in zip(annotations.onset, annotations.description, strict=True) if n in tasks]
    cues.sort()
    for (onset, name), (later, other) in pairwise(cues):
        if later - onset < apart and tasks[name] != tasks[other]:
            raise InputError(
                f"{where}: cues of {name!r} and {other!r} both stand at {onset:.3f} s, so the trial has two labels;"
                " mend the events, or name one of them in tasks"
            )


def _check_channels(signals: NDArray[np.float64], names: Sequence[str], where: str) -> None:
    """Refuse channels ``(..., n_chans, n_times)`` that cannot be used."""
    trials = signals.reshape(-1, *signals.shape[-2:])
    for check, fault in (
        (~np.isfinite(trials).all(axis=(0, 2)), "holds NaN or infinite samples"),
        ((np.ptp(trials, axis=2) < FLAT).all(axis=0), "is flat"),
    ):
        if check.any():
            name = names[int(np.argmax(check))]
            raise InputError(f"{where}: channel {name!r} {fault}; leave it out with channels = [...], or mend the file")


def _no_trials(channels: Sequence[str], p: Preprocessing) -> Trials:
    none = np.array([], dtype=str)
    return Trials(np.empty((0, len(channels), p.n_times), np.float32), none, none, none, none, tuple(channels), p.sfreq)
