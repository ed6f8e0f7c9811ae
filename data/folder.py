"""Recordings in a folder that is no BIDS: which file is whose, where its cues are, and what its channels are called.

Reading is MNE's, of XDF `data.xdf`'s. Cues are, of a recording: the rows of a table that lies beside it; else its
annotations; else the codes of its stimulus channel.

"""

import csv
import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.bids import natural
from data.edf import refuse_cut, refuse_pause
from data.errors import InputError, one_line
from data.files import fingerprint
from data.marks import BROKEN, is_mark
from data.preprocessing import Recording, load_whole
from data.xdf import read_xdf

EXTENSIONS = (".edf", ".bdf", ".gdf", ".vhdr", ".fif", ".fif.gz", ".set", ".cnt", ".xdf")
BESIDE = {".eeg", ".vmrk", ".fdt"}  # of a recording in parts: read with its header
FIELDS = ("subject", "session", "run")
TABLES = (".csv", ".tsv", "_events.csv", "_events.tsv")  # after a recording's stem
NAME_COLUMNS = ("trial_type", "description", "label", "task", "event", "type")
ONSET_COLUMNS = ("onset", "onset_s", "time", "seconds")
DURATION_COLUMNS = ("duration", "duration_s")
SPLIT = re.compile(r"_split-(?P<number>\d+)")  # a part of a FIF file, as BIDS has it
TORN = re.compile(r"^[\s_.-]|[\s_.-]$")  # a name that a pattern has cut at the wrong place
STATUS_BITS, NEW_EPOCH = 0xFFFF, 1 << 16  # of BioSemi's status channel: triggers, and "the recording begins anew"
REJECTED = "1023"  # of GDF's codes: a trial that was rejected
RUN_IN_NAME = re.compile(r"(?P<person>.*\d)(?P<between>\D+)(?P<run>\d+)")


class FilesSource:
    """Recordings that lie in a folder as people have them.

    Parameters
    ----------
    root : Path
    pattern : str, optional
        Where a file's subject, session and run stand in its path below the folder, without or with extension, such as
        ``"S{subject}R{run}"`` or ``"{subject}/{session}/*"``; ``*`` is anything. When left out, the first folder below
        `root` is the subject and the rest the run; files beside one another are a subject each.

    Raises
    ------
    InputError
        When there is no such folder, or no file in it fits; one line.
    """

    def __init__(self, root: Path, pattern: str | None = None):
        self.root, self.pattern = root, pattern
        if pattern is not None and not isinstance(pattern, str):
            raise InputError(f"files:{root}: pattern = {pattern!r}: expected text, such as 'S{{subject}}R{{run}}'")
        if not root.is_dir():
            raise InputError(f"files:{root}: no such folder; mend the path, or give --data-root")
        self.files = [p for p in _files_below(root) if extension_of(p) and not _is_second_part(p)]
        if not self.files:
            raise InputError(f"files:{root}: no recording in it; {', '.join(f'*{e}' for e in EXTENSIONS)} are read")
        self.found: dict[str, list[tuple[tuple[str, str], Path]]] = {}
        form = _compiled(root, pattern) if pattern is not None else None
        self.unfit: list[str] = []
        for path in self.files:
            name = path.relative_to(root).as_posix()
            if (of_file := _told(name, form)) is None:
                self.unfit.append(name)
            else:
                _check_split(root, name, pattern, of_file)
                self.found.setdefault(of_file["subject"], []).append(((of_file["session"], of_file["run"]), path))
        if not self.found:
            raise InputError(
                f"files:{root}: pattern = {pattern!r} fits no file, such as"
                f" {self.files[0].relative_to(root).as_posix()!r}; write {{subject}}, {{session}}, {{run}} where they"
                " stand, and * for what does not matter"
            )
        if pattern is None:
            _check_no_runs_as_subjects(root, sorted(self.found))
        for subject, recordings in self.found.items():
            _check_no_copy(root, subject, recordings)

    def subjects(self) -> list[str]:
        """List the subjects, sorted by name, 2 before 10."""
        return sorted(self.found, key=natural)

    def annotations(self) -> set[str]:
        """Know nothing before recordings are opened."""
        return set()

    def fingerprint(self, subject: str) -> str:
        """Digest names, sizes and times of change of the subject's files, and of what lies beside them."""
        beside = [
            p
            for _, path in self.found[subject]
            for p in path.parent.glob(f"{glob.escape(_stem(path))}*")
            if p.is_file()
        ]
        return fingerprint(self.root, sorted({*beside, *(path for _, path in self.found[subject])}))

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Read the subject's files by session and run."""
        in_order = sorted(self.found[subject], key=lambda one: [natural(part) for part in (*one[0], str(one[1]))])
        for (session, run), path in in_order:
            recording = _read(path, session, run)
            if self.unfit and subject == self.subjects()[0] and path == in_order[0][1]:
                few = ", ".join(self.unfit[:3]) + (", ..." if len(self.unfit) > 3 else "")
                recording.notes.append(f"{len(self.unfit)} file(s) do not fit pattern = {self.pattern!r}: {few}")
            yield recording


