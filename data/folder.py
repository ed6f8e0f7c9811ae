"""Recordings in a folder that is no BIDS: which file is whose, where its cues are, and what its channels are called.

Reading is MNE's, of XDF pyxdf's. Cues are, of a recording: the rows of a table that lies beside it; else its
annotations; else the codes of its stimulus channel.

References
----------
XDF: Boulay et al., https://github.com/sccn/xdf/wiki/Specifications
"""

import csv
import glob
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.bids import natural
from data.edf import refuse_pause
from data.errors import InputError, one_line
from data.files import fingerprint
from data.preprocessing import MARKS, Recording

EXTENSIONS = (".edf", ".bdf", ".gdf", ".vhdr", ".fif", ".set", ".cnt", ".xdf")
BESIDE = {".eeg", ".vmrk", ".fdt"}  # of a recording in parts: read with its header
LOST = 0.3  # seconds from one sample to the next, in an XDF file, that no jitter explains
FIELDS = ("subject", "session", "run")
TABLES = (".csv", ".tsv", "_events.csv", "_events.tsv")  # after a recording's stem
NAME_COLUMNS = ("trial_type", "description", "label", "task", "event", "type")
ONSET_COLUMNS = ("onset", "onset_s", "time", "seconds")
DURATION_COLUMNS = ("duration", "duration_s")
RUN_IN_NAME = re.compile(r"(?P<person>.*\d)(?P<between>\D+)(?P<run>\d+)")
AMPLIFIERS = re.compile(r"^(eeg[ _-]+)|([ _-]+(ref|le|re|avg|av|a1a2))$|\.+$", re.IGNORECASE)


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
        there = [p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.startswith(".")]
        self.files = [p for p in there if p.suffix.lower() in EXTENSIONS and not _is_second_part(p)]
        if not self.files:
            raise InputError(f"files:{root}: no recording in it; {', '.join(f'*{e}' for e in EXTENSIONS)} are read")
        self.found: dict[str, list[tuple[tuple[str, str], Path]]] = {}
        form = _compiled(root, pattern) if pattern is not None else None
        for path in self.files:
            name = path.relative_to(root).as_posix()
            if (of_file := _told(name, form)) is not None:
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
            yield _read(path, session, run)


def _is_second_part(path: Path) -> bool:
    """Whether a FIF file is the rest of a long recording, which MNE reads with its first part."""
    first = re.sub(r"-\d+$", "", path.stem)
    return path.suffix.lower() == ".fif" and first != path.stem and path.with_name(first + path.suffix).exists()


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
    return name[: -len(Path(name).suffix)]


def _stem(path: Path) -> str:
    return path.name[: -len(path.suffix)]


def _read(path: Path, session: str, run: str) -> Recording:
    import mne

    refuse_pause(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = _read_xdf(path) if path.suffix.lower() == ".xdf" else mne.io.read_raw(path, verbose="ERROR")
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); mend it, or leave the subject out with subjects = [...]"
        ) from error
    notes: list[str] = []
    renamed = plain_names(raw.ch_names)
    if renamed:
        raw.rename_channels(renamed, verbose="ERROR")
        old, new = next(iter(renamed.items()))
        notes.append(f"{len(renamed)} channels get the names of their electrodes: {old!r} is {new!r}")
    if (table := _table_beside(path)) is not None:
        onsets, durations, names = read_table(table)
        if onsets and max(onsets) > raw.n_times / raw.info["sfreq"]:
            raise InputError(
                f"{table}: a cue stands at {max(onsets):g} s, and {path.name} ends after"
                f" {raw.n_times / raw.info['sfreq']:.1f} s; are the onsets in seconds?"
            )
        marks = [n.lower().startswith(MARKS) for n in raw.annotations.description]  # bad stretches stay
        kept = raw.annotations[np.flatnonzero(marks)] if any(marks) else None
        first = raw.first_time if raw.info["meas_date"] is not None else 0.0
        cues = mne.Annotations([o + first for o in onsets], durations, names, orig_time=raw.info["meas_date"])
        raw.set_annotations(cues if kept is None else cues + kept, verbose="ERROR")
    elif not len(raw.annotations):
        _annotate_codes(raw)
    return Recording(raw, session, run, str(path), notes)


