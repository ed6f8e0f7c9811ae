"""`mfscsn new`: look into recordings of any kind, and write a federation's file with what was found there."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError, nearest, printable
from data.files import replaced
from data.folder import extension_of
from data.marks import is_mark
from data.preprocessing import Recording
from data.sources import KINDS, ON_DISK, open_source
from federation.contract import Contract, Training, load_federation

HOW_TO_NAME = {  # tasks, where a source of this kind has none
    "bids": "Name them as trial_type in *_events.tsv",
    "files": "Name them in a table beside each file, columns onset and trial_type: docs/own-data.md",
    "arrays": "Name them in labels",
}
GDF_TRIAL, GDF_CUES = "768", {"769", "770", "771", "772", "783"}  # codes of GDF: a trial begins; its cue
FEWEST = 4  # trials of a subject: what is annotated less often is no task
ENOUGH = 10  # trials of a class in the calibration, and in the test: fewer tell little
RESTS = {"rest", "t0"}  # T0 is how PhysioNet's EDF files call it
PAUSE = 1.5  # "rest" that comes so much more often than the other tasks is the pause between cues


@dataclass(frozen=True)
class Found:
    """What one subject of a source shows.

    Parameters
    ----------
    source : str
        As `data.sources.open_source` takes it.
    subjects : list of str
        All of the source.
    looked_at : str
        The subject whose recordings were opened.
    channels : list of str
    sfreq : float
        Hz, the lowest of its recordings.
    counts : dict
        Annotation -> how often.
    cues : list of tuple
        Session, run and annotation of each cue, in time order.
    durations : dict
        Annotation -> seconds of the shortest one that has a duration.
    begins : float
        Seconds after the cue from which on there are signals; below 0 where the recording is whole.
    pattern : str, optional
        Of a folder of files.
    """

    source: str
    subjects: list[str]
    looked_at: str
    channels: list[str]
    sfreq: float
    counts: dict[str, int]
    cues: list[tuple[str, str, str]]
    durations: dict[str, float]
    begins: float = -np.inf
    pattern: str | None = None

    @property
    def tasks(self) -> list[str]:
        """The annotations that look like tasks, in the order of their names."""
        begins = {GDF_TRIAL} if self.counts.keys() & GDF_CUES else set()
        often = {n: k for n, k in self.counts.items() if k >= FEWEST and not is_mark(n) and n not in begins}
        others = [k for n, k in often.items() if n.lower() not in RESTS]
        for rest in [n for n in often if n.lower() in RESTS]:
            if len(others) > 1 and often[rest] > PAUSE * max(others):
                often.pop(rest)
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

        Where half of them do not: the first run, where it holds all tasks, else the first third of the trials. With
        several sessions, sessions take the place of runs, whose names come again in each.
        """
        sessions = list(dict.fromkeys(session for session, _, _ in self._trials))
        what, parts = "sessions", sessions
        if len(sessions) < 2:
            what, parts = "runs", list(dict.fromkeys(run for _, run, _ in self._trials))
        if len(parts) > 1 and all(parts):
            for n in range(1, len(parts) // 2 + 1):
                if self._fewest(self._trials_of(what, parts[:n])) >= ENOUGH:
                    return {what: parts[:n]}
            if self._fewest(self._trials_of(what, parts[:1])):
                return {what: parts[:1]}
        third, half = max(1, len(self._trials) // 3), len(self._trials) // 2
        enough = (n for n in range(third, half + 1) if self._fewest([name for *_, name in self._trials[:n]]) >= ENOUGH)
        first = next(enough, third)
        if what == "runs" and len(parts) > 1 and not self._fewest([name for *_, name in self._trials[:first]]):
            return {what: self._first_of_each(parts)}
        return {"first": first}

    def _first_of_each(self, runs: Sequence[str]) -> list[str]:
        """List the first run of each task: where tasks stand in runs of their own, no run holds them all."""
        chosen: list[str] = []
        for run in runs:
            if set(self._trials_of("runs", [run])) - set(self._trials_of("runs", chosen)):
                chosen.append(run)
        return chosen

    @property
    def split(self) -> tuple[dict[str, int], dict[str, int]]:
        """Count the trials of each task in the calibration and in the test, were the subject a target."""
        ((what, value),) = self.calibration.items()
        if what == "first":
            calibration = Counter(name for *_, name in self._trials[:value])
        else:
            calibration = Counter(self._trials_of(what, value))
        return {t: calibration[t] for t in self.tasks}, {t: self.counts[t] - calibration[t] for t in self.tasks}

    @property
    def _trials(self) -> list[tuple[str, str, str]]:
        tasks = set(self.tasks)
        return [cue for cue in self.cues if cue[-1] in tasks]

    def _trials_of(self, what: str, parts: Sequence[str]) -> list[str]:
        place = ("sessions", "runs").index(what)
        return [cue[-1] for cue in self._trials if cue[place] in parts]

    def _fewest(self, names: Sequence[str]) -> int:
        return min(names.count(task) for task in self.tasks)


def look(source: str, pattern: str | None = None) -> Found:
    """Open the first subject of a source; raise InputError when it holds nothing to train on.

    Parameters
    ----------
    source : str
        As `source_of` gives it.
    pattern : str, optional
        Of a folder of files: `data.folder.FilesSource`.
    """
    opened = open_source(source, {"pattern": pattern} if pattern is not None else {})
    subjects = opened.subjects()
    if not subjects:
        raise InputError(f"{source}: has no trials")
    channels: list[str] = []
    rates, begins = list[float](), [-np.inf]
    cues, durations = list[tuple[str, str, str]](), dict[str, float]()
    for recording in opened.recordings(subjects[0]):
        raw = recording.raw
        if not channels and "eeg" in raw:
            channels = raw.copy().pick("eeg", exclude=()).ch_names
        rates.append(float(raw.info["sfreq"]))
        if hasattr(raw, "event_id"):
            begins.append(float(raw.tmin))
        for name, seconds in _cues(recording):
            cues.append((recording.session, recording.run, name))
            if seconds > 0:
                durations[name] = min(seconds, durations.get(name, np.inf))
    counts = Counter(name for *_, name in cues)
    if not rates:
        raise InputError(f"{source}: subject {subjects[0]!r} has no recording")
    contents = Found(
        source, subjects, subjects[0], channels, min(rates), dict(counts), cues, durations, max(begins), pattern
    )
    if len(contents.tasks) < 2:
        raise InputError(
            f"{source}: subject {subjects[0]!r} has the annotations {dict(counts)}; a task needs at least {FEWEST}, and"
            f" two tasks are needed. {HOW_TO_NAME.get(source.partition(':')[0], '')}".rstrip()
        )
    return contents


def _cues(recording: Recording) -> list[tuple[str, float]]:
    """List the name of each cue and how long it lasts; 0 where that is not told."""
    raw = recording.raw
    if hasattr(raw, "event_id"):
        of_code = {code: name for name, code in raw.event_id.items()}
        ends = float(raw.tmin + len(raw.times) / raw.info["sfreq"])
        return [(of_code[code], ends) for code in raw.events[:, 2].tolist()]
    marks = raw.annotations
    return [(str(name), float(seconds)) for name, seconds in zip(marks.description, marks.duration, strict=True)]


def source_of(word: str) -> str:
    """Return what kind of recordings a path holds, as ``KIND:PATH``; a word that says so already stays.

    Raises InputError for a file that is no ``.npz``: its folder is wanted.
    """
    kind, colon, _ = word.partition(":")
    if colon and kind in KINDS:
        return word
    path = Path(word)
    if path.is_file():
        if path.suffix == ".npz":
            return f"arrays:{word}"
        raise InputError(f"{word}: is a file; give the folder that holds the recordings, or trials as .npz")
    if not path.exists():
        if colon:
            raise InputError(
                f"{word}: expected one of {', '.join(f'{k}:...' for k in KINDS)}{nearest(kind, list(KINDS))}"
            )
        raise InputError(f"{word}: no such folder or file; for a data set of MOABB write moabb:CLASS")
    loose = path.is_dir() and not path.name.startswith(("sub-", "ses-")) and not any(path.glob("sub-*/"))
    if loose and any(extension_of(p) for p in path.rglob("*")):
        return f"files:{word}"
    return f"bids:{word}"


def parse_patterns(words: Sequence[str], sites: Mapping[str, str]) -> dict[str, str]:
    """Read patterns: of one site ``NAME=PATTERN``, or of all sites that have none of their own."""
    of_site: dict[str, str] = {}
    for word in words:
        name, equals, pattern = word.partition("=")
        named = [name] if equals and name in sites else [one for one in sites if one not in of_site]
        for one in named:
            if equals and name in sites and one in of_site:
                raise InputError(f"--pattern {word}: site {one!r} has one already")
            of_site[one] = pattern if equals and name in sites else word
    return of_site


def write_federation(
    path: Path,
    sites: Mapping[str, str | Path],
    pattern: str | Mapping[str, str] | None = None,
    look_at: Callable[[str], object] = lambda site: None,
) -> list[Found]:
    """Look into each site's recordings and write a commented FED.toml; raise InputError when a file lies there already.

    Parameters
    ----------
    path : Path
        Of the new file; its name names the federation.
    sites : mapping of str to str or Path
        Site -> folder, ``.npz`` file, or a source such as ``moabb:BNCI2014_001``.
    pattern : str or mapping of str to str, optional
        Of folders of files, of all sites or by site: `data.folder.FilesSource`.
    look_at : callable
        Told each site before its recordings are opened.
    """
    if path.exists():
        raise InputError(f"{path}: already exists; give another name, or remove it")
    sources = {name: source_of(str(word)) for name, word in sites.items()}
    patterns = pattern if isinstance(pattern, Mapping) else dict.fromkeys(sources, pattern)
    contents = {}
    for name, source in sources.items():
        look_at(name)
        contents[name] = look(source, patterns.get(name) if source.startswith("files:") else None)
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
    start = max(start, *(f.begins for f in contents.values()))
    end = min([end, *(f.shortest for f in contents.values() if f.shortest and f.shortest > start + 1)])
    start, end = math.ceil(1e4 * start) / 1e4, math.floor(1e4 * end) / 1e4  # within what was cut
    high = min(plain.band[1], *(0.45 * f.sfreq for f in contents.values()))
    many = "s" * (len(contents) > 1)
    lines = [
        f"# A federation of {len(contents)} site{many}, as the recordings suggest it. Read it, then",
        f"# train it on this machine: mfscsn simulate {path.name}. All keys: docs/federation-file.md.",
        "",
        'data_root = "."  # where folders of recordings lie, relative to this file',
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
        kind, _, where = f.source.partition(":")
        relative = os.path.relpath(Path(where).resolve(), path.resolve().parent)
        source = f"{kind}:{relative}" if kind in ON_DISK else f.source
        calibration, test = map(counted, f.split)
        lines += [
            "",
            "[[site]]",
            f"name = {_value(name)}",
            "",
            "[[site.dataset]]",
            f"source = {_value(source)}",
            *([f"options = {_table({'pattern': f.pattern})}"] if f.pattern is not None else []),
            f"# {len(f.subjects)} subjects; {f.looked_at} has {len(f.channels)} channels at {f.sfreq:g} Hz and the",
            f"# annotations {counted(dict(sorted(f.counts.items())))}",
            f'tasks = {_value(f.tasks)}  # a table renames: {{ hands = "both_hands", feet = "feet" }}',
            f"# channels = {_value(f.channels)}",
            f"targets = {_value(f.targets)}  # who is scored; all others train whole",
            f"calibration = {_table(f.calibration)}  # what of a target trains",
            'test = "rest"  # what of a target is scored: all that is not calibration',
            f"# of {f.looked_at} these would train: {calibration}; and these be scored: {test}",
        ]
    return "\n".join([*(" ".join(printable(line).split("\n")) if line.startswith("#") else line for line in lines), ""])


def counted(counts: Mapping[str, int]) -> str:
    """Write counts as ``left_hand 15, right_hand 14``."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings and lists are written alike in TOML


def _table(values: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{key} = {_value(value)}" for key, value in values.items()) + " }"


def parse_sites(words: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=SOURCE`` words; raise InputError for one that is none."""
    sites: dict[str, str] = {}
    for word in words:
        name, equals, source = word.partition("=")
        if not equals or not name or not source:
            raise InputError(f"--site {word}: expected NAME=FOLDER, such as clinic=recordings/clinic")
        if name in sites:
            raise InputError(f"--site {word}: site {name!r} stands there twice")
        for other, taken in sites.items():
            if Path(taken).resolve() == Path(source).resolve():
                raise InputError(
                    f"--site {word}: that is the folder of site {other!r} too; a site has its own recordings"
                )
        sites[name] = source
    return sites