def _files_below(root: Path) -> list[Path]:
    """List the files below a folder, those of linked folders too; each folder once."""
    found, seen = [], set()
    for folder, inner, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link that leads back up
            inner.clear()
            continue
        seen.add(place)
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(found)


def extension_of(path: Path) -> str:
    """Return which of `EXTENSIONS` a file's name ends with; none is the empty text."""
    fitting = [extension for extension in EXTENSIONS if path.name.lower().endswith(extension)]
    return path.name[-len(max(fitting, key=len)) :] if fitting else ""


def _is_second_part(path: Path) -> bool:
    """Whether a FIF file is the rest of a long recording, which MNE reads with its first part.

    Raises
    ------
    InputError
        When it is a part, as BIDS names them, and the first one is not there.
    """
    extension = extension_of(path)
    if not extension.lower().startswith(".fif"):
        return False
    stem = path.name[: -len(extension)]
    if part := SPLIT.search(stem):
        if int(part["number"]) <= 1:
            return False
        first = f"{stem[: part.start('number')]}{1:0{len(part['number'])}d}{stem[part.end('number') :]}{extension}"
        if not path.with_name(first).exists():
            raise InputError(f"{path}: is a part of a long recording, and its first, {first}, is not beside it")
        return True
    first = re.sub(r"-\d+$", "", stem)
    return first != stem and path.with_name(first + extension).exists()


def _compiled(root: Path, pattern: str) -> re.Pattern[str]:
    fields = re.findall(r"\{(\w*)\}", pattern)
    odd = [name for name in fields if name not in FIELDS]
    if odd or "subject" not in fields or len(set(fields)) < len(fields):
        raise InputError(
            f"files:{root}: pattern = {pattern!r}: expected {{subject}}, and {{session}}, {{run}}, once each"
        )
    parts = re.split(r"(\{\w+\}|\*)", pattern)
    expression = "".join(
        f"(?P<{part[1:-1]}>[^/]+?)" if part.startswith("{") else "[^/]*" if part == "*" else re.escape(part)
        for part in parts
    )
    return re.compile(expression + "(?:" + "|".join(map(re.escape, EXTENSIONS)) + ")?", re.IGNORECASE)


def _told(name: str, form: re.Pattern[str] | None) -> dict[str, str] | None:
    """Return what a file's path tells; None where it does not fit the pattern."""
    if form is not None:
        fits = form.fullmatch(name)
        return {field: (fits.groupdict().get(field) or "") for field in FIELDS} if fits else None
    stem = _stem_of(name)
    first, slash, rest = stem.partition("/")
    return {"subject": first, "session": "", "run": rest if slash else ""}


def _check_no_runs_as_subjects(root: Path, subjects: Sequence[str]) -> None:
    """Refuse names such as P065R04 and P065R08: taken for two persons, one would train where the other is tested."""
    persons: dict[str, list[str]] = {}
    for subject in subjects:
        if found := RUN_IN_NAME.fullmatch(subject):
            persons.setdefault(found["person"] + found["between"], []).append(subject)
    several = next((names for names in persons.values() if len(names) > 1), None)
    if several is None:
        return
    found = RUN_IN_NAME.fullmatch(several[0])
    assert found is not None
    letters = re.match(r"[A-Za-z]*", found["person"])
    form = f"{letters[0] if letters else ''}{{subject}}{found['between']}{{run}}"
    raise InputError(
        f"files:{root}: are {several[0]} and {several[1]} one person's runs? Then say --pattern '{form}' (in a FED.toml"
        f" options = {{ pattern = '{form}' }}); if each is a person, --pattern '{{subject}}'"
    )


