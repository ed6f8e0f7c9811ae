"""XDF: one EEG stream and its markers, with stamps that are checked before anything is read by them.

References
----------
XDF: Boulay et al., https://github.com/sccn/xdf/wiki/Specifications
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError

LOST = 0.05  # seconds by which the samples of an XDF file are late or early from there on: no jitter stays
OFF = 0.015  # share by which its nominal rate may be off: amplifiers' clocks are off by less


def read_xdf(path: Path) -> Any:
    """Read the EEG stream of an XDF file; its marker streams become annotations."""
    import mne
    import pyxdf

    # As they were stamped: drawn out evenly, lost samples would be hidden, and all later cues moved
    damage = _Heard(logging.ERROR)
    logger = logging.getLogger("pyxdf")
    logger.handlers, logger.propagate = [damage], False  # what it warns of is checked below
    streams, _ = pyxdf.load_xdf(str(path), dejitter_timestamps=False)
    if damage.lines:
        raise InputError(
            f"{path}: is damaged, or was cut short ({damage.lines[0]}); copy it anew, or leave the subject out with"
            " subjects = [...]"
        )
    eeg = [s for s in streams if _kind(s) == "eeg" and len(s["time_stamps"])]
    if len(eeg) != 1:
        there = ", ".join(f"{_named(s)} ({_kind(s) or 'no type'})" for s in streams) or "none"
        raise InputError(
            f"{path}: {len(eeg)} streams of type EEG, expected one; its streams: {there}; write one of them"
            " to a file of its own"
        )
    (stream,) = eeg
    times, signals = stream["time_stamps"], np.asarray(stream["time_series"], dtype=float).T
    if signals.ndim != 2 or len(times) < 2:
        raise InputError(f"{path}: stream {_named(stream)} holds no signals")
    sfreq = _checked_rate(path, np.asarray(times, float), float(stream["info"]["nominal_srate"][0]))
    times = times[0] + _straight(np.asarray(times, float) - times[0])
    listed = _channels_of(stream, len(signals))
    strange = sorted({unit for _, _, unit in listed if unit.strip().lower() not in UNITS})
    if strange:
        raise InputError(f"{path}: channels are in {', '.join(strange)}; known are volts, millivolts, microvolts")
    factors = np.array([UNITS[unit.strip().lower()] for _, _, unit in listed])
    kinds = [kind if kind in ("eeg", "eog", "emg", "ecg", "stim") else "misc" for _, kind, _ in listed]
    info = mne.create_info([name for name, _, _ in listed], sfreq, kinds)
    raw = mne.io.RawArray(signals * factors[:, None], info, verbose="ERROR")
    marks = [
        # Where the sample of that moment stands, by the rate that it is read with: amplifiers' clocks are off a little
        (float(np.interp(when, times, np.arange(len(times)))) / sfreq, _word(np.ravel(value)[0]))
        for s in streams
        if s is not stream and (_kind(s) in MARKERS or s["info"]["channel_format"][0] == "string")
        for when, value in zip(s["time_stamps"], s["time_series"], strict=True)
        if times[0] <= when <= times[-1]
    ]
    raw.set_annotations(mne.Annotations([t for t, _ in marks], 0.0, [n for _, n in marks]), verbose="ERROR")
    return raw


class _Heard(logging.Handler):
    """Keeps what a library logs as an error."""

    def __init__(self, level: int):
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split()))


MARKERS = ("markers", "marker", "events", "event", "stim")  # types of streams that tell cues
UNITS = {
    **dict.fromkeys(("v", "volt", "volts"), 1.0),
    **dict.fromkeys(("mv", "millivolt", "millivolts"), 1e-3),
    **dict.fromkeys(("uv", "\u00b5v", "\u03bcv", "microvolt", "microvolts", "", "n/a", "none", "unknown"), 1e-6),
    **dict.fromkeys(("nv", "nanovolt", "nanovolts"), 1e-9),
}


def _kind(stream: Mapping[str, Any]) -> str:
    """Return an XDF stream's type in small letters; empty where the file has none."""
    return str((stream["info"].get("type") or [""])[0] or "").strip().lower()


def _word(value: Any) -> str:
    """Write a marker's value; 1.0 of a stream of numbers is 1."""
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _named(stream: Mapping[str, Any]) -> str:
    return repr(str((stream["info"].get("name") or ["unnamed"])[0]))


def _blocks(times: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return the median stamp of each second or so of samples, and how many samples that is."""
    rate = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
    size = int(np.clip(round(abs(rate)), 2, max(2, len(times) // 4)))
    n = len(times) // size
    return np.median(times[: n * size].reshape(n, size), axis=1), size


def _checked_rate(path: Path, times: NDArray[np.float64], nominal: float) -> float:
    """Return the rate of an XDF stream; refuse stamps that jump, and a nominal rate that they contradict.

    Jitter comes and goes within a second; samples that were lost, or a clock that was set, move all that comes later.
    """
    middles, size = _blocks(times)
    if len(middles) < 3:  # too short to tell
        return nominal or (len(times) - 1) / (times[-1] - times[0])
    steps = np.diff(middles)
    typical = float(np.median(steps))
    apart = np.abs(steps - typical)
    if typical <= 0 or apart.max() > LOST:
        at = int(apart.argmax())
        raise InputError(
            f"{path}: its stamps jump by {steps[at] - typical:.3g} s after some {middles[at] - times[0]:.3g} s: samples"
            " are missing there, or the clock was set, and all later cues would be read at a wrong place; leave the"
            " subject out with subjects = [...], or cut the file there"
        )
    effective = size / typical
    if nominal and abs(effective / nominal - 1) > OFF:
        raise InputError(
            f"{path}: says {nominal:g} Hz, and its stamps say {effective:.4g} Hz; mend its nominal rate, or leave the"
            " subject out with subjects = [...]"
        )
    return nominal or effective


def _straight(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return stamps without their jitter: a straight line through them."""
    index = np.arange(len(times), dtype=np.float64)
    slope, start = np.polyfit(index, times, 1)
    return np.asarray(slope * index + start, np.float64)


def _channels_of(stream: Mapping[str, Any], n_chans: int) -> list[tuple[str, str, str]]:
    """Return name, type and unit of an XDF stream's channels; numbers where the file does not name them."""

    def first(described: Mapping[str, Any], key: str, default: str) -> str:
        return str((described.get(key) or [default])[0] or default)

    description = (stream["info"].get("desc") or [None])[0] or {}
    channels = ((description.get("channels") or [None])[0] or {}).get("channel") or []
    if len(channels) != n_chans:
        return [(str(k), "eeg", "microvolts") for k in range(1, n_chans + 1)]
    return [
        (first(c, "label", str(k)), first(c, "type", "eeg").lower(), first(c, "unit", "microvolts"))
        for k, c in enumerate(channels, 1)
    ]
