"""The prepared store: a data set's trials on the site's disk, memory-mapped, with a manifest.

A store is one folder: ``manifest.json`` and, for each subject, ``sub-<id>.npy`` (float32, microvolts). It is filled
subject by subject, each file and then the manifest replaced in one rename, so that a broken preparation goes on where
it stopped and a reader never sees half a subject. Reading needs numpy alone: no MNE, no MOABB.
"""

import hashlib
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, nearest
from data.files import locked, replaced, sha256
from data.plausible import amplitude
from data.preprocessing import Preprocessing, Recording, cut_trials
from data.sources import Source
from data.trials import Trials, concatenate, in_order

FORMAT = 2  # of 1, resampling moved trials by up to 6 ms
MANIFEST = "manifest.json"
INPUTS = "inputs"  # trials as networks take them, made of a store: they do not outlive a subject of it
KEYS = {"recipe", "subjects", "n_times", "sfreq"}
Relabel = Callable[[str, str, NDArray[np.str_], NDArray[np.str_]], NDArray[np.str_]]
ENTRY_KEYS = {"file", "fingerprint", "sha256", "channels", "annotations", "labels", "sessions", "runs"}


@dataclass(frozen=True)
class Recipe:
    """What a store is prepared from, and how; another recipe is another store.

    Parameters
    ----------
    source : str
        As `data.sources.open_source` takes it, with an absolute path.
    options : mapping
        Of the source.
    tasks : mapping of str to str
        Annotation -> label.
    channels : tuple of str, or None
        None: all EEG channels as recorded.
    preprocessing : Preprocessing
    """

    source: str
    options: Mapping[str, Any]
    tasks: Mapping[str, str]
    channels: tuple[str, ...] | None
    preprocessing: Preprocessing

    def document(self) -> dict[str, Any]:
        """Describe the recipe in JSON types."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        plain = {f.name: f.default for f in fields(Preprocessing) if f.default is not MISSING}
        kept = document["preprocessing"]  # a key that a later version added names no other store where it is not used
        document["preprocessing"] = {k: v for k, v in kept.items() if k not in plain or v != plain[k]}
        return document

    def folder(self, root: Path) -> Path:
        """Name the store of this recipe under `root`."""
        digest = hashlib.sha256(json.dumps([FORMAT, self.document()], sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.source.rpartition("/")[2].partition(":")[2] or Path(self.source).name)
        return root / f"{name.strip('-')}-{digest[:12]}"


class Store:
    """A store opened for reading.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    InputError
        When the folder is missing, is no store, or holds a file that the manifest does not describe.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)

    def subjects(self) -> list[str]:
        """List the prepared subjects, in the source's order."""
        return list(self.manifest["subjects"])

    def trials(self, subject: str) -> Trials:
        """Open a subject's trials, in time order; the signals are a read-only memory map."""
        entry = self._entry(subject)
        path = self.folder / entry["file"]
        shape = (len(entry["labels"]), len(entry["channels"]), self.manifest["n_times"])
        try:
            signals = np.load(path, mmap_mode="r") if shape[0] else np.empty(shape, np.float32)
        except (OSError, ValueError) as error:
            what = "damaged, cannot be read as an array" if path.exists() else "missing"
            raise InputError(f"{path}: {what}; delete it and run `mfscsn prepare`") from error
        if signals.shape != shape or signals.dtype != np.float32:
            raise InputError(
                f"{path}: holds {signals.dtype} of shape {signals.shape}, expected float32 of shape {shape};"
                " delete it and run `mfscsn prepare`"
            )
        return Trials(
            signals=signals,
            labels=np.array(entry["labels"], dtype=str),
            subjects=np.full(len(entry["labels"]), subject),
            sessions=np.array(entry["sessions"], dtype=str),
            runs=np.array(entry["runs"], dtype=str),
            channels=tuple(entry["channels"]),
            sfreq=self.manifest["sfreq"],
            onsets=np.array(entry["onsets"], dtype=float) if "onsets" in entry else None,  # older versions kept none
        )

    def cue_intervals(self, subject: str) -> dict[str, float]:
        """Return the median seconds between cues of each recording: ``"session/run"`` -> seconds."""
        return dict(self._entry(subject).get("cue_intervals", {}))  # stores of older versions have none

    def amplitudes(self, subject: str) -> dict[str, float]:
        """Return the median deviation of each recording's trials: ``"session/run"`` -> microvolts."""
        return dict(self._entry(subject).get("amplitudes", {}))

    def notes(self, subject: str) -> dict[str, int]:
        """Return what was left out of a subject's recordings, or looked odd, and in how many of them."""
        return dict(self._entry(subject).get("notes", {}))

    def unused(self, subject: str) -> dict[str, int]:
        """Count a subject's annotations that are none of the tasks."""
        return dict(self._entry(subject).get("unused", {}))

    def digest(self, subject: str) -> str:
        """Digest a subject's signals and labels as the manifest knows them."""
        entry = self._entry(subject)
        known = [entry[key] for key in ("sha256", "channels", "labels", "sessions", "runs")]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def marks(self, subject: str) -> tuple[str, str]:
        """Return what tells a subject's recordings from all others: digests of its files, and of its trials."""
        entry = self._entry(subject)
        return entry["fingerprint"], entry["sha256"]

    def _entry(self, subject: str) -> dict[str, Any]:
        if subject not in self.manifest["subjects"]:
            raise InputError(
                f"{self.folder}: subject {subject!r} is not prepared{nearest(subject, self.subjects())};"
                " run `mfscsn prepare`"
            )
        entry: dict[str, Any] = self.manifest["subjects"][subject]
        return entry


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a store's manifest; raise InputError when the folder is missing or is no store of this format."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no prepared trials; run `mfscsn prepare`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        whole = manifest.keys() >= KEYS and all(entry.keys() >= ENTRY_KEYS for entry in manifest["subjects"].values())
        if manifest["format"] == FORMAT and whole:
            return manifest
        fault = f"format {manifest['format']}, expected {FORMAT}" if whole else f"{MANIFEST} is not whole"
    except FileNotFoundError:
        fault = f"no {MANIFEST}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fault = f"{MANIFEST} cannot be read"
    raise InputError(f"{folder}: not a store of prepared trials ({fault}); move it away, or give another --store")


