"""Decode a running stream of the Lab Streaming Layer: at its markers, or every so many seconds.

References
----------
Kothe et al. 2025, Imaging Neuroscience 3: the Lab Streaming Layer. MNE-LSL: Scheltienne et al.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.causal import TrialCutter
from data.channel_names import plain_names
from data.errors import FailedError, InputError, nearest
from data.plausible import found_unit, without_electrode
from experiments.decoder import Decoder

SILENT = 5.0  # seconds without a sample, after which a stream has ended
LOST = 0.5  # seconds that a stream's clock may be ahead of its samples
LOOK = 1.0  # seconds of signal from which its unit is told, where the stream does not say
UNITS = {"microvolts": 1.0, "uv": 1.0, "µv": 1.0, "millivolts": 1e3, "mv": 1e3, "volts": 1e6, "v": 1e6}


@dataclass(frozen=True)
class Answer:
    """What is said of one trial.

    Parameters
    ----------
    seconds : float
        From the stream's first sample, or the first after a loss, to the cue, or where a window's would be.
    cue : str
    probabilities : array, shape (n_labels,)
    learned : bool
        The trial was learned from, and nothing was said of it.
    late : float
        Seconds from the trial's last sample until the answer was there; decoding alone took `took`.
    took : float
    """

    seconds: float
    cue: str
    probabilities: NDArray[np.float64]
    learned: bool
    late: float
    took: float


@dataclass(frozen=True)
class Cutting:
    """Where trials are cut.

    Parameters
    ----------
    cues : tuple of str
        Those that count; all when empty.
    slide : float
        Seconds from one window to the next, where there are no cues.
    learn : int
        So many first trials, whose cues are their labels, are learned from.
    """

    cues: tuple[str, ...] = ()
    slide: float = 0.5
    learn: int = 0


PLAIN = Cutting()


class OpenStream:
    """An EEG stream, opened, whose samples become trials.

    Parameters
    ----------
    name : str
        Of the stream.
    timeout : float
        Seconds to look for it.

    Raises
    ------
    InputError
        When it is not there, or is no EEG; those that are there are named.
    """

    def __init__(self, name: str, timeout: float = 5.0):
        self.inlet = _inlet(name, timeout)
        info = self.inlet.get_sinfo()
        self.name, self.sfreq = name, float(info.sfreq)
        if self.sfreq <= 0:
            raise InputError(f"stream {name!r}: has no regular rate; give the EEG stream, and this one as --markers")
        blank = [None] * info.n_channels
        names = [name or str(k) for k, name in enumerate(info.get_channel_names() or blank)]
        kinds = [(kind or "eeg").lower() for kind in info.get_channel_types() or blank]
        units = [unit or "" for unit in info.get_channel_units() or blank]
        off_scalp = without_electrode(names)
        taken = [k for k, name in enumerate(names) if kinds[k] == "eeg" and name not in off_scalp]
        better = plain_names([names[k] for k in taken])
        self.channels = tuple(better.get(names[k], names[k]) for k in taken)
        self._taken = taken
        told = {UNITS.get(str(units[k]).lower()) for k in taken}
        self.scale: float | None = told.pop() if len(told) == 1 else None

    def places(self, channels: Sequence[str]) -> list[int]:
        """Return where channels stand in a sample; raise InputError for one that is missing."""
        of_lower = {name.lower(): place for name, place in zip(self.channels, self._taken, strict=True)}
        for name in channels:
            if name.lower() not in of_lower:
                raise InputError(f"stream {self.name!r}: has no channel {name!r}{nearest(name, list(self.channels))}")
        return [of_lower[name.lower()] for name in channels]


class Markers:
    """A stream of cues: text, numbers, or a channel for each name."""

    def __init__(self, name: str, timeout: float = 5.0):
        self.inlet = _inlet(name, timeout)
        info = self.inlet.get_sinfo()
        self.names = (info.get_channel_names() or []) if info.n_channels > 1 else []

    def new(self) -> Iterator[tuple[float, str]]:
        """Yield time and name of each cue that has come."""
        values, times = self.inlet.pull_chunk(timeout=0.0)
        for sample, moment in zip(values, times, strict=True):
            for place, value in enumerate(np.ravel(sample)):
                if self.names:
                    if float(value):
                        yield float(moment), self.names[place]
                else:
                    number = not isinstance(value, str)
                    yield float(moment), f"{float(value):g}" if number else str(value)


def decode_stream(
    decoder: Decoder,
    stream: OpenStream,
    markers: Markers | None,
    how: Cutting = PLAIN,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[Answer | str]:
    """Decode trials as they come; a line of text is a remark.

    Parameters
    ----------
    decoder : Decoder
        Its channels are among the stream's.
    stream : OpenStream
    markers : Markers, optional
        Where cues come from; without it, windows slide.
    how : Cutting
    going : callable
        Asked between chunks; False ends.

    Raises
    ------
    FailedError
        When the stream ends.
    """
    p = decoder.preprocessing
    if stream.sfreq <= 2 * p.band[1]:
        raise InputError(f"stream {stream.name!r}: {stream.sfreq:g} Hz is not above twice {p.band[1]:g} Hz, the band")
    places = stream.places(decoder.channels)
    reference = None if isinstance(p.reference, str) else stream.places(p.reference)
    clock = _Clock(stream.sfreq)
    cutter = TrialCutter(p.band, p.window, stream.sfreq, p.sfreq)
    waiting: list[tuple[float, str]] = []  # seconds of the stream, name
    kept: list[tuple[NDArray[np.float64], str]] = []  # to learn from
    ahead, n_slides = 0.0, 0
    first: list[NDArray[np.float64]] = []
    while going():
        samples, times = stream.inlet.pull_chunk(timeout=0.05)
        if len(times):
            lost = clock.take(times)
            if lost:
                yield f"{lost:.2f} s of samples were lost: the filter begins anew, {len(waiting)} cues are left out"
                cutter, waiting, ahead = TrialCutter(p.band, p.window, stream.sfreq, p.sfreq), [], 0.0
                clock = _Clock(stream.sfreq)
                clock.take(times)
            signals = np.asarray(samples, dtype=np.float64).T
            if stream.scale is None:
                first.append(signals)
                if sum(part.shape[1] for part in first) < LOOK * stream.sfreq:
                    continue
                signals = np.concatenate(first, axis=1)
                stream.scale = 1e6 if found_unit(signals[None, places]) == "volts" else 1.0
            chosen = signals[places]
            if reference is not None:
                chosen = chosen - signals[reference].mean(axis=0)
            elif p.reference == "average":
                chosen = chosen - chosen.mean(axis=0)
            cutter.push(stream.scale * chosen)
        elif clock.silent() > SILENT:
            raise FailedError(f"stream {stream.name!r}: no sample for {SILENT:g} s; has it ended?")
        if markers is not None:
            waiting += [(clock.seconds(t), name) for t, name in markers.new() if not how.cues or name in how.cues]
        else:
            while clock.n and ahead + p.window[1] <= clock.n / stream.sfreq:
                waiting.append((ahead, "window"))
                ahead += how.slide
        later = []
        for seconds, name in waiting:
            try:
                trial = cutter.cut(seconds)
            except ValueError as error:
                yield f"{name}: {error}"
                continue
            if trial is None:
                later.append((seconds, name))
                continue
            late = clock.since(seconds + p.window[1])
            if len(kept) < how.learn:
                if name not in decoder.labels:
                    yield f"{name}: is none of {', '.join(decoder.labels)}, so it is not learned from"
                    continue
                kept.append((trial, name))
                if len(kept) == how.learn:
                    decoder.partial_fit(np.stack([x for x, _ in kept]), [label for _, label in kept])
                yield Answer(seconds, name, np.full(len(decoder.labels), np.nan), True, late, 0.0)
                continue
            began = time.perf_counter()
            # overlapping windows move the mean once a window's length, or it would follow the last few seconds alone
            every = max(1, round((p.window[1] - p.window[0]) / how.slide)) if markers is None else 1
            told = decoder.decode(trial, follow=n_slides % every == 0)
            n_slides += 1
            took = time.perf_counter() - began
            yield Answer(seconds, name, told, False, late + took, took)
        waiting = later


class Outlet:
    """A stream of probabilities, a channel for each label."""

    def __init__(self, name: str, labels: Sequence[str]):
        from mne_lsl.lsl import StreamInfo, StreamOutlet

        info = StreamInfo(name, "probabilities", len(labels), 0.0, "float32", f"mfscsn-{name}")
        info.set_channel_names(list(labels))
        self.outlet = StreamOutlet(info)

    def push(self, probabilities: NDArray[np.float64]) -> None:
        """Send one answer."""
        self.outlet.push_sample(probabilities.astype(np.float32))


class _Clock:
    """What a stream's time stamps say in samples since its first one."""

    def __init__(self, sfreq: float):
        self.sfreq, self.n, self.heard = sfreq, 0, time.monotonic()
        self.first = self.last = 0.0

    def take(self, times: NDArray[np.float64]) -> float:
        """Count new samples; return how many seconds of them are missing, 0 where none are."""
        if not self.n:
            self.first = float(times[0])
        self.n += len(times)
        self.last, self.heard = float(times[-1]), time.monotonic()
        lost = self.last - self.first - (self.n - 1) / self.sfreq
        return lost if lost > LOST + 1e-3 * (self.last - self.first) else 0.0  # a rate that is off by 0.1 % is no loss

    def seconds(self, moment: float) -> float:
        """Return where a time stamp stands, in seconds of samples, seen from the newest one."""
        return (self.n - 1) / self.sfreq - (self.last - moment)

    def since(self, seconds: float) -> float:
        """Return how long ago a moment of the stream was, by the newest sample and this machine's clock."""
        return (self.n - 1) / self.sfreq - seconds + time.monotonic() - self.heard

    def silent(self) -> float:
        """Return for how many seconds nothing has come."""
        return time.monotonic() - self.heard


def _inlet(name: str, timeout: float) -> Any:
    try:
        from mne_lsl.lsl import StreamInlet, resolve_streams
    except ImportError as error:
        raise InputError("streams are read by mne-lsl, which is not installed: pip install 'mfscsn[online]'") from error

    found = resolve_streams(timeout=timeout, name=name)
    if not found:
        there = sorted({info.name for info in resolve_streams(timeout=1.0)})
        shown = f"; there are {', '.join(there)}" if there else "; there is none at all"
        raise InputError(f"no stream {name!r}{nearest(name, there)}{shown}")
    inlet = StreamInlet(found[0], processing_flags=["clocksync", "dejitter"])
    inlet.open_stream(timeout=10.0)
    return inlet