def _check_no_copy(root: Path, subject: str, recordings: Sequence[tuple[tuple[str, str], Path]]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for place, path in recordings:
        if place in seen:
            raise InputError(
                f"files:{root}: {seen[place].name} and {path.name} are both session {place[0]!r}, run {place[1]!r} of"
                f" subject {subject!r}; say with options = {{ pattern = ... }} where {{run}} stands, or move one away"
            )
        seen[place] = path


def _stem_of(name: str) -> str:
    return SPLIT.sub("", name[: -len(extension_of(Path(name)))])


def _stem(path: Path) -> str:
    return path.name[: -len(extension_of(path))]


def _check_split(root: Path, name: str, pattern: str | None, found: Mapping[str, str]) -> None:
    """Refuse what a pattern cuts at the wrong place: 001_ of S001_R04 would be another person than 001."""
    for field, value in found.items():
        if pattern is not None and value and TORN.search(value):
            raise InputError(
                f"files:{root}: pattern = {pattern!r} takes {value!r} of {name!r} for the {field}; write what stands"
                " around it into the pattern, or rename the file"
            )


def _read(path: Path, session: str, run: str) -> Recording:
    import mne

    refuse_pause(path)
    refuse_cut(path)
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            raw = read_xdf(path) if path.suffix.lower() == ".xdf" else _read_raw(path, notes)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); mend it, or leave the subject out with subjects = [...]"
        ) from error
    if any(str(w.message).startswith("Omitted") for w in warned) and _has_cues_behind(path, raw):
        raise InputError(
            f"{path}: ends after {raw.n_times / raw.info['sfreq']:.1f} s, and has cues behind that; was it cut short?"
            " copy it anew, or leave the subject out with subjects = [...]"
        )
    if path.suffix.lower() == ".gdf":
        load_whole(raw, str(path))
        _mark_rejected(raw)
    if (table := _table_beside(path)) is not None:
        onsets, durations, names = read_table(table)
        if onsets and max(onsets) > raw.n_times / raw.info["sfreq"]:
            raise InputError(
                f"{table}: a cue stands at {max(onsets):g} s, and {path.name} ends after"
                f" {raw.n_times / raw.info['sfreq']:.1f} s; are the onsets in seconds?"
            )
        marks = [is_mark(n) for n in raw.annotations.description]  # bad stretches stay
        kept = raw.annotations[np.flatnonzero(marks)] if any(marks) else None
        first = raw.first_time if raw.info["meas_date"] is not None else 0.0
        cues = mne.Annotations([o + first for o in onsets], durations, names, orig_time=raw.info["meas_date"])
        raw.set_annotations(cues if kept is None else cues + kept, verbose="ERROR")
    elif "stim" in raw and not _may_be_cues(raw.annotations.description):
        _annotate_codes(raw, notes)
    return Recording(raw, session, run, str(path), notes).by_electrodes()


def _read_raw(path: Path, notes: list[str]) -> Any:
    """Read by MNE; annotations that are no UTF-8, as older programs write them, are Latin-1."""
    import mne

    try:
        return mne.io.read_raw(path, verbose="WARNING")
    except Exception as error:
        if "encoding='latin1'" not in str(error):
            raise
    notes.append("its annotations are no UTF-8, and read as Latin-1")
    return mne.io.read_raw(path, encoding="latin1", verbose="WARNING")


def _has_cues_behind(path: Path, raw: Any) -> bool:
    """Whether cues were left out that stand behind a recording's end, and not what stands before its first sample."""
    import mne

    try:
        every = mne.read_annotations(path, encoding="latin1" if path.suffix.lower() in (".edf", ".bdf") else "utf8")
    except Exception:  # no reader for the format: what was left out may be a cue
        return True
    begin = raw.first_time if every.orig_time is not None else 0.0
    behind = every.onset - begin >= raw.n_times / raw.info["sfreq"]
    return any(not is_mark(str(name)) for name in every.description[behind])


def _may_be_cues(names: Sequence[str]) -> bool:
    """Whether annotations can be cues: marks are none, nor are comments, each of which stands there once."""
    often = Counter(name for name in names if not is_mark(name))
    return any(count > 1 for count in often.values())