def prepare(
    recipe: Recipe,
    root: Path,
    source: Source,
    subjects: Sequence[str],
    progress: Callable[[str, str], None] = lambda subject, what: None,
) -> Path:
    """Prepare what is missing or has changed, subject by subject; remove what the source no longer has.

    One process at a time fills a store; another one waits.

    Parameters
    ----------
    recipe : Recipe
    root : Path
        The folder of stores.
    source : Source
    subjects : sequence of str
    progress : callable
        Called with a subject and "kept" or "prepared" when that subject is done.

    Returns
    -------
    Path
        The store's folder.

    Raises
    ------
    InputError
        For a folder that is no store, a damaged file, or a recording that cannot be used. What was prepared before
        stays.
    """
    check_tasks(recipe, [source.annotations()])  # before hours of work, where that can be told
    folder = recipe.folder(root)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root, folder.name, "", wait=math.inf):
        manifest = _open_manifest(recipe, folder)
        known = source.subjects()
        for gone in [subject for subject in manifest["subjects"] if subject not in known]:
            shutil.rmtree(folder / INPUTS, ignore_errors=True)
            (folder / manifest["subjects"].pop(gone)["file"]).unlink(missing_ok=True)
            _write_manifest(folder, manifest)
        for subject in subjects:
            entry, mark = manifest["subjects"].get(subject), source.fingerprint(subject)
            alone = entry and entry["file"] == file_of(subject, known)
            if alone and entry["fingerprint"] == mark and (folder / entry["file"]).exists():
                _check_file(folder, entry)
                progress(subject, "kept")
                continue
            if entry:
                shutil.rmtree(folder / INPUTS, ignore_errors=True)
            trials, told = _cut_subject(recipe, subject, source.recordings(subject))
            file = file_of(subject, known)
            with replaced(folder / file) as out:
                np.save(out, np.ascontiguousarray(trials.signals))
            manifest["subjects"][subject] = {
                "file": file,
                "fingerprint": mark,
                "sha256": sha256(folder / file),
                "channels": list(trials.channels),
                **told,
                "labels": trials.labels.tolist(),
                "sessions": trials.sessions.tolist(),
                "runs": trials.runs.tolist(),
                "onsets": [None if np.isnan(t) else round(t, 4) for t in trials.known_onsets.tolist()],
            }
            # The order is the source's, whatever was prepared first: training follows it
            manifest["subjects"] = {name: manifest["subjects"][name] for name in known if name in manifest["subjects"]}
            _write_manifest(folder, manifest)
            progress(subject, "prepared")
    check_tasks(recipe, [manifest["subjects"][subject]["annotations"] for subject in subjects])
    return folder


def file_of(subject: str, known: Iterable[str]) -> str:
    """Name the file of a subject's signals; of subjects whose names differ in signs alone, each has one of its own."""
    plain = re.sub(r"[^A-Za-z0-9-]", "_", subject)
    shared = sum(re.sub(r"[^A-Za-z0-9-]", "_", other) == plain for other in known) > 1
    return f"sub-{plain}{f'-{hashlib.sha256(subject.encode()).hexdigest()[:8]}' * shared}.npy"


def forget(source: str, root: Path, subject: str) -> int:
    """Remove a subject's prepared trials, and what was made of them, from all stores of a source; count the stores."""
    found = 0
    for path in sorted(root.glob("*/manifest.json")):
        folder = path.parent
        with locked(root, folder.name, "", wait=math.inf):
            manifest = read_manifest(folder)
            if manifest["recipe"]["source"] != source or subject not in manifest["subjects"]:
                continue
            entry = manifest["subjects"].pop(subject)
            shutil.rmtree(folder / INPUTS, ignore_errors=True)
            (folder / entry["file"]).unlink(missing_ok=True)
            _write_manifest(folder, manifest)
            found += 1
    return found


