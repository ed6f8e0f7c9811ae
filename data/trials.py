"""Trials: cut windows of EEG and what is known of each; the one currency between stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNLABELLED = "unlabelled"  # the label of a trial whose task is not known, such as a competition's test trials


@dataclass(frozen=True)
class Trials:
    """Trials of one headset, in time order.

    Parameters
    ----------
    signals : array, shape (n_trials, n_chans, n_times), float32
        Microvolts.
    labels, subjects, sessions, runs : array of str, shape (n_trials,)
        The imagined task, or `UNLABELLED`, and where the trial was recorded.
    channels : tuple of str
        Names, in the order of `signals`.
    sfreq : float
        Hz.
    onsets : array, shape (n_trials,), optional
        Seconds from the recording's start to the cue; NaN, or left out, where that is not known.

    Raises
    ------
    ValueError
        When lengths do not agree.
    """

    signals: NDArray[np.float32]
    labels: NDArray[np.str_]
    subjects: NDArray[np.str_]
    sessions: NDArray[np.str_]
    runs: NDArray[np.str_]
    channels: tuple[str, ...]
    sfreq: float
    onsets: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.signals.ndim != 3 or self.signals.shape[1] != len(self.channels):
            raise ValueError(f"signals of shape {self.signals.shape} do not fit {len(self.channels)} channels")
        for name in ("labels", "subjects", "sessions", "runs"):
            if len(getattr(self, name)) != len(self.signals):
                raise ValueError(f"{len(getattr(self, name))} {name} for {len(self.signals)} trials")

    def __len__(self) -> int:
        return len(self.signals)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Trials":
        return Trials(
            self.signals[index],
            self.labels[index],
            self.subjects[index],
            self.sessions[index],
            self.runs[index],
            self.channels,
            self.sfreq,
            None if self.onsets is None else self.onsets[index],
        )

    @property
    def known_onsets(self) -> NDArray[np.float64]:
        """Onsets ``(n_trials,)``, NaN where they are not known."""
        return np.full(len(self), np.nan) if self.onsets is None else self.onsets


def shuffled_within(labels: NDArray[Any], runs: NDArray[np.str_], rng: np.random.Generator) -> NDArray[Any]:
    """Return labels ``(n_trials,)`` in another order within each run: a control keeps each run's tasks and counts."""
    shuffled = labels.copy()
    for run in dict.fromkeys(runs.tolist()):
        shuffled[runs == run] = rng.permutation(labels[runs == run])
    return shuffled


def in_order(trials: Trials, channels: Sequence[str]) -> Trials:
    """Bring channels into the order given and name them alike: CZ is Cz.

    Raises ValueError that names the channels which only one side has.
    """
    if trials.channels == tuple(channels):
        return trials
    odd = sorted({name.lower() for name in trials.channels} ^ {name.lower() for name in channels})
    if odd or len(trials.channels) != len(channels):
        shown = sorted({name for name in (*trials.channels, *channels) if name.lower() in odd})
        raise ValueError(f"the channels {shown} are not in both")
    place = {name.lower(): k for k, name in enumerate(trials.channels)}
    order = [place[name.lower()] for name in channels]
    return replace(trials, signals=trials.signals[:, order], channels=tuple(channels))


def concatenate(parts: Sequence[Trials]) -> Trials:
    """Join trials of the same channels and rate, in the order given; raise ValueError when those differ."""
    first = parts[0]
    for part in parts[1:]:
        if (part.channels, part.sfreq) != (first.channels, first.sfreq):
            raise ValueError("trials of different channels or rates cannot be joined")
    return Trials(
        np.concatenate([p.signals for p in parts]),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.subjects for p in parts]),
        np.concatenate([p.sessions for p in parts]),
        np.concatenate([p.runs for p in parts]),
        first.channels,
        first.sfreq,
        np.concatenate([p.known_onsets for p in parts]),
    )
