"""Sources of recordings, by kind: ``bids:FOLDER``, ``moabb:CLASS`` and others. Only `prepare` opens one."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from data.arrays import ArraysSource
from data.beetl import BeetlSource
from data.bids import BidsSource
from data.errors import InputError, nearest, one_line
from data.folder import FilesSource
from data.preprocessing import Recording

ON_DISK: dict[str, Callable[..., "Source"]] = {  # kinds whose name is a path
    "bids": BidsSource,
    "files": FilesSource,
    "arrays": ArraysSource,
    "beetl": BeetlSource,
}
KINDS = (*ON_DISK, "moabb", "simulated")


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
        ``bids:FOLDER``, ``files:FOLDER``, ``arrays:FILE``, ``moabb:CLASS``, ``beetl:FOLDER`` or ``simulated:NAME``.
    options : mapping, optional
        Keyword arguments of the MOABB class, of `data.bids.BidsSource`, `data.folder.FilesSource`,
        `data.beetl.BeetlSource` or `data.simulated.Centre`.

    Raises
    ------
    InputError
        For an unknown kind, folder, class or name.
    """
    kind, _, name = spec.partition(":")
    if kind in ON_DISK:
        try:
            return ON_DISK[kind](Path(name), **(options or {}))
        except TypeError as error:
            raise InputError(f"{spec}: options {dict(options or {})}: {one_line(error)}") from error
    if kind == "moabb":
        return MoabbSource(_moabb_dataset(name, dict(options or {})), dict(options or {}))
    if kind == "simulated":
        from data.simulated import simulated_dataset

        dataset = simulated_dataset(name, dict(options or {}))
        return MoabbSource(dataset, dataset.parameters)
    raise InputError(f"source {spec!r}: expected one of " + ", ".join(f"{k}:..." for k in KINDS))


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
                f"moabb:{type(self.dataset).__name__}: subject {subject} cannot be loaded: {one_line(error)}"
            ) from error
        for session, runs in data.items():
            for run, raw in runs.items():
                where = f"{type(self.dataset).__name__} subject {subject} session {session} run {run}"
                yield Recording(raw, str(session), str(run), where).by_electrodes()


def _moabb_dataset(name: str, options: dict[str, Any]) -> Any:
    import moabb.datasets

    if not hasattr(moabb.datasets, name):
        raise InputError(f"moabb:{name}: MOABB has no such data set{nearest(name, dir(moabb.datasets))}")
    try:
        return getattr(moabb.datasets, name)(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"moabb:{name}: options {options}: {one_line(error)}") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
