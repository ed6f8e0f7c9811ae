"""`mfscsn doctor`: look at this machine before a run does; a line a finding, with what to do."""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from data.errors import InputError
from data.sources import open_source
from data.store import check_tasks
from experiments.prepare import subjects_of
from federation.contract import load_federation

MEMORY, DISK = 4.0, 10.0  # GiB, below which the demonstration or an installation has failed


@dataclass(frozen=True)
class Check:
    """One thing looked at: in order or not, what was seen, and what to do where it is not."""

    good: bool
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{'ok   ' if self.good else 'wrong'} {self.seen}" + (f"; {self.remedy}" if self.remedy else "")


def examine(
    federation: Path | None, data_root: Path | None, store: Path, runs: Path, ports: list[int]
) -> Iterator[Check]:
    """Look at packages, folders, data, ports and memory, one after another.

    Parameters
    ----------
    federation, data_root : Path, optional
        Whose recordings are looked for, and where its ``bids:`` folders lie.
    store, runs : Path
        Folders that a run writes into.
    ports : list of int
        That must be free on this machine.
    """
    yield _torch_pair()
    yield from _packages()
    for what, folder in (("prepared trials", store), ("runs", runs)):
        yield _writable(what, folder)
    if federation is not None:
        yield from _recordings(federation, data_root)
    for port in ports:
        yield _port(port)
    yield from _room(store)


def _torch_pair() -> Check:
    versions = {name: _installed(name) for name in ("torch", "torchaudio")}
    if versions["torchaudio"] is None:  # braindecode alone wants it
        return Check(True, f"torch {versions['torch']}")
    seen = f"torch {versions['torch']}, torchaudio {versions['torchaudio']}"
    remedy = "they must be of one release: pip install 'torch==2.11.*' 'torchaudio==2.11.*'"
    pair = [re.match(r"\d+\.\d+", value or "") for value in versions.values()]
    good = all(pair) and pair[0].group() == pair[1].group()  # type: ignore[union-attr]
    return Check(good, seen, "" if good else remedy)


def _packages() -> Iterator[Check]:
    wrong = []
    for line in requires("mfscsn") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _installed(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed or 'is missing'}, expected {requirement.specifier}")
    for line in wrong:
        yield Check(False, line, "pip install --upgrade mfscsn in an environment of its own")
    if not wrong:
        yield Check(True, f"mfscsn {version('mfscsn')} and all packages that it asks for")


def _writable(what: str, folder: Path) -> Check:
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return Check(True, f"{folder}: {what} can be written")
    except OSError as error:
        name = "--store" if what == "prepared trials" else "--out"
        return Check(
            False, f"{folder}: {what} cannot be written ({error.strerror})", f"give another {name}, or mend its rights"
        )


def _recordings(path: Path, data_root: Path | None) -> Iterator[Check]:
    try:
        federation = load_federation(path, data_root)
    except InputError as error:
        yield Check(False, str(error))
        return
    yield Check(True, f"{path}: {len(federation.site)} sites")
    for site in federation.site:
        for dataset in site.dataset:
            try:
                source = open_source(dataset.source, dataset.options)
                subjects = subjects_of(source, dataset)
                check_tasks(dataset.recipe(federation.contract), [source.annotations()])
            except InputError as error:
                yield Check(False, f"site {site.name!r}: {error}")
            else:
                yield Check(True, f"site {site.name!r}: {dataset.source}, {len(subjects)} subjects")


def _port(port: int) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return Check(
                False, f"port {port} is taken ({error.strerror})", "stop what listens there, or give another port"
            )
    return Check(True, f"port {port} is free")


def _room(store: Path) -> Iterator[Check]:
    there = next(path for path in (store.resolve(), *store.resolve().parents) if path.exists())
    memory, disk = psutil.virtual_memory().available / 2**30, shutil.disk_usage(there).free / 2**30
    cores = len(os.sched_getaffinity(0))
    few = "" if memory >= MEMORY else f"at least {MEMORY:g} are needed; close other programs"
    yield Check(not few, f"{memory:.1f} GiB of memory free, {cores} cores", few)
    few = "" if disk >= DISK else f"at least {DISK:g} are needed; give --store on another disk"
    yield Check(not few, f"{disk:.0f} GiB of disk free at {there}", few)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