def _open_manifest(recipe: Recipe, folder: Path) -> dict[str, Any]:
    if folder.exists() and any(folder.iterdir()):
        manifest = read_manifest(folder)
        if manifest["recipe"] != recipe.document():
            raise InputError(f"{folder}: a store of another recipe; move it away, or give another --store")
        return manifest
    p = recipe.preprocessing
    manifest = {
        "format": FORMAT,
        "recipe": recipe.document(),
        "sfreq": p.sfreq,
        "n_times": p.n_times,
        "subjects": {},
    }
    _write_manifest(folder, manifest)
    return manifest


def _cut_subject(recipe: Recipe, subject: str, recordings: Iterator[Recording]) -> tuple[Trials, dict[str, Any]]:
    """Cut a subject's recordings; return its trials, and for the manifest what the recordings told besides."""
    parts: list[Trials] = []
    annotations, unused, notes = set[str](), Counter[str](), Counter[str]()
    intervals: dict[str, float] = {}
    amplitudes: dict[str, float] = {}
    for recording in recordings:
        annotations |= recording.annotations()
        unused.update(recording.unused(recipe.tasks))
        name = f"{recording.session}/{recording.run}"
        interval = recording.cue_interval(recipe.tasks)
        if interval is not None:
            intervals[name] = interval
        parts.append(cut_trials(recording, recipe.preprocessing, recipe.tasks, subject, recipe.channels))
        if len(parts[-1]):
            amplitudes[name] = amplitude(parts[-1].signals)
        notes.update(recording.notes)
    with_trials = [part for part in parts if len(part)]
    if not with_trials:
        window, reject = list(recipe.preprocessing.window), recipe.preprocessing.reject
        limit = f" and reject = {reject:g} microvolts" if reject is not None else ""
        raise InputError(
            f"{recipe.source}: subject {subject!r} has no trial of the tasks {sorted(recipe.tasks)} that fits the"
            f" window {window} s{limit}, its annotations are {sorted(annotations)}; mend tasks or window, or leave it"
            " out"
        )
    try:
        joined = concatenate([in_order(part, with_trials[0].channels) for part in with_trials])
    except ValueError as error:
        raise InputError(
            f"{recipe.source}: recordings of subject {subject!r} differ: {error}; name those to use, channels = [...],"
            " or set bad_channels = 'interpolate' where bad ones are dropped"
        ) from error
    _check_no_trial_twice(recipe, joined)
    return joined, {
        "annotations": sorted(annotations),
        "cue_intervals": intervals,
        "amplitudes": amplitudes,
        "unused": dict(unused),
        "notes": dict(notes),
    }


def _check_no_trial_twice(recipe: Recipe, trials: Trials) -> None:
    """Refuse copies of one trial: a copy of a training trial would be tested."""
    seen: dict[bytes, int] = {}
    for k, signals in enumerate(trials.signals):
        first = seen.setdefault(hashlib.sha256(signals.tobytes()).digest(), k)
        if first != k:
            at = [f"session {str(trials.sessions[i])!r}, run {str(trials.runs[i])!r}" for i in (first, k)]
            raise InputError(
                f"{recipe.source}: subject {str(trials.subjects[k])!r} has one trial twice, in {at[0]} and in"
                f" {at[1]}; is a recording copied there? Move one of them away"
            )


def relabelled_store(root: Path, out: Path, relabel: Relabel) -> None:
    """Copy all stores under `root` with other labels; signals are links. A control, or an attack, trains on it.

    Parameters
    ----------
    relabel : callable
        Gets the store's folder name, the subject, and of its trials the labels and ``"session/run"``; gives the
        labels to write.
    """
    shutil.rmtree(out, ignore_errors=True)
    for manifest in sorted(root.glob(f"*/{MANIFEST}")):
        document = json.loads(manifest.read_text())
        folder = out / manifest.parent.name
        folder.mkdir(parents=True)
        for subject, entry in document["subjects"].items():
            runs = np.array([f"{s}/{r}" for s, r in zip(entry["sessions"], entry["runs"], strict=True)])
            labels = np.array(entry["labels"])
            entry["labels"] = relabel(manifest.parent.name, subject, labels, runs).tolist()
            (folder / entry["file"]).symlink_to((manifest.parent / entry["file"]).resolve())
        (folder / MANIFEST).write_text(json.dumps(document))


def check_tasks(recipe: Recipe, annotations: Iterable[Iterable[str]]) -> None:
    """Raise InputError when a task is not among the annotations, a collection for each subject."""
    known = sorted({name for names in annotations for name in names})
    for task in recipe.tasks:
        # MNE-BIDS adds "/value" to a trial type that has several
        if known and task not in known and task.partition("/")[0] not in known:
            raise InputError(f"{recipe.source}: no such task {task!r}{nearest(task, known)}; there are {known}")


def _check_file(folder: Path, entry: Mapping[str, Any]) -> None:
    path = folder / entry["file"]
    if sha256(path) != entry["sha256"]:
        raise InputError(f"{path}: damaged, its hash differs from the manifest's; delete it and run `mfscsn prepare`")


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    with replaced(folder / MANIFEST) as out:
        out.write(json.dumps(manifest, indent=1).encode())
