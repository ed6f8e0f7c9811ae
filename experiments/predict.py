"""Predict: probabilities for the cued trials of recordings whose labels nobody knows, by one site's model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, nearest
from data.files import write_csv
from data.preprocessing import Recording, cut_trials
from data.sources import open_source
from data.store import Store
from data.trials import Trials, concatenate
from experiments.alone import LinearSite
from experiments.evaluate import local_network
from federation.contract import Contract, Dataset, Site
from federation.run_folder import RunFolder
from federation.site_scores import fine_tuned
from federation.site_trials import Target, branch_name
from mfscsn.inputs import Reference
from mfscsn.training import BranchTrials, predict


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


class FederatedModel:
    """A site's network of a finished federation.

    Parameters
    ----------
    run : RunFolder
    site_name : str

    Raises
    ------
    InputError
        For a site that is not in the run, or that has no layers of it.
    """

    def __init__(self, run: RunFolder, site_name: str):
        self.network = run.load_network(site_name)
        self.run, self.site = run, next(site for site in run.federation.site if site.name == site_name)

    def answers(self, target: Target, trials: Trials, own: Trials | None) -> NDArray[np.float64]:
        """Return probabilities ``(n_trials, n_outputs)``.

        Parameters
        ----------
        target : Target
            The trials as the network takes them.
        trials : Trials
            The same as recorded.
        own : Trials, optional
            What trains of the subject, if the site has any.
        """
        network = self.network
        dataset = next(dataset for dataset in self.site.dataset if dataset.name == target.dataset)
        if target.subject in dataset.targets:
            network = fine_tuned(self.run.federation, self.run.trials(self.site), network, target)
        return predict(network, target.signals, target.branch)


class OwnModel(FederatedModel):
    """What a site has without sharing: `local-site` of `experiments.evaluate`."""

    def __init__(self, run: RunFolder, site_name: str):
        super().__init__(run, site_name)
        self.network = local_network(run, self.site)
        self.linear = LinearSite(self.site, run.federation.contract, run.store)

    def answers(self, target: Target, trials: Trials, own: Trials | None) -> NDArray[np.float64]:
        """As of `FederatedModel`: the mean of what the two say."""
        opened, pooled = self.linear.opened, self.linear.pooled[target.branch]
        reference = aligned_by(opened.contract, trials, own)
        vectors = replace(target, signals=reference.inputs(trials.signals, follow=own is not None))
        nothing = BranchTrials(pooled.signals[:0], pooled.labels[:0], pooled.names)
        calibration = opened.calibration(target.subject).get((target.dataset, target.subject), nothing)
        return (super().answers(target, trials, own) + self.linear.of_site(vectors, calibration)) / 2


def aligned_by(contract: Contract, trials: Trials, own: Trials | None) -> Reference:
    """Fit the alignment on what trains of a subject or, where the site has nothing of it, on the trials themselves."""
    return contract.alignment_model.fit(trials.signals if own is None else own.signals, trials.channels)


def predict_recordings(
    model: FederatedModel, source: str, cues: Sequence[str], subjects: Sequence[str] | None = None
) -> Iterator[SubjectPredictions]:
    """Predict each subject's trials with a site's model.

    Parameters
    ----------
    model : FederatedModel
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
    run, site = model.run, model.site
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
        yield _predict(model, dataset, subject, concatenate(parts))


def _predict(model: FederatedModel, dataset: Dataset, subject: str, trials: Trials) -> SubjectPredictions:
    run, site = model.run, model.site
    contract, names = run.federation.contract, dataset.labels(run.federation.contract)
    opened = run.trials(site)
    own = opened.training_of(dataset.name, subject)
    if own is not None and not len(own):  # its calibration was shown without labels
        own = None
    if own is None and site.branch_by == "subject":
        raise InputError(f"site {site.name!r} has layers for each subject, and none for {subject!r}; `mfscsn adopt` it")
    reference = aligned_by(contract, trials, own)
    target = Target(
        dataset=dataset.name,
        subject=subject,
        branch=branch_name(site, dataset, subject),
        signals=reference.inputs(trials.signals, follow=own is not None),
        labels=np.full(len(trials), -1),
        outputs=np.arange(len(names)),
    )
    return SubjectPredictions(subject, trials, model.answers(target, trials, own), names, own is not None)


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
