"""Band-pass and cut as samples come: each one from itself and earlier ones, but for a resampling filter's 0.1 s.

What is cut while a stream runs equals what `data.preprocessing` cuts of the whole recording with ``filter = "causal"``.
"""

from fractions import Fraction

import numpy as np
import scipy  # loads signal, half a second, when it is asked for
from numpy.typing import NDArray

ORDER = 4  # of the Butterworth filter; a band-pass has twice as many poles
LONGEST_RATIO = 10_000  # of a rate to another, in whole numbers: an hour then moves by less than 0.1 ms
TAPS = 10  # of SciPy's resampling filter, on each side, in samples of the lower rate


class CausalFilter:
    """A Butterworth band-pass that goes on from chunk to chunk.

    Parameters
    ----------
    band : tuple of float
        Edges, Hz.
    sfreq : float
        Hz.
    """

    def __init__(self, band: tuple[float, float], sfreq: float):
        self.sections = scipy.signal.butter(ORDER, band, "bandpass", fs=sfreq, output="sos")
        self.state: NDArray[np.float64] | None = None

    def __call__(self, samples: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the next samples ``(..., n_times)``, filtered.

        The first call begins as if its first sample had been there for ever.
        """
        if self.state is None:
            rest = scipy.signal.sosfilt_zi(self.sections)  # (n_sections, 2)
            rest = rest.reshape(len(rest), *[1] * (samples.ndim - 1), 2)
            self.state = rest * samples[None, ..., :1]
        filtered, self.state = scipy.signal.sosfilt(self.sections, samples, axis=-1, zi=self.state)
        result: NDArray[np.float64] = filtered
        return result


def ratio_of(sfreq: float, wanted: float) -> Fraction:
    """Return `wanted` over `sfreq` in whole numbers."""
    return Fraction(wanted / sfreq).limit_denominator(LONGEST_RATIO)


def resampled(signals: NDArray[np.float64], sfreq: float, wanted: float) -> NDArray[np.float64]:
    """Return signals ``(..., n_times)`` at another rate; sample k is at k / `wanted` seconds, however long they are.

    MNE's ways stretch a recording to a whole number of samples: up to half a sample at its end.

    Parameters
    ----------
    signals : array, shape (..., n_times)
        Without power above half of either rate.
    sfreq, wanted : float
        Hz.
    """
    ratio = ratio_of(sfreq, wanted)
    if ratio == 1:
        return signals
    up, down = ratio.numerator, ratio.denominator
    moved: NDArray[np.float64] = scipy.signal.resample_poly(signals, up, down, axis=-1, padtype="reflect")
    return moved


class TrialCutter:
    """Trials of a running stream.

    Parameters
    ----------
    band, window : tuple of float
        Hz; seconds after the cue.
    sfreq, wanted : float
        Of the stream, and of trials, Hz.
    memory : float
        Seconds that are kept: how late a cue may be told.
    """

    def __init__(
        self,
        band: tuple[float, float],
        window: tuple[float, float],
        sfreq: float,
        wanted: float,
        memory: float = 30.0,
    ):
        self.filter, self.sfreq, self.wanted, self.window = CausalFilter(band, sfreq), sfreq, wanted, window
        self.ratio = ratio_of(sfreq, wanted)
        self.n_times = round((window[1] - window[0]) * wanted)
        # An odd rate has a long grid, at which a cut begins
        self.most = round(memory * sfreq) + self.ratio.denominator + 2 * self._beyond
        self.n_pushed = 0  # samples since the stream began
        self.kept: NDArray[np.float64] | None = None

    @property
    def delay(self) -> float:
        """Seconds after a trial's end until it can be cut: half of the resampling filter."""
        return self._beyond / self.sfreq

    @property
    def _beyond(self) -> int:
        up, down = self.ratio.numerator, self.ratio.denominator
        return 0 if self.ratio == 1 else -(-TAPS * max(up, down) // up) + 1

    def push(self, samples: NDArray[np.floating]) -> None:
        """Take the next samples ``(n_chans, n)``."""
        filtered = self.filter(samples)
        self.kept = filtered if self.kept is None else np.concatenate([self.kept, filtered], axis=1)[:, -self.most :]
        self.n_pushed += samples.shape[1]

    def cut(self, cue: float) -> NDArray[np.float64] | None:
        """Return a trial ``(n_chans, n_times)``; None while it is not whole.

        Parameters
        ----------
        cue : float
            Seconds from the stream's first sample to the cue.

        Raises
        ------
        ValueError
            When its beginning was before the stream, or is forgotten.
        """
        up, down = self.ratio.numerator, self.ratio.denominator
        first = round(cue * self.wanted) + round(self.window[0] * self.wanted)
        end = -(-(first + self.n_times - 1) * down // up) + 1 + self._beyond
        if self.kept is None or end > self.n_pushed:
            return None
        oldest = self.n_pushed - self.kept.shape[1]
        begin = max(0, first * down // up - self._beyond) // down * down  # on the grid of the whole stream
        if first < 0 or begin < oldest:
            kept = oldest / self.sfreq
            raise ValueError(f"the trial of the cue at {cue:.3f} s begins before {kept:.1f} s, the oldest that is kept")
        part = self.kept[:, begin - oldest : end - oldest]
        if self.ratio == 1:
            return part[:, first - begin : first - begin + self.n_times]
        at = first - begin // down * up
        return resampled(part, self.sfreq, self.wanted)[:, at : at + self.n_times]
