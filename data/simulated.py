"""Simulated motor-imagery EEG, as a MOABB data set: cortical sources in MNE's spherical head model.

What is in it: mu (8-13 Hz) and beta (16-26 Hz) rhythms over the hand, foot and tongue areas that desynchronise while
their limb is imagined, stronger on the far side; a strong occipital alpha that knows nothing of the task; a 1/f
background of many cortical dipoles; blinks; sensor noise. Subjects differ in how the cap sits, in where and how their
sources point, in the rhythms' frequency and strength, in the depth and timing of the desynchronisation, in how often
they do not imagine at all, and in noise. Sessions of one subject drift. Nothing here was fitted to a method's score.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import mne
import numpy as np
from moabb.datasets.base import BaseDataset
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from scipy.signal import butter, sosfiltfilt

from data.errors import InputError, nearest

VERSION = 1  # part of the fingerprint: raise it whenever a signal would come out differently
HEAD_RADIUS, CORTEX_RADIUS = 0.09, 0.072  # metres
# Directions of cortical areas as seen from the head's centre: right, front, up
AREAS = {
    "left_hand_area": (0.52, 0.0, 0.85),  # right hemisphere
    "right_hand_area": (-0.52, 0.0, 0.85),
    "foot_area": (0.0, -0.08, 1.0),
    "tongue_area": (0.82, 0.12, 0.55),
    "occipital": (0.12, -0.92, 0.38),
}
# How deep each area's rhythms sink for a task, as a share of the subject's own depth
MODULATION = {
    "rest": {},
    "left_hand": {"left_hand_area": 1.0, "right_hand_area": 0.35},
    "right_hand": {"right_hand_area": 1.0, "left_hand_area": 0.35},
    "hands": {"left_hand_area": 0.9, "right_hand_area": 0.9},
    "feet": {"foot_area": 1.0, "left_hand_area": -0.25, "right_hand_area": -0.25},
    "tongue": {"tongue_area": 1.0, "left_hand_area": 0.1, "right_hand_area": 0.1},
}
MONTAGES = {
    "eeg64": "Fp1 Fpz Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3"
    " C1 Cz C2 C4 C6 T8 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
    " T9 T10",
    "cho64": "Fp1 AF7 AF3 F1 F3 F5 F7 FT7 FC5 FC3 FC1 C1 C3 C5 T7 TP7 CP5 CP3 CP1 P1 P3 P5 P7 P9 PO7 PO3 O1 Iz Oz POz"
    " Pz CPz Fpz Fp2 AF8 AF4 AFz Fz F2 F4 F6 F8 FT8 FC6 FC4 FC2 FCz Cz C2 C4 C6 T8 TP8 CP6 CP4 CP2 P2 P4 P6 P8 P10 PO8"
    " PO4 O2",
    "eeg32": "Fp1 Fp2 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8 CP5 CP1 CP2 CP6 P7 P3 Pz P4 P8 PO7 PO3 PO4 PO8 O1"
    " Oz O2",
    "bnci22": "Fz FC3 FC1 FCz FC2 FC4 C5 C3 C1 Cz C2 C4 C6 CP3 CP1 CPz CP2 CP4 P1 Pz P2 POz",
    "eeg16": "Fp1 Fp2 F7 F3 F4 F8 T7 C3 Cz C4 T8 P3 Pz P4 O1 O2",
    "motor11": "FC5 FC1 FC2 FC6 C3 Cz C4 CP5 CP1 CP2 CP6",
}


@dataclass(frozen=True)
class Centre:
    """A simulated centre: headset, tasks, subjects. Every value can be set by ``options`` in a TOML.

    Parameters
    ----------
    montage : str or list of str
        A key of `MONTAGES`, or names of the 10-05 system.
    sfreq : float
        Hz.
    tasks : list of str
        Keys of `MODULATION`.
    n_subjects, n_runs, n_trials : int
        Trials of each task in each run.
    depth : float
        Mean depth of desynchronisation, 0 (none) to 1 (the rhythm vanishes).
    noise : float
        Scale of background and sensor noise.
    trial_length, pause : float
        Seconds of imagery, and between trials.
    seed : int
    """

    montage: str | list[str] = "eeg32"
    sfreq: float = 250.0
    tasks: list[str] = field(default_factory=lambda: ["left_hand", "right_hand"])
    n_subjects: int = 8
    n_runs: int = 3
    n_trials: int = 10
    depth: float = 0.5
    noise: float = 1.0
    trial_length: float = 4.0
    pause: float = 2.5
    seed: int = 0

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)


CENTRES = {
    "university": Centre("eeg64", 160.0, ["left_hand", "right_hand", "feet"], 12, 3, 10, seed=101),
    "clinic": Centre("eeg16", 125.0, ["right_hand", "rest"], 12, 4, 10, noise=1.3, seed=202),
    "laboratory": Centre("motor11", 250.0, ["left_hand", "right_hand", "rest"], 10, 4, 8, seed=303),
    # Headsets and tasks of the three source data sets that BEETL allows, with fewer subjects and trials
    "Cho2017": Centre("cho64", 512.0, ["left_hand", "right_hand"], 8, 1, 50, 0.6, 0.8, seed=404),
    "PhysionetMI": Centre(
        "eeg64", 160.0, ["left_hand", "right_hand", "feet", "hands", "rest"], 12, 2, 8, 0.6, 0.8, seed=505
    ),
    "BNCI2014_001": Centre(
        "bnci22", 250.0, ["left_hand", "right_hand", "feet", "tongue"], 6, 2, 12, 0.6, 0.8, seed=606
    ),
}


class SimulatedImagery(BaseDataset):  # type: ignore[misc]
    """Motor-imagery EEG that MOABB reads like any other data set; nothing is downloaded or kept on disk.

    Parameters
    ----------
    centre : Centre
    code : str
        MOABB's name of the data set, in Camel-Kebab-Case.

    Raises
    ------
    InputError
        For an unknown task, montage or electrode, or a rate under 60 Hz.
    """

    def __init__(self, centre: Centre, code: str = "SimulatedImagery"):
        self.centre = centre
        names = MONTAGES.get(centre.montage) if isinstance(centre.montage, str) else " ".join(centre.montage)
        if names is None:
            raise InputError(f"simulated montage {centre.montage!r}: expected one of {sorted(MONTAGES)}, or a list")
        self.channels = names.split()
        known = mne.channels.make_standard_montage("colin27_1005").ch_names
        for name in self.channels:
            if name not in known:
                raise InputError(f"simulated electrode {name!r} is not in the 10-05 system{nearest(name, known)}")
        for task in centre.tasks:
            if task not in MODULATION:
                raise InputError(f"simulated task {task!r}: expected one of {sorted(MODULATION)}")
        if centre.sfreq < 60:
            raise InputError(f"simulated sfreq {centre.sfreq:g} Hz: at least 60 is needed for the beta rhythm")
        super().__init__(
            subjects=list(range(1, centre.n_subjects + 1)),
            sessions_per_subject=1,
            events={task: k + 1 for k, task in enumerate(centre.tasks)},
            code=code,
            interval=[0, centre.trial_length],
            paradigm="imagery",
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """All that decides the signals."""
        return {"version": VERSION, **asdict(self.centre)}

    def data_path(self, *args: Any, **kwargs: Any) -> list[str]:
        """Return no path: nothing lies on disk."""
        return []

    def _get_single_subject_data(self, subject: int) -> dict[str, dict[str, Any]]:
        rng = np.random.default_rng([self.centre.seed, subject])
        person = _Person(rng, self.centre)
        leadfield = person.leadfield(self.channels, self.centre.sfreq)
        return {"0": {str(run): self._run(person, leadfield, rng) for run in range(self.centre.n_runs)}}

    def _run(self, person: "_Person", leadfield: NDArray[np.float64], rng: np.random.Generator) -> Any:
        c = self.centre
        tasks = rng.permutation(np.repeat(c.tasks, c.n_trials))
        gaps = c.trial_length + c.pause + rng.uniform(0, 1, len(tasks))
        onsets = 3.0 + np.concatenate([[0.0], np.cumsum(gaps[:-1])])
        n = round((onsets[-1] + c.trial_length + 3.0) * c.sfreq)
        signals = leadfield @ person.sources(n, c.sfreq, tasks, onsets, c.trial_length, rng)
        signals += person.noise * 2e-6 * rng.standard_normal(signals.shape)
        info = mne.create_info(self.channels, c.sfreq, "eeg")
        raw = mne.io.RawArray(signals - signals.mean(axis=0) * person.common_reference, info, verbose="ERROR")
        raw.set_montage("colin27_1005", verbose="ERROR")
        raw.set_annotations(mne.Annotations(onsets, c.trial_length, list(tasks)))
        return raw


class _Person:
    """One simulated subject: anatomy, rhythms, skill."""

    def __init__(self, rng: np.random.Generator, centre: Centre):
        self.mu = rng.uniform(9.0, 12.5)
        self.beta = rng.uniform(18.0, 24.0)
        self.alpha = self.mu + rng.uniform(-1.0, 1.0)
        depth = float(np.clip(rng.normal(centre.depth, 0.15), 0.1, 0.85))
        self.depth = depth if centre.depth > 0 else 0.0
        self.lapses = rng.uniform(0.05, 0.3)  # share of trials in which nothing is imagined
        self.latency = rng.uniform(0.3, 0.8)  # seconds from cue to desynchronisation
        self.noise = centre.noise * rng.lognormal(0.0, 0.25)
        self.common_reference = 1.0 if rng.random() < 0.5 else 0.9
        self.cap = rng.normal(0.0, 0.05, 3)  # how the cap is turned, radians
        self.rhythm = {area: rng.lognormal(0.0, 0.3) for area in AREAS}  # strength
        n_background = 60
        scattered = rng.normal(size=(n_background, 3))
        scattered[:, 2] = np.abs(scattered[:, 2])
        directions = np.vstack([np.array(list(AREAS.values())) + rng.normal(0, 0.06, (len(AREAS), 3)), scattered])
        self.positions = CORTEX_RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        outward = self.positions / CORTEX_RADIUS
        tilt = np.vstack([rng.normal(0, 0.35, (len(AREAS), 3)), rng.normal(0, 1.0, (n_background, 3))])
        normals = outward + tilt
        self.normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        self.background = rng.lognormal(0.0, 0.4, n_background)

    def leadfield(self, channels: list[str], sfreq: float) -> NDArray[np.float64]:
        """Volts at each channel for a dipole of 1 A m at each source: ``(n_chans, n_sources + 1)``, blinks last."""
        info = mne.create_info(channels, sfreq, "eeg")
        montage = mne.channels.make_standard_montage("colin27_1005", head_size=HEAD_RADIUS)
        at = {name: self._turned(position) for name, position in montage.get_positions()["ch_pos"].items()}
        info.set_montage(mne.channels.make_dig_montage({name: at[name] for name in channels}, coord_frame="head"))
        sphere = mne.make_sphere_model((0.0, 0.0, 0.0), HEAD_RADIUS, verbose="ERROR")
        sources = mne.setup_volume_source_space(
            pos={"rr": self.positions, "nn": self.normals}, sphere=sphere, verbose="ERROR"
        )
        forward = mne.make_forward_solution(info, None, sources, sphere, meg=False, eeg=True, verbose="ERROR")
        forward = mne.convert_forward_solution(forward, force_fixed=True, use_cps=False, verbose="ERROR")
        electrodes = np.array([at[name] for name in channels])
        eyes = np.array([0.0, 0.085, -0.02])
        blink = 1.0 / np.square(np.linalg.norm(electrodes - eyes, axis=1) / 0.05)
        return np.column_stack([forward["sol"]["data"], blink * 1e-6])

    def sources(
        self,
        n: int,
        sfreq: float,
        tasks: NDArray[np.str_],
        onsets: NDArray[np.float64],
        trial_length: float,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Moments in A m, ``(n_sources + 1, n)``, blinks (in units of a microvolt at 5 cm) last."""
        suppression = {area: np.zeros(n) for area in AREAS}
        seconds = np.arange(n) / sfreq
        for task, onset in zip(tasks, onsets, strict=True):
            effort = 0.0 if rng.random() < self.lapses else float(np.clip(rng.normal(1.0, 0.25), 0.2, 1.5))
            rise = onset + self.latency + rng.normal(0, 0.1)
            fall = onset + trial_length + rng.normal(0.2, 0.15)
            course = _sigmoid((seconds - rise) / 0.12) * _sigmoid((fall - seconds) / 0.15)
            for area, share in MODULATION[str(task)].items():
                suppression[area] += effort * share * self.depth * course
        rhythms = []
        for area in AREAS:
            envelope = 1.0 - np.clip(suppression[area], -0.5, 0.95)
            if area == "occipital":
                wave = 2.2 * _rhythm(n, sfreq, self.alpha, 2.0, rng)
            else:
                wave = _rhythm(n, sfreq, self.mu, 2.0, rng) + 0.45 * _rhythm(n, sfreq, self.beta, 5.0, rng)
            rhythms.append(11e-9 * self.rhythm[area] * envelope * wave)
        background = self.noise * 7e-9 * self.background[:, None] * _pink(len(self.background), n, rng)
        blinks = np.zeros(n)
        for at in np.flatnonzero(rng.random(int(n / sfreq)) < 0.15):
            blinks += 90.0 * np.exp(-0.5 * np.square((seconds - at - rng.uniform(0, 1)) / 0.08))
        return np.vstack([*rhythms, background, blinks])

    def _turned(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, z = self.cap
        turned: NDArray[np.float64] = position + np.cross([x, y, z], position)
        return HEAD_RADIUS * turned / np.linalg.norm(turned)


def simulated_dataset(name: str, options: dict[str, Any] | None = None) -> SimulatedImagery:
    """Make the simulated centre of that name, with `options` in place of its own values.

    Raises
    ------
    InputError
        For an unknown name or option.
    """
    if name not in CENTRES:
        raise InputError(f"simulated:{name}: expected one of {sorted(CENTRES)}{nearest(name, list(CENTRES))}")
    known = asdict(CENTRES[name])
    for key in options or {}:
        if key not in known:
            raise InputError(f"simulated:{name}: unknown option {key!r}{nearest(key, list(known))}")
    try:
        return SimulatedImagery(TypeAdapter(Centre).validate_json(json.dumps({**known, **(options or {})})))
    except ValidationError as error:
        fault = error.errors()[0]
        where = f"simulated:{name}: option {fault['loc'][0]!r}"
        raise InputError(f"{where}: {fault['msg'].lower()}, found {fault['input']!r}") from error


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    value: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(x / 2.0))
    return value


def _rhythm(n: int, sfreq: float, centre: float, width: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Make a narrow-band wave of unit power that waxes and wanes by itself."""
    band = butter(2, [centre - width / 2, centre + width / 2], "bandpass", fs=sfreq, output="sos")
    wave = sosfiltfilt(band, rng.standard_normal(n))
    slow = butter(1, 0.15, "lowpass", fs=sfreq, output="sos")
    drift = sosfiltfilt(slow, rng.standard_normal(n))
    value: NDArray[np.float64] = wave / wave.std() * np.exp(0.35 * drift / drift.std())
    return value


def _pink(rows: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Make rows of unit power whose spectrum falls with 1/f."""
    size = 1 << (n - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal((rows, size)))
    frequency = np.fft.rfftfreq(size)
    spectrum[:, 1:] /= np.sqrt(frequency[1:] * size)
    spectrum[:, 0] = 0.0
    wave = np.fft.irfft(spectrum, size)[:, :n]
    value: NDArray[np.float64] = wave / wave.std(axis=1, keepdims=True)
    return value
