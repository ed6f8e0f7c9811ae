"""Preprocessing by contract: filter, resample, cut, check. Filters and resampling are MNE's."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import InputError, nearest
from data.trials import Trials

FLAT = 1e-9  # volts peak to peak in a whole recording: no electrode is that quiet


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
    """

    sfreq: float
    window: tuple[float, float]
    band: tuple[float, float]

    @property
    def n_times(self) -> int:
        """Samples of a trial."""
        return round((self.window[1] - self.window[0]) * self.sfreq)


@dataclass(frozen=True)
class Recording:
    """One continuous recording, with its cues as annotations.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        Volts.
    session, run : str
    where : str
        How an error should call it: a file's path, or data set and subject.
    """

    raw: Any
    session: str
    run: str
    where: str


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
        Annotation -> label; other annotations are passed over.
    subject : str
    channels : sequence of str, optional
        Which channels, in which order; all EEG channels as recorded when left out.

    Returns
    -------
    Trials
        Signals in microvolts. Empty when the recording holds none of the tasks. Trials that reach over an end of
        the recording, or into an annotation whose name begins with "bad", are left out.

    Raises
    ------
    InputError
        For a rate too low for the band, a channel that is missing or flat, or NaN.
    """
    import mne  # heavy, and needed by no step but this one

    raw, p, where = recording.raw, preprocessing, recording.where
    if raw.info["sfreq"] <= 2 * p.band[1]:
        raise InputError(
            f"{where}: rate {raw.info['sfreq']:g} Hz is not above twice the band's upper edge of {p.band[1]:g} Hz;"
            " lower band[1] in the contract, or leave the recording out"
        )
    if channels is None:
        if "eeg" not in raw:
            raise InputError(
                f"{where}: no channel of type EEG; mend the file's channel types, or give channels = [...]"
            )
        raw.pick("eeg", exclude=())
    else:
        for name in channels:
            if name not in raw.ch_names:
                raise InputError(f"{where}: no channel {name!r}{nearest(name, raw.ch_names)}")
        raw.pick(list(channels))
    found = [d for d in raw.annotations.description if d in tasks]
    if not found:
        return _no_trials(raw.ch_names, p)

    raw.load_data()
    signals = raw.get_data()
    for check, fault in (
        (~np.isfinite(signals).all(axis=1), "holds NaN or infinite samples"),
        (np.ptp(signals, axis=1) < FLAT, "is flat"),
    ):
        if check.any():
            name = raw.ch_names[int(np.argmax(check))]
            raise InputError(f"{where}: channel {name!r} {fault}; leave it out with channels = [...], or mend the file")
    raw.filter(*p.band, verbose="ERROR")
    if raw.info["sfreq"] != p.sfreq:
        raw.resample(p.sfreq, verbose="ERROR")
    codes = {name: code for code, name in enumerate(sorted(set(found)))}
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
    )


def _no_trials(channels: Sequence[str], p: Preprocessing) -> Trials:
    none = np.array([], dtype=str)
    return Trials(np.empty((0, len(channels), p.n_times), np.float32), none, none, none, none, tuple(channels), p.sfreq)