def _annotate_codes(raw: Any) -> None:
    """Make annotations of a stimulus channel's codes, named by their numbers."""
    import mne

    if "stim" not in raw:
        return
    events = mne.find_events(raw, shortest_event=1, consecutive=True, verbose="ERROR")
    if len(events):
        codes = {int(code): str(code) for code in events[:, 2]}
        sfreq, first = raw.info["sfreq"], raw.first_samp
        raw.set_annotations(mne.annotations_from_events(events, sfreq, codes, first_samp=first), verbose="ERROR")


def plain_names(names: Sequence[str]) -> dict[str, str]:
    """Return better names of channels: ``Fc5.`` and ``EEG C3-REF`` are FC5 and C3.

    Only where the plain name is an electrode of the extended 10-20 system and no two channels would have it.
    """
    import mne

    spelt = {name.lower(): name for name in mne.channels.make_standard_montage("colin27_1005").ch_names}
    found = {}
    for name in names:
        plain = name
        while (shorter := AMPLIFIERS.sub("", plain).strip()) != plain:
            plain = shorter
        if plain != name and plain.lower() in spelt:
            found[name] = spelt[plain.lower()]
    taken = [*found.values(), *(name for name in names if name not in found)]
    return {old: new for old, new in found.items() if taken.count(new) == 1}


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


def _read_xdf(path: Path) -> Any:
    """Read the EEG stream of an XDF file; its marker streams become annotations."""
    import mne
    import pyxdf

    # A stream that lost samples is taken apart there, and not drawn out over the loss
    streams, _ = pyxdf.load_xdf(str(path), jitter_break_threshold_seconds=LOST, jitter_break_threshold_samples=0)
    eeg = [s for s in streams if s["info"]["type"][0].lower() == "eeg" and len(s["time_stamps"])]
    if len(eeg) != 1:
        kinds = sorted({s["info"]["type"][0] for s in streams})
        raise InputError(f"{path}: {len(eeg)} streams of type EEG, expected one; its streams are of the types {kinds}")
    (stream,) = eeg
    times, signals = stream["time_stamps"], np.asarray(stream["time_series"], dtype=float).T
    sfreq = float(stream["info"]["nominal_srate"][0]) or (len(times) - 1) / (times[-1] - times[0])
    steps = np.diff(times)
    if len(steps) and steps.max() > 1.5 / sfreq:  # dejittered: a longer step is lost samples
        at = int(steps.argmax())
        raise InputError(
            f"{path}: samples are missing for {steps[at]:.3g} s after {times[at] - times[0]:.3g} s, and all later cues"
            " would be read at a wrong place; leave the subject out with subjects = [...], or cut the file there"
        )
    listed = _channels_of(stream, len(signals))
    scale = {"volts": 1.0, "v": 1.0, "millivolts": 1e-3, "mv": 1e-3}
    factors = np.array([scale.get(unit.lower(), 1e-6) for _, _, unit in listed])
    kinds = [kind if kind in ("eeg", "eog", "emg", "ecg", "stim") else "misc" for _, kind, _ in listed]
    info = mne.create_info([name for name, _, _ in listed], sfreq, kinds)
    raw = mne.io.RawArray(signals * factors[:, None], info, verbose="ERROR")
    marks = [
        # Where the sample of that moment stands, by the rate that it is read with: amplifiers' clocks are off a little
        (float(np.interp(when, times, np.arange(len(times)))) / sfreq, str(np.ravel(value)[0]))
        for s in streams
        if s["info"]["type"][0].lower() in ("markers", "marker")
        for when, value in zip(s["time_stamps"], s["time_series"], strict=True)
        if times[0] <= when <= times[-1]
    ]
    raw.set_annotations(mne.Annotations([t for t, _ in marks], 0.0, [n for _, n in marks]), verbose="ERROR")
    return raw


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
