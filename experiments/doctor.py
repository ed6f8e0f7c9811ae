"""`mfscsn doctor`: look at this machine before a run does; a line a finding, with what to do."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from data.errors import InputError, printable
from data.sources import open_source
from data.store import check_tasks
from experiments.prepare import subjects_of
from federation.contract import load_federation

EXTRAS = ("federation", "deployment", "privacy", "online", "benchmark")
TRIED = {  # packages with compiled parts, each behind those that it builds on, and the module that loads them
    "numpy": "numpy",
    "scipy": "scipy.signal",
    "scikit-learn": "sklearn",
    "torch": "torch",
    "torchaudio": "torchaudio",
    "mne": "mne",
    "braindecode": "braindecode.models",
    "flwr": "flwr.app",
}
TRY = """
import importlib, sys, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        why = ""
    except BaseException as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    print(name, why, sep="\\t", flush=True)
"""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "MNE_LOGGING_LEVEL": "ERROR"}
MEMORY, DISK = 4.0, 10.0  # GiB, below which the demonstration or an installation has failed


@dataclass(frozen=True)
class Check:
    """One thing looked at: in order or not, what was seen, and what to do where it is not."""

    good: bool
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        return printable(
            f"{'ok   ' if self.good else 'wrong'} {self.seen}" + (f"; {self.remedy}" if self.remedy else "")
        )


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
    yield from _packages()
    yield from _imports()
    for what, folder in (("prepared trials", store), ("runs", runs)):
        yield _writable(what, folder)
    if federation is not None:
        yield from _recordings(federation, data_root)
    for port in ports:
        yield _port(port)
    yield from _room(store)


def _packages() -> Iterator[Check]:
    """Compare what is installed with what mfscsn asks for; an extra of which nothing is missing counts as installed."""
    wrong, lacking = [], []
    for extra in ("", *EXTRAS):
        missing = [r for r in _asked(extra) if _installed(r.name) is None]
        if extra and missing:
            lacking.append(extra)
            continue
        for requirement in missing:
            wrong.append(f"{requirement.name} is missing, expected {requirement.specifier}")
        for requirement in _asked(extra):
            installed = _installed(requirement.name)
            if installed is not None and not requirement.specifier.contains(installed, prereleases=True):
                wrong.append(f"{requirement.name} {installed}, expected {requirement.specifier}")
    for line in dict.fromkeys(wrong):
        yield Check(False, line, "pip install --upgrade 'mfscsn[all]' in an environment of its own")
    if not wrong:
        without = f"; without the extras {', '.join(lacking)} (pip install 'mfscsn[NAME]')" * bool(lacking)
        yield Check(True, f"mfscsn {version('mfscsn')} and all packages that it asks for{without}")


def _asked(extra: str) -> list[Requirement]:
    """List what an extra asks for, its own extras' included; "" is the base install."""
    found = []
    for requirement in map(Requirement, requires("mfscsn") or []):
        marker = requirement.marker
        if (marker is not None and not marker.evaluate({"extra": extra})) or (extra and marker is None):
            continue
        if requirement.name == "mfscsn":
            found += [r for inner in requirement.extras for r in _asked(inner)]
        else:
            found.append(requirement)
    return found


def _imports() -> Iterator[Check]:
    """Import, in a process of its own, what has compiled parts: packages that do not fit one another fail here."""
    there = {name: module for name, module in TRIED.items() if find_spec(module.partition(".")[0]) is not None}
    words, environment = [sys.executable, "-P", "-c", TRY, *there.values()], {**os.environ, **QUIET}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    told = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    # Of a module without a line the process has died, and those behind it were not tried
    faults = {
        name: told.get(module, f"its import ended Python with {done.returncode}") for name, module in there.items()
    }
    faults = {name: why for name, why in faults.items() if why}
    seen = ", ".join(f"{name} {_installed(name)}" for name in there)
    if not faults:
        yield Check(True, f"imported: {seen}")
        return
    name = next(iter(faults))  # what comes behind it may fail for its sake
    pair = ("torch", "torchaudio") if name in ("torchaudio", "braindecode") else (name,)
    of = "benchmark" if len(pair) > 1 else "all"
    asked = {r.name: f"'{r.name}{r.specifier}'" for r in [*_asked(""), *_asked(of)] if r.name in pair}
    what = " and ".join(f"{package} {_installed(package)}" for package in pair) + " do not fit" * (len(pair) > 1)
    yield Check(
        False,
        f"{what}: {name} cannot be imported ({faults[name]})",
        f"pip install --force-reinstall {' '.join(asked.values())}",
    )


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
    memory = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(there).free / 2**30
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
