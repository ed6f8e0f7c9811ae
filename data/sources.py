"""Sources of recordings: ``bids:``, ``moabb:``, ``beetl:`` and ``simulated:``. Only `prepare` opens one."""

import csv
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from data.beetl import BeetlSource
from data.errors import InputError, nearest
from data.files import fingerprint
from data.preprocessing import Recording

KINDS = ("bids", "moabb", "beetl", "simulated")
IN_FOLDERS = ("bids", "beetl")  # kinds whose name is a folder
BIDS_EXTENSIONS = [".edf", ".bdf", ".vhdr", ".set", ".fif", ".gdf"]


class Source(Protocol):
    """Where recordings come from."""

    def subjects(self) -> list[str]:
        """List all subjects, in the source's order."""

    def annotations(self) -> set[str]:
        """Name all annotations; empty where only opening the recordings would tell."""

    def fingerprint(self, subject: str) -> str:
        """Digest what a subject's recordings are read from: another value means prepare again."""

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Read a subject's recordings one by one, in time order."""


def open_source(spec: str, options: Mapping[str, Any] | None = None) -> Source:
    """Open a source.

    Parameters
    ----------
    spec : str
        ``bids:FOLDER``, ``moabb:CLASS``, ``beetl:FOLDER`` or ``simulated:NAME``.
    options : mapping, optional
        Keyword arguments of the MOABB class, of `data.beetl.BeetlSource`, or of `data.simulated.Centre`.

    Raises
    ------
    InputError
        For an unknown kind, folder, class or name.
    """
    kind, _, name = spec.partition(":")
    if kind == "bids":
        return BidsSource(Path(name))
    if kind == "moabb":
        return MoabbSource(_moabb_dataset(name, dict(options or {})), dict(options or {}))
    if kind == "beetl":
        try:
            return BeetlSource(Path(name), **(options or {}))
        except TypeError as error:
            raise InputError(f"{spec}: options {dict(options or {})}: {_one_line(error)}") from error
    if kind == "simulated":
        from data.simulated import simulated_dataset

        dataset = simulated_dataset(name, dict(options or {}))
        return MoabbSource(dataset, dataset.parameters)
    raise InputError(f"source {spec!r}: expected one of " + ", ".join(f"{k}:..." for k in KINDS))


class BidsSource:
    """EEG in BIDS; cues stand in ``*_events.tsv`` as ``trial_type``.

    References
    ----------
    Pernet et al. 2019, Scientific Data 6:103.
    """

    def __init__(self, root: Path):
        self.root = root
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
        return sorted(path.name.removeprefix("sub-") for path in self.root.glob("sub-*") if path.is_dir())

    def annotations(self) -> set[str]:
        """Name all that the events files call ``trial_type``, without opening a recording."""
        names = set()
        for events in self.root.glob("sub-*/**/*_events.tsv"):
            with events.open(encoding="utf-8-sig", newline="") as file:
                names |= {row.get("trial_type") or "n/a" for row in csv.DictReader(file, delimiter="\t")}
        return names

    def fingerprint(self, subject: str) -> str:
        """Digest names, sizes and times of change of the subject's files."""
        files = sorted(path for path in (self.root / f"sub-{subject}").rglob("*") if path.is_file())
        return fingerprint(self.root, files)

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Read the subject's EEG files, by session and run."""
        import mne_bids

        matched = mne_bids.BIDSPath(root=self.root, subject=subject, datatype="eeg", suffix="eeg").match()
        paths = [path for path in matched if path.extension in BIDS_EXTENSIONS]
        if not paths:
            expected = ", ".join(f"*_eeg{extension}" for extension in BIDS_EXTENSIONS)
            raise InputError(f"bids:{self.root}: subject {subject!r} has no EEG file ({expected})")
        for path in sorted(
            paths, key=lambda p: [_natural(part) for part in (p.session or "", p.run or "", str(p.fpath))]
        ):
            events = path.copy().update(suffix="events", extension=".tsv").fpath
            _check_columns(events)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what matters is checked below, and said in one line
                    raw = mne_bids.read_raw_bids(path, verbose="ERROR", on_ch_mismatch="rename")
            except Exception as error:
                raise InputError(
                    f"{path.fpath}: it, or its *_events.tsv or *_channels.tsv, cannot be read ({_one_line(error)});"
                    " mend it, or leave the subject out with subjects = [...]"
                ) from error
            _check_ends(path.fpath, events, raw.n_times / raw.info["sfreq"])
            yield Recording(raw, path.session or "", path.run or "", str(path.fpath))


def _check_columns(events: Path) -> None:
    """Refuse an events file without trial types: MNE-BIDS would go on with whatever else is there."""
    if not events.is_file():  # a recording without cues, such as one at rest
        return
    with events.open(encoding="utf-8-sig") as file:
        columns = file.readline().rstrip("\r\n").split("\t")
    for column in ("onset", "trial_type"):
        if column not in columns:
            raise InputError(f"{events}: no column {column!r}{nearest(column, columns)}; there are {columns}")


def _check_ends(recording: Path, events: Path, seconds: float) -> None:
    """Refuse a recording that ends before its last cue: MNE would drop the cues behind its end without a word."""
    if events.is_file():
        with events.open(encoding="utf-8-sig", newline="") as file:
            onsets = [float(row["onset"]) for row in csv.DictReader(file, delimiter="\t")]
        late = sum(onset > seconds for onset in onsets)
        if late:
            raise InputError(
                f"{recording}: ends after {seconds:.1f} s, but {late} of {len(onsets)} events in {events.name} come"
                " later; is the file cut short? Mend it, or leave the subject out with subjects = [...]"
            )


class MoabbSource:
    """A MOABB data set: one that MOABB downloads, or a simulated one. Cues become annotations as MOABB sets them."""

    def __init__(self, dataset: Any, parameters: Mapping[str, Any]):
        self.dataset = dataset
        self.parameters = dict(parameters)

    def subjects(self) -> list[str]:
        """List the data set's subject numbers as text."""
        return [str(subject) for subject in self.dataset.subject_list]

    def annotations(self) -> set[str]:
        """Know nothing before recordings are opened."""
        return set()

    def fingerprint(self, subject: str) -> str:
        """Digest the data set's code, its parameters and MOABB's version."""
        import moabb

        return _digest([self.dataset.code, self.parameters, moabb.__version__, subject])

    def recordings(self, subject: str) -> Iterator[Recording]:
        """Load the subject through MOABB, which downloads what is missing, and yield its runs."""
        import moabb

        moabb.set_log_level("ERROR")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # MOABB's own affair, as is a mirror that failed
                warnings.filterwarnings("ignore", "Could not fetch", RuntimeWarning)
                data = self.dataset.get_data([int(subject)])[int(subject)]
        except Exception as error:
            raise InputError(
                f"moabb:{type(self.dataset).__name__}: subject {subject} cannot be loaded: {_one_line(error)}"
            ) from error
        for session, runs in data.items():
            for run, raw in runs.items():
                where = f"{type(self.dataset).__name__} subject {subject} session {session} run {run}"
                yield Recording(raw, str(session), str(run), where)


def _moabb_dataset(name: str, options: dict[str, Any]) -> Any:
    import moabb.datasets

    if not hasattr(moabb.datasets, name):
        raise InputError(f"moabb:{name}: MOABB has no such data set{nearest(name, dir(moabb.datasets))}")
    try:
        return getattr(moabb.datasets, name)(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"moabb:{name}: options {options}: {_one_line(error)}") from error


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key in which run 10 follows run 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
