"""Predict: probabilities for the cued trials of recordings whose labels nobody knows, by one site's trained network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, nearest
from data.files import write_csv
from data.preprocessing import Recording, cut_trials
from data.sources import open_source
from data.store import Store
from data.trials import Trials, concatenate
from federation.contract import Dataset, Site
from federation.run_folder import RunFolder
from federation.site_scores import fine_tuned
from federation.site_trials import Target, branch_name
from mfscsn.network import SplitModule
from mfscsn.training import predict


@dataclass(frozen=True)
class SubjectPredictions:
    """One subject's trials.

    Parameters
    ----------
    subject : str
    trials : Trials
        Their labels are the cues that they were cut at.
    probabilities : array, shape (n_trials, n_outputs)
    names : tuple of str
        Of the outputs.
    known : bool
        The subject is the site's own: aligned by its training trials. Else by the given trials themselves, all at once.
    """

    subject: str
    trials: Trials
    probabilities: NDArray[np.float64]
    names: tuple[str, ...]
    known: bool


def predict_recordings(
    run: RunFolder, site_name: str, source: str, cues: Sequence[str], subjects: Sequence[str] | None = None
) -> Iterator[SubjectPredictions]:
    """Predict each subject's trials with a site's network.

    Parameters
    ----------
    run : RunFolder
        Finished.
    site_name : str
    source : str
        As `data.sources.open_source` takes it.
    cues : sequence of str
        Annotations at which trials are cut; what they are called does not matter.
    subjects : sequence of str, optional
        All of the source when left out.

    Raises
    ------
    InputError
        One line that names the subject or file.
    """
    network = run.load_network(site_name)
    site = next(site for site in run.federation.site if site.name == site_name)
    opened = open_source(source)
    there = opened.subjects()
    for subject in subjects or there:
        if subject not in there:
            raise InputError(f"{source}: no such subject {subject!r}{nearest(subject, there)}")
        parts: list[Trials] = []
        seen: set[str] = set()
        dataset: Dataset | None = None
        for recording in opened.recordings(subject):
            seen |= recording.annotations()
            dataset, channels = _fitting(run, site, recording)
            part = cut_trials(recording, run.federation.contract.preprocessing, {c: c for c in cues}, subject, channels)
            parts += [part] if len(part) else []
        if dataset is None or not parts:
            known = sorted(seen)
            raise InputError(f"{source}: subject {subject!r} has no trial at the cues {list(cues)}; there are {known}")
        yield _predict(run, site, dataset, network, subject, concatenate(parts))


def _predict(
    run: RunFolder, site: Site, dataset: Dataset, network: SplitModule, subject: str, trials: Trials
) -> SubjectPredictions:
    contract, names = run.federation.contract, dataset.labels(run.federation.contract)
    opened = run.trials(site)
    own = opened.training_of(dataset.name, subject)
    if own is not None and not len(own):  # its calibration was shown without labels
        own = None
    if own is None and site.branch_by == "subject":
        raise InputError(f"site {site.name!r} has layers for each subject, and none for {subject!r}; `mfscsn adopt` it")
    reference = contract.alignment_model.fit(trials.signals if own is None else own.signals, trials.channels)
    target = Target(
        dataset=dataset.name,
        subject=subject,
        branch=branch_name(site, dataset, subject),
        signals=reference.inputs(trials.signals, follow=own is not None),
        labels=np.full(len(trials), -1),
        outputs=np.arange(len(names)),
    )
    if subject in dataset.targets:
        network = fine_tuned(run.federation, opened, network, target)
    return SubjectPredictions(subject, trials, predict(network, target.signals, target.branch), names, own is not None)


def write_predictions(path: Path, predictions: Sequence[SubjectPredictions]) -> None:
    """Write a row a trial: session, run, its place in that, from 0 on, cue, probabilities, the likeliest."""
    names = list(dict.fromkeys(name for one in predictions for name in one.names))
    rows = []
    for one in predictions:
        t = one.trials
        counts: dict[tuple[str, str], int] = {}
        for k, probabilities in enumerate(one.probabilities):
            where = str(t.sessions[k]), str(t.runs[k])
            counts[where] = counts.get(where, -1) + 1
            by_name = dict(zip(one.names, probabilities, strict=True))
            shown = [f"{by_name[name]:.6f}" if name in by_name else "" for name in names]
            likeliest = one.names[int(probabilities.argmax())]
            rows.append([one.subject, *where, counts[where], t.labels[k], *shown, likeliest])
    write_csv(path, ["subject", "session", "run", "trial", "cue", *(f"p_{name}" for name in names), "predicted"], rows)


def _fitting(run: RunFolder, site: Site, recording: Recording) -> tuple[Dataset, tuple[str, ...]]:
    """Find the site's data set of the same headset, and its channels; raise InputError that names what is missing."""
    wanted: tuple[str, ...] = ()
    for dataset in site.dataset:
        store = Store(dataset.recipe(run.federation.contract).folder(run.store))
        wanted = store.trials((dataset.subjects or store.subjects())[0]).channels
        if set(wanted) <= set(recording.raw.ch_names):
            return dataset, wanted
    missing = [name for name in wanted if name not in recording.raw.ch_names]
    raise InputError(
        f"{recording.where}: has no channel {', '.join(missing)}, which site {site.name!r} was trained on;"
        " `mfscsn adopt` trains first layers for another headset"
    )
