"""EEG in BIDS: which files are a subject's recordings, in which order, and whether what stands beside them fits.

Reading is MNE-BIDS's. Here stands what it would take without a word: pauses, a second copy, another task, channels in
another order.

References
----------
Pernet et al. 2019, Scientific Data 6:103.
"""

import csv
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.edf import refuse_cut, refuse_pause
from data.errors import InputError, one_line
from data.events_table import EventsTable, read_events, without_value
from data.files import fingerprint
from data.preprocessing import Recording

EXTENSIONS = [".edf", ".bdf", ".vhdr", ".set", ".fif", ".gdf"]
LABEL = re.compile(r"[A-Za-z0-9+]+")
PAUSES = {"rest", "n/a"}  # two tasks may have them in common


class BidsSource:
    """A BIDS data set; cues stand in ``*_events.tsv`` as ``trial_type``.

    Parameters
    ----------
    root : Path
    task : str, optional
        The ``task-`` of the files to read; all of them when left out.

    Raises
    ------
    InputError
        When there is no such folder, or it is no BIDS data set.
    """

    def __init__(self, root: Path, task: str | None = None):
        self.root, self.task = root, task
        if not root.is_dir():
            raise InputError(f"bids:{root}: no such folder; mend the path, or give --data-root")
        if not any(path.is_dir() for path in root.glob("sub-*")):
            if root.name.startswith(("sub-", "ses-")):
                raise InputError(
                    f"bids:{root}: that is a part of a BIDS data set; give the folder that holds all sub-*"
                )
            raise InputError(f"bids:{root}: no sub-* folder in it; a BIDS data set was expected")

    def subjects(self) -> list[str]:
        """List the labels behind ``sub-``, sorted."""
        names = sorted(path.name.removeprefix("sub-") for path in self.root.glob("sub-*") if path.is_dir())
        for name in names:
            if not LABEL.fullmatch(name):
                raise InputError(
                    f"bids:{self.root}: folder 'sub-{name}': BIDS names a subject by letters and digits; rename it"
                )
        return names

    def annotations(self) -> set[str]:
        """Name all that the events files call ``trial_type``, without opening a recording."""
        of_task = f"_task-{self.task}_" if self.task else ""
        files = [path for path in self.root.glob("sub-*/**/*_events.tsv") if not path.name.startswith(".")]
        return {name for path in files if of_task in path.name for name in read_events(path).names}

    def fingerprint(self, subject: str) -> str:
        """Digest names, sizes and times of change of the subject's files."""
        files = (self.root / f"sub-{subject}").rglob("*")
        return fingerprint(self.root, sorted(p for p in files if p.is_file() and not p.name.startswith(".")))

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Read the subject's EEG files, by session and time of acquisition or, where that is not told, by run."""
        for path in self._in_order(self._paths(subject)):
            yield _read(path)

    def _paths(self, subject: str) -> list[Any]:
        """Find the recordings of a subject; raise InputError when they are not there or cannot be told apart."""
        mne_bids = import_mne_bids()
        folder = self.root / f"sub-{subject}"
        _check_links(folder)
        found = mne_bids.BIDSPath(root=self.root, subject=subject, datatype="eeg", suffix="eeg", task=self.task).match()
        paths = [path for path in found if path.extension in EXTENSIONS and not path.fpath.name.startswith(".")]
        if not paths:
            odd = [
                p.name for p in folder.rglob("*_eeg.*") if p.suffix not in EXTENSIONS and p.suffix.lower() in EXTENSIONS
            ]
            expected = ", ".join(f"*_eeg{extension}" for extension in EXTENSIONS)
            why = f"; there is {odd[0]}, rename it" if odd else ""
            of_task = f" of task {self.task!r}" if self.task else ""
            raise InputError(f"bids:{self.root}: subject {subject!r} has no EEG file{of_task} ({expected}){why}")
        stems: dict[Path, Path] = {}
        for path in paths:
            stem = path.fpath.with_suffix("")
            if stem in stems:
                raise InputError(
                    f"{path.fpath}: lies beside {stems[stem].name}, one recording in two formats; each trial would"
                    " count twice: move one of them away"
                )
            stems[stem] = path.fpath
        _check_tasks(paths)
        return paths

    def _in_order(self, paths: Sequence[Any]) -> list[Any]:
        times: dict[str, str] = {}
        for folder in {path.fpath.parent.parent for path in paths}:
            for scans in sorted(folder.glob("*_scans.tsv")):
                with scans.open(encoding="utf-8-sig", newline="") as file:
                    for row in csv.DictReader(file, delimiter="\t"):
                        times[Path(row.get("filename") or "").name] = row.get("acq_time") or "n/a"
        told = all(times.get(path.fpath.name, "n/a") != "n/a" for path in paths)

        def place(path: Any) -> list[Any]:
            when = [times[path.fpath.name]] if told else []
            return [natural(path.session or ""), when, natural(path.run or ""), natural(str(path.fpath))]

        return sorted(paths, key=place)


