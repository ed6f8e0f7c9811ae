"""Prepare all sites of a federation: the only step that imports MNE and MOABB."""

from collections.abc import Callable
from pathlib import Path

from data.errors import InputError, nearest
from data.sources import Source, open_source
from data.store import Store, prepare
from federation.contract import Dataset, Federation, Site
from federation.site_trials import SiteTrials


def prepare_sites(
    federation: Federation, store: Path, progress: Callable[[str, str, int, int], None] = lambda *_: None
) -> Federation:
    """Bring every site's store up to date and check that its split fits.

    Parameters
    ----------
    federation : Federation
    store : Path
        The folder of stores.
    progress : callable
        Called with site, what was done ("kept" or "prepared"), subjects done, subjects in all.

    Returns
    -------
    Federation
        The same, with every data set's subjects named: what a run freezes.

    Raises
    ------
    InputError
        One line that names the site.
    """
    sites = []
    for site in federation.site:
        datasets = []
        for dataset in site.dataset:
            try:
                subjects = _prepare(federation, site, dataset, store, progress)
            except InputError as error:
                raise InputError(f"site {site.name!r}: {error}") from error
            datasets.append(dataset.model_copy(update={"subjects": subjects}))
        sites.append(site.model_copy(update={"dataset": datasets}))
        SiteTrials(sites[-1], federation.contract, store).check()
    prepared = federation.model_copy(update={"site": sites})
    _check_targets_apart(prepared, store)
    return prepared


def _check_targets_apart(federation: Federation, store: Path) -> None:
    """Raise InputError when a target's recordings are used elsewhere too, where its test trials would train.

    Recordings are compared, not what their sources are called: one folder has many names.
    """
    uses: dict[str, list[tuple[Site, Dataset, str]]] = {}
    for site in federation.site:
        for dataset in site.dataset:
            opened = Store(dataset.recipe(federation.contract).folder(store))
            for subject in dataset.subjects or []:
                for mark in opened.marks(subject):
                    uses.setdefault(mark, []).append((site, dataset, subject))
    for of_recordings in uses.values():
        for site, dataset, subject in of_recordings:
            for other_site, other, name in of_recordings:
                alike = name in other.targets and (other.calibration, other.test) == (dataset.calibration, dataset.test)
                if subject in dataset.targets and (other is not dataset or name != subject) and not alike:
                    raise InputError(
                        f"site {site.name!r}, data set {dataset.name!r}: target {subject!r} is also subject {name!r} of"
                        f" data set {other.name!r} at site {other_site.name!r}, where its test trials would train;"
                        " leave it out there with subjects = [...], or give both the same targets and calibration"
                    )


def _prepare(
    federation: Federation,
    site: Site,
    dataset: Dataset,
    store: Path,
    progress: Callable[[str, str, int, int], None],
) -> list[str]:
    source = open_source(dataset.source, dataset.options)
    subjects = subjects_of(source, dataset)
    done = iter(range(1, len(subjects) + 1))
    prepare(
        dataset.recipe(federation.contract),
        store,
        source,
        subjects,
        lambda subject, what: progress(site.name, what, next(done), len(subjects)),
    )
    return subjects


def subjects_of(source: Source, dataset: Dataset) -> list[str]:
    """List the subjects that a data set uses; raise InputError for one that its source does not have."""
    known = source.subjects()
    for name in [*(dataset.subjects or []), *dataset.targets, *dataset.without]:
        if name not in known:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise InputError(f"{dataset.source}: no such subject {name!r}{nearest(name, known)}; there are {shown}")
    used = dataset.used(known)
    if not used:
        raise InputError(f"{dataset.source}: without = {dataset.without} leaves no subject; take the data set out")
    return used
