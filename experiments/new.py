"""`mfscsn new`: look into folders of recordings, and write a federation's file with what was found there."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.bids import BidsSource
from data.errors import InputError
from data.files import replaced
from data.preprocessing import MARKS
from federation.contract import Contract, Training, load_federation

FEWEST = 4  # trials of a subject: what is annotated less often is no task
ENOUGH = 10  # trials of a class in the calibration, and in the test: fewer tell little
PAUSE = 1.5  # "rest" that comes so much more often than the other tasks is the pause between cues


@dataclass(frozen=True)
class Found:
    """What one subject of a folder shows.

    Parameters
    ----------
    folder : Path
    subjects : list of str
        All of the folder.
    looked_at : str
        The subject whose recordings were opened.
    channels : list of str
    sfreq : float
        Hz, the lowest of its recordings.
    counts : dict
        Annotation -> how often.
    cues : list of tuple
        Run and annotation of each cue, in time order.
    durations : dict
        Annotation -> seconds of the shortest one that has a duration.
    """

    folder: Path
    subjects: list[str]
    looked_at: str
    channels: list[str]
    sfreq: float
    counts: dict[str, int]
    cues: list[tuple[str, str]]
    durations: dict[str, float]

    @property
    def tasks(self) -> list[str]:
        """The annotations that look like tasks, in the order of their names."""
        often = {n: k for n, k in self.counts.items() if k >= FEWEST and not n.lower().startswith(MARKS)}
        others = [k for n, k in often.items() if n != "rest"]
        if len(others) > 1 and often.get("rest", 0) > PAUSE * max(others):
            often.pop("rest")
        return sorted(often)

    @property
    def shortest(self) -> float | None:
        """Seconds of the shortest cue of the tasks; None where no cue has a duration."""
        return min((self.durations[task] for task in self.tasks if task in self.durations), default=None)

    @property
    def targets(self) -> list[str]:
        """The last third of the subjects; all where there are fewer than three."""
        n = len(self.subjects)
        return self.subjects if n < 3 else self.subjects[-max(1, n // 3) :]

    @property
    def calibration(self) -> dict[str, Any]:
        """The first runs, or the first trials, that hold enough of each task; up to half of all.

        Where half of them do not: the first run, where it holds all tasks, else the first third of the trials.
        """
        runs = list(dict.fromkeys(run for run, _ in self._trials))
        if len(runs) > 1 and all(runs):
            for n in range(1, len(runs) // 2 + 1):
                if self._fewest(self._trials_of_runs(runs[:n])) >= ENOUGH:
                    return {"runs": runs[:n]}
            if self._fewest(self._trials_of_runs(runs[:1])):
                return {"runs": runs[:1]}
        third, half = max(1, len(self._trials) // 3), len(self._trials) // 2
        enough = (n for n in range(third, half + 1) if self._fewest([name for _, name in self._trials[:n]]) >= ENOUGH)
        return {"first": next(enough, third)}

    @property
    def split(self) -> tuple[dict[str, int], dict[str, int]]:
        """Count the trials of each task in the calibration and in the test, were the subject a target."""
        rule = self.calibration
        if "runs" in rule:
            calibration = Counter(self._trials_of_runs(rule["runs"]))
        else:
            calibration = Counter(name for _, name in self._trials[: rule["first"]])
        return {t: calibration[t] for t in self.tasks}, {t: self.counts[t] - calibration[t] for t in self.tasks}

    @property
    def _trials(self) -> list[tuple[str, str]]:
        tasks = set(self.tasks)
        return [(run, name) for run, name in self.cues if name in tasks]

    def _trials_of_runs(self, runs: Sequence[str]) -> list[str]:
        return [name for run, name in self._trials if run in runs]

    def _fewest(self, names: Sequence[str]) -> int:
        return min(names.count(task) for task in self.tasks)


def look(folder: Path) -> Found:
    """Open the first subject of a BIDS folder; raise InputError when it holds nothing to train on."""
    source = BidsSource(folder)
    subjects = source.subjects()
    channels: list[str] = []
    rates, cues, durations = list[float](), list[tuple[str, str]](), dict[str, float]()
    for recording in source.recordings(subjects[0]):
        raw = recording.raw
        channels = channels or raw.copy().pick("eeg", exclude=()).ch_names
        rates.append(float(raw.info["sfreq"]))
        names = list(map(str, raw.annotations.description))
        cues += [(recording.run, name) for name in names]
        for name, seconds in zip(names, raw.annotations.duration, strict=True):
            if seconds > 0:
                durations[name] = min(float(seconds), durations.get(name, np.inf))
    counts = Counter(name for _, name in cues)
    contents = Found(folder, subjects, subjects[0], channels, min(rates), dict(counts), cues, durations)
    if len(contents.tasks) < 2:
        raise InputError(
            f"bids:{folder}: subject {subjects[0]!r} has the annotations {dict(counts)}; a task needs at least"
            f" {FEWEST}, and two tasks are needed. Name them as trial_type in *_events.tsv"
        )
    return contents


def write_federation(path: Path, sites: Mapping[str, Path]) -> list[Found]:
    """Look into each site's folder and write a commented FED.toml; raise InputError when a file lies there already.

    Parameters
    ----------
    path : Path
        Of the new file; its name names the federation.
    sites : mapping of str to Path
        Site -> BIDS folder.
    """
    if path.exists():
        raise InputError(f"{path}: already exists; give another name, or remove it")
    contents = {name: look(folder) for name, folder in sites.items()}
    with replaced(path) as out:
        out.write(_text(path, contents).encode())
    try:
        load_federation(path)
    except InputError:
        path.unlink()
        raise
    return list(contents.values())


def _text(path: Path, contents: Mapping[str, Found]) -> str:
    plain = Contract()
    start, end = plain.window
    end = min([end, *(f.shortest for f in contents.values() if f.shortest and f.shortest > start + 1)])
    high = min(plain.band[1], *(0.45 * f.sfreq for f in contents.values()))
    many = "s" * (len(contents) > 1)
    lines = [
        f"# A federation of {len(contents)} site{many}, as the recordings suggest it. Read it, then",
        f"# train it on this machine: mfscsn simulate {path.name}. All keys: federation/contract.py.",
        "",
        'data_root = "."  # where bids: folders lie, relative to this file',
        "",
        "[contract]  # what all sites must agree on",
        f"sfreq = {plain.sfreq}  # Hz, after resampling",
        f"window = [{start}, {end:g}]  # a trial, in seconds after the cue",
        f"band = [{plain.band[0]}, {high:g}]  # Hz",
        f"electrodes = {_value(plain.electrodes)}  # where headsets meet; or names of the 10-20 system",
        "",
        "[training]",
        f"rounds = {Training().rounds}",
        "seed = 0",
    ]
    for name, f in contents.items():
        source = os.path.relpath(f.folder.resolve(), path.resolve().parent)
        calibration, test = map(counted, f.split)
        lines += [
            "",
            "[[site]]",
            f"name = {_value(name)}",
            "",
            "[[site.dataset]]",
            f"source = {_value(f'bids:{source}')}",
            f"# {len(f.subjects)} subjects; {f.looked_at} has {len(f.channels)} channels at {f.sfreq:g} Hz and the",
            f"# annotations {counted(dict(sorted(f.counts.items())))}",
            f'tasks = {_value(f.tasks)}  # a table renames: {{ hands = "both_hands", feet = "feet" }}',
            f"# channels = {_value(f.channels)}",
            f"targets = {_value(f.targets)}  # who is scored; all others train whole",
            f"calibration = {_table(f.calibration)}  # what of a target trains",
            'test = "rest"  # what of a target is scored: all that is not calibration',
            f"# of {f.looked_at} these would train: {calibration}; and these be scored: {test}",
        ]
    return "\n".join([*lines, ""])


def counted(counts: Mapping[str, int]) -> str:
    """Write counts as ``left_hand 15, right_hand 14``."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings and lists are written alike in TOML


def _table(values: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{key} = {_value(value)}" for key, value in values.items()) + " }"


def parse_sites(words: Sequence[str]) -> dict[str, Path]:
    """Read ``NAME=FOLDER`` words; raise InputError for one that is none."""
    sites: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not name or not folder:
            raise InputError(f"--site {word}: expected NAME=FOLDER, such as clinic=recordings/clinic")
        if name in sites:
            raise InputError(f"--site {word}: site {name!r} stands there twice")
        for other, taken in sites.items():
            if taken.resolve() == Path(folder).resolve():
                raise InputError(
                    f"--site {word}: that is the folder of site {other!r} too; a site has its own recordings"
                )
        sites[name] = Path(folder)
    return sites