def _annotate_codes(raw: Any, notes: list[str]) -> None:
    """Make annotations of a stimulus channel's codes, named by their numbers, beside those that mark signals."""
    import mne

    channel = raw.ch_names[mne.pick_types(raw.info, meg=False, stim=True)[0]]
    words = {"stim_channel": channel, "shortest_event": 1, "consecutive": True, "verbose": "ERROR"}
    events = mne.find_events(raw, mask=STATUS_BITS, mask_type="and", **words)
    anew = mne.find_events(raw, mask=NEW_EPOCH, mask_type="and", **words)
    marked = raw.annotations
    sfreq, first = raw.info["sfreq"], raw.first_samp
    for found, names in (
        (events, {int(code): str(code) for code in events[:, 2]}),
        (anew[anew[:, 0] > first], {NEW_EPOCH: BROKEN}),
    ):
        if len(found):
            made = mne.annotations_from_events(
                found, sfreq, names, first_samp=first, orig_time=raw.info["meas_date"] if marked.orig_time else None
            )
            marked = marked + made if len(marked) else made
    raw.set_annotations(marked, verbose="ERROR")
    if len(events):
        notes.append(f"cues are the codes of channel {channel!r}")


def _mark_rejected(raw: Any) -> None:
    """Mark what GDF calls a rejected trial, and samples that are missing: every channel at its least at once."""
    import mne

    raw.annotations.rename({REJECTED: f"BAD {REJECTED}"} if REJECTED in raw.annotations.description else {})
    signals = raw.get_data("data") if len(mne.pick_types(raw.info, eeg=True)) == 0 else raw.get_data("eeg")
    missing = (~np.isfinite(signals) | (signals == np.nanmin(signals, axis=1, keepdims=True))).all(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(int))).reshape(-1, 2)
    edges = edges[edges[:, 1] - edges[:, 0] > 2]
    if not len(edges):
        return
    sfreq, begin = raw.info["sfreq"], raw.first_time if raw.annotations.orig_time is not None else 0.0
    marks = mne.Annotations(
        edges[:, 0] / sfreq + begin, (edges[:, 1] - edges[:, 0]) / sfreq, "BAD missing", raw.annotations.orig_time
    )
    for low, high in edges:  # NaN would spoil the whole recording
        raw._data[:, low:high] = np.nan_to_num(raw._data[:, low:high])
    raw.set_annotations(raw.annotations + marks, verbose="ERROR")


def _table_beside(path: Path) -> Path | None:
    there = [path.with_name(_stem(path) + ending) for ending in TABLES]
    found = [table for table in there if table.is_file()]
    if len(found) > 1:
        raise InputError(f"{path}: {found[0].name} and {found[1].name} both lie beside it; move one of them away")
    return found[0] if found else None


def read_table(path: Path) -> tuple[list[float], list[float], list[str]]:
    """Read a table of cues: a row each, columns separated by commas, semicolons or tabs, named in the first row.

    Returns
    -------
    onsets, durations : list of float
        Seconds; a duration that is not told is 0.
    names : list of str

    Raises
    ------
    InputError
        When a column is missing or an onset is no number; one line with the row and the value.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    head = text.splitlines()[0] if text.strip() else ""
    delimiter = max("\t;,", key=head.count)
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or []}

    def column(names: Sequence[str], what: str) -> str | None:
        known = [columns[name] for name in names if name in columns]
        if not known and what:
            raise InputError(f"{path}: no column of {what} ({', '.join(names)}); there are {[*columns]}")
        return known[0] if known else None

    at, named = column(ONSET_COLUMNS, "onsets in seconds"), column(NAME_COLUMNS, "names of cues")
    lasting = column(DURATION_COLUMNS, "")
    onsets, durations, names = list[float](), list[float](), list[str]()
    for number, row in enumerate(rows, 2):
        if not any((value or "").strip() for value in row.values() if isinstance(value, str)):
            continue
        onsets.append(_seconds(path, number, row, at))
        told = lasting is not None and (row[lasting] or "").strip().lower() not in ("", "n/a", "nan")
        durations.append(_seconds(path, number, row, lasting) if told else 0.0)
        names.append((row[named or ""] or "").strip())
    return onsets, durations, names


def _seconds(path: Path, number: int, row: Mapping[str, str | None], column: str | None) -> float:
    text = (row[column or ""] or "").strip()
    try:
        value = float(text)
    except ValueError as error:
        comma = "; decimals are written with a point" if "," in text else ""
        raise InputError(f"{path}: line {number}: {column} {text!r} is no number of seconds{comma}") from error
    if not 0 <= value < np.inf:
        raise InputError(f"{path}: line {number}: {column} {text!r}: expected seconds from the recording's start on")
    return value