def import_mne_bids() -> Any:
    """Import MNE-BIDS, which shall not wait for a lock that a killed program has left beside a recording."""
    os.environ.setdefault("MNE_BIDS_FILELOCK_TIMEOUT", "0.2")  # it reads that when it is imported
    import mne_bids

    return mne_bids


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key by which run 10 is sorted behind run 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _check_links(folder: Path) -> None:
    """Refuse a link, or a pointer, to content that git-annex has not brought yet."""
    for path in folder.rglob("*_eeg.*"):
        pointer = path.is_file() and path.stat().st_size < 1000 and path.read_bytes().startswith(b"/annex/objects")
        if pointer or (path.is_symlink() and not path.exists()):
            raise InputError(f"{path}: a link whose content is not here; `datalad get` or `git annex get` brings it")


def _check_tasks(paths: Sequence[Any]) -> None:
    """Refuse two tasks whose cues have the same names: executed and imagined movements would be mixed."""
    of_task: dict[str, set[str]] = {}
    for path in paths:
        events = _beside(path, "events", ".tsv")
        if events.is_file():
            of_task.setdefault(path.task or "", set()).update(read_events(events).names - PAUSES)
    for task, names in of_task.items():
        for other, others in of_task.items():
            if task < other and names & others:
                raise InputError(
                    f"{paths[0].root}: subject {paths[0].subject!r} has recordings of the tasks {task!r} and {other!r},"
                    f" and both have the trial types {sorted(names & others)}; say which with"
                    f" options = {{ task = '{task}' }}"
                )


def _read(path: Any) -> Recording:
    mne_bids = import_mne_bids()
    where, events_file = path.fpath, _beside(path, "events", ".tsv")
    events = read_events(events_file) if events_file.is_file() else None  # there is none at rest
    refuse_pause(where)
    refuse_cut(where)
    sidecar = _beside(path, "eeg", ".json")
    if sidecar.is_file() and sidecar.read_bytes().startswith(b"\xef\xbb\xbf"):
        raise InputError(f"{sidecar}: begins with a byte order mark, which JSON does not allow; save it without")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is checked below, and said in one line
            raw = mne_bids.read_raw_bids(path, verbose="ERROR", on_ch_mismatch=_how_channels_match(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: it, or its *_events.tsv, *_channels.tsv or *_eeg.json, cannot be read ({one_line(error)}); mend"
            " it, or leave the subject out with subjects = [...]"
        ) from error
    notes = [f"{lock.name}: a lock that a killed program has left; remove it" for lock in where.parent.glob("*.lock")]
    if events is not None:
        _check_ends(where, events_file, events, raw.n_times / raw.info["sfreq"])
        raw.annotations.description = [without_value(str(name), events.names) for name in raw.annotations.description]
        if events.n_dropped:
            notes.append(f"{events_file.name}: {events.n_dropped} rows without an onset are left out")
    return Recording(raw, path.session or "", path.run or "", str(where), notes).by_electrodes()


def _how_channels_match(path: Any) -> str:
    """Return how ``*_channels.tsv`` is to be laid on the file's channels: by name, or by place.

    Names are matched by place only where neither list has a name of the other at another place.
    """
    import mne

    beside = _beside(path, "channels", ".tsv")
    if not beside.is_file():
        return "raise"
    lines = beside.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    column = lines[0].split("\t").index("name") if lines and "name" in lines[0].split("\t") else None
    if column is None:
        return "raise"
    listed = [line.split("\t")[column].strip() for line in lines[1:] if line.strip()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = mne.io.read_raw(path.fpath, preload=False, verbose="ERROR").ch_names
    if len(listed) != len(names) or listed == names:
        return "raise"
    if set(listed) == set(names):
        return "reorder"
    moved = [name for k, name in enumerate(listed) if name in names and names[k] != name]
    if moved:
        raise InputError(
            f"{beside}: lists {moved[0]!r} as channel {listed.index(moved[0]) + 1}, and in {path.fpath.name} that is"
            f" channel {names.index(moved[0]) + 1}; make the names the same, in any order"
        )
    return "rename"


def _check_ends(recording: Path, file: Path, events: EventsTable, seconds: float) -> None:
    """Refuse a recording that ends before its last cue: MNE would drop the cues behind its end without a word."""
    late = sum(onset > seconds for onset in events.onsets)
    if late:
        why = "are the onsets in seconds" if late > len(events.onsets) / 2 else "is the file cut short"
        raise InputError(
            f"{recording}: ends after {seconds:.1f} s, but {late} of {len(events.onsets)} events in {file.name} come"
            f" later; {why}? Mend it, or leave the subject out with subjects = [...]"
        )


def _beside(path: Any, suffix: str, extension: str) -> Path:
    file: Path = path.copy().update(suffix=suffix, extension=extension).fpath
    return file
