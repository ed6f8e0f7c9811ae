"""What recordings show that EEG does not: a wrong unit, names that are no electrodes, clipped channels, hum."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST, MOST = 0.05, 1000.0  # microvolts that band-passed EEG deviates by; no headset is off by more
ODD = 20.0  # times the other channels: no electrode sees so much more, or less, than the others
CLIPPED = 0.01  # share of samples at a channel's largest or smallest value
HUM = 20.0  # dB of the mains above the frequencies beside them
MAINS = (50.0, 60.0)  # Hz
NO_ELECTRODE = re.compile(
    r"^(h|v)?eog|^e[ck]g|^emg|^acc(el)?([ _\d-]|[xyz]$|$)|^gyr|^gsr|^resp|^ppg|^pleth|^sti(m)?[ _\d-]|^sti(m)?$"
    r"|^trig|^marker|^status$|^counter$|^timestamps?$",
    re.IGNORECASE,
)


def amplitude(signals: NDArray[Any]) -> float:
    """Take the median over trials and channels of the deviation in time of ``(n_trials, n_chans, n_times)``."""
    return float(np.median(signals.std(axis=2)))


def found_unit(signals: NDArray[Any]) -> str:
    """Tell volts from microvolts: EEG deviates by 1 to 1000 microvolts, and no headset is off by a hundredfold."""
    return "volts" if amplitude(signals) < 1e-2 else "microvolts"


def implausible(microvolts: NDArray[Any]) -> str | None:
    """Return what is wrong with the unit of trials ``(n_trials, n_chans, n_times)``; None where it can be EEG."""
    found = amplitude(microvolts)
    if LEAST <= found <= MOST:
        return None
    return f"its channels deviate by {found:.3g} microvolts in the band, and EEG by {LEAST:g} to {MOST:g}"


def odd_channels(microvolts: NDArray[np.float32], names: Sequence[str]) -> list[str]:
    """Name, a line each, the channels of ``(n_trials, n_chans, n_times)`` that are far from the others."""
    deviations = np.median(microvolts.std(axis=2), axis=0)
    usual = float(np.median(deviations))
    return [
        f"channel {name!r} deviates by {found:.3g} microvolts where others have {usual:.3g}"
        for name, found in zip(names, deviations, strict=True)
        if not usual / ODD <= found <= usual * ODD
    ]


def clipped_channels(signals: NDArray[np.float64], names: Sequence[str]) -> list[str]:
    """Name, in one line, the channels of unfiltered ``(..., n_chans, n_times)`` that stand at an end of their range."""
    by_channel = np.moveaxis(signals, -2, 0).reshape(signals.shape[-2], -1)
    ends = np.stack([by_channel.min(axis=1), by_channel.max(axis=1)])
    shares = (by_channel == ends[:, :, None]).mean(axis=2).max(axis=0)
    clipped = [name for name, share in zip(names, shares, strict=True) if share > CLIPPED]
    if not clipped:
        return []
    return [f"clipped: {clipped} stand at an end of their range in up to {100 * shares.max():.0f} % of the samples"]


def hum(signals: NDArray[np.float64], sfreq: float) -> list[str]:
    """Say, in one line, by how much the mains stand out of unfiltered ``(n_chans, n_times)``, where that is much.

    Band-passed trials hold none of it, but a headset that hums so has a loose ground or reference.
    """
    from scipy.signal import welch  # a second to load, and every command reads this file

    n = min(signals.shape[-1], round(2 * sfreq))  # half a hertz
    frequencies, power = welch(signals, sfreq, nperseg=n)
    for mains in MAINS:
        apart = np.abs(frequencies - mains)
        at, beside = apart <= 1, (apart > 2) & (apart <= 6)
        if frequencies[-1] < mains + 3 or not at.any() or not beside.any():
            continue
        ratios = power[:, at].max(axis=1) / np.maximum(np.median(power[:, beside], axis=1), np.finfo(float).tiny)
        above = 10 * np.log10(np.maximum(np.median(ratios), 1))
        if above > HUM:
            return [
                f"mains: {mains:g} Hz stand {above:.0f} dB above what is beside them; ground or reference is loose?"
            ]
    return []


def without_electrode(names: Sequence[str]) -> list[str]:
    """List the channels whose names say that they are on no scalp: eyes, muscles, heart, movement, triggers."""
    return [name for name in names if NO_ELECTRODE.search(name)]
