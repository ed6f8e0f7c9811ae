"""What `prepare` has seen and a user should know: what was left out, what no task names, what looks odd."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.store import Store
from federation.contract import Dataset, Federation, Site
from federation.site_trials import SiteTrials
from mfscsn.common_space import positions

PACE = 0.1  # cues further apart or closer than in a subject's other recordings, as a share
MOTOR, NEAR = ("C3", "C4"), 0.6  # where hands are imagined, and how far off still sees it: radians, two neighbours
AMPLITUDE = 10.0  # times the other recordings of a data set


def remarks(federation: Federation, store: Path) -> list[str]:
    """List what a user should know of prepared recordings, a line each.

    Parameters
    ----------
    federation : Federation
    store : Path
        The folder of stores.
    """
    lines: list[str] = []
    for site in federation.site:
        for dataset in site.dataset:
            opened = Store(dataset.recipe(federation.contract).folder(store))
            where = f"Site {site.name}, data set {dataset.name}"
            lines += [f"{where}: {line}." for line in _of_dataset(opened, dataset)]
        lines += odd_paces(federation, site, store)
        lines += _one_class(federation, site, store)
    return lines + list(_of_headsets(federation, store))


def _of_headsets(federation: Federation, store: Path) -> Iterator[str]:
    """Say which headsets see little of the common space."""
    electrodes = federation.contract.space
    if not electrodes:
        return
    most = 0
    for site in federation.site:
        for dataset in site.dataset:
            opened = Store(dataset.recipe(federation.contract).folder(store))
            channels = opened.trials((dataset.subjects or opened.subjects())[0]).channels
            most = max(most, len(channels))
            if (seen := little_seen(channels)) is not None:
                yield f"Site {site.name}, data set {dataset.name}: {seen}."
    if len(electrodes) > most:
        yield (
            f"The common space has {len(electrodes)} electrodes, and no headset more than {most} channels: what none of"
            " them sees is 0."
        )


def little_seen(channels: Sequence[str]) -> str | None:
    """Say where a headset has no electrode and a hand's imagery shows; None where it has them."""
    nearness = positions(channels) @ positions(MOTOR).T
    missing = [name for name, best in zip(MOTOR, nearness.max(axis=0), strict=True) if best < np.cos(NEAR)]
    if not missing:
        return None
    where = " and ".join(missing)
    return f"no electrode near {where}; of what a hand's imagery changes there, the common layers will see little"


def odd_paces(federation: Federation, site: Site, store: Path) -> Iterator[str]:
    """Name recordings whose cues come faster or slower than in the subject's others."""
    for dataset in site.dataset:
        try:
            opened = Store(dataset.recipe(federation.contract).folder(store))
            intervals = {name: opened.cue_intervals(name) for name in dataset.subjects or opened.subjects()}
        except InputError:  # said elsewhere
            return
        for subject, of_run in intervals.items():
            usual = float(np.median(list(of_run.values()))) if of_run else 0.0
            odd = {name: seconds for name, seconds in of_run.items() if abs(seconds / usual - 1) > PACE}
            if odd:
                shown = ", ".join(f"{name.strip('/')} ({seconds:.2f} s)" for name, seconds in odd.items())
                yield (
                    f"Site {site.name}, subject {subject}: cues are usually {usual:.2f} s apart, but not in {shown}."
                    " Another paradigm, or a recording whose effective sampling rate is off."
                )


def _of_dataset(store: Store, dataset: Dataset) -> Iterator[str]:
    subjects = dataset.subjects or store.subjects()
    unused = sum((Counter(store.unused(subject)) for subject in subjects), Counter[str]())
    if unused:
        yield "annotations that no task names: " + ", ".join(
            f"{name} {count}" for name, count in sorted(unused.items())
        )
    amplitudes = {(subject, run): found for subject in subjects for run, found in store.amplitudes(subject).items()}
    usual = float(np.median(list(amplitudes.values()))) if amplitudes else 0.0
    for (subject, run), found in amplitudes.items():
        if not usual / AMPLITUDE <= found <= usual * AMPLITUDE:
            yield (
                f"subject {subject}, {run.strip('/') or 'its recording'}: channels deviate by {found:.3g} microvolts"
                f" where other recordings have {usual:.3g}; is the unit right"
            )
    for subject in subjects:
        for note, count in store.notes(subject).items():
            yield f"subject {subject}: {note}" + (f" ({count} recordings)" if count > 1 else "")


def _one_class(federation: Federation, site: Site, store: Path) -> Iterator[str]:
    opened = SiteTrials(site, federation.contract, store)
    for dataset in site.dataset:
        for target in dataset.targets:
            trials = opened.training_of(dataset.name, target)
            classes = sorted(set(trials.labels.tolist())) if trials is not None else []
            if len(classes) == 1:
                yield (
                    f"Site {site.name}, data set {dataset.name}, target {target}: the calibration holds trials of"
                    f" {classes[0]} alone; name more trials, or runs that hold all tasks."
                )
